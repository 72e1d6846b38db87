/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The session with the host over org.uio.channel: finding SYNC, taking frames
 * apart by a table of what is allowed, and sending. What frames are about is the
 * subject of channel_exec.c (commands, images), channel_symq.c and channel_hello.c.
 */
#include "channel.h"

#include <errno.h>
#include <stdio.h>

#include "channel_frames.h"
#include "context.h"
#include "hostport.h"
#include "overlay.h"

#define RX_SIZE     4096u
#define POLL_BUDGET (64u * 1024) /* bytes taken in before others have their turn */
#define LOG_PER_S   (64u * 1024)
#define TOLD_MAX    64u /* GONE and LOG that wait for room: more are dropped */
#define SYNC_MAGIC  "\x00uIO\xffSYN"
#define SYNC_SIZE   16u
#define HEADER_SIZE sizeof(struct uio_frame)

struct posted {
	struct posted *next;
	struct uio_frame frame; /* its payload follows */
};

/* Bytes of answers that wait for room: the largest may. With more, the next questions wait too. */
#define ANSWERS_MAX (UIO_FRAME_MAX + sizeof(struct posted))

static struct {
	bool synced;
	uint64_t nonce;
	uint32_t session;
	unsigned int generation; /* of the host port */
	uint64_t features;
	/* bytes read from the port and not yet looked at */
	uint8_t rx[RX_SIZE];
	size_t rx_at, rx_len;
	/* the frame being received: while unsynchronised, a sliding window */
	uint8_t head[HEADER_SIZE + SYNC_SIZE];
	size_t head_len;
	struct uio_frame frame;
	const struct kind *kind; /* NULL: between frames */
	uint8_t *payload;
	uint32_t got;
	/* to be sent by the context */
	struct posted *posted, **posted_end;
	unsigned int told_count; /* of them, GONE and LOG */
	size_t answer_bytes;     /* and the others */
	/* LOG: token bucket */
	uint64_t log_ns;
	uint32_t log_tokens, log_dropped;
} ch;

uint32_t uio_channel_session(void)
{
	return ch.session;
}

bool uio_channel_synced(void)
{
	return ch.synced;
}

void uio_channel_feature(uint64_t bits)
{
	ch.features |= bits;
}

uint64_t uio_channel_features(void)
{
	return ch.features;
}

/* ---- sending ---- */

static unsigned int add_frame(struct uio_sg pieces[2], const struct uio_frame *f,
			      const void *payload)
{
	pieces[0] = (struct uio_sg){(void *)(uintptr_t)f, HEADER_SIZE};
	pieces[1] = (struct uio_sg){(void *)(uintptr_t)payload, f->length};
	return f->length != 0 ? 2 : 1;
}

static int send_frame(const struct uio_frame *f, const void *payload)
{
	struct uio_sg pieces[2];
	unsigned int n = add_frame(pieces, f, payload);

	return uio_hostport_send(UIO_HOSTPORT_CHANNEL, pieces, n, false);
}

static struct uio_frame make_frame(uint8_t type, uint32_t id, uint32_t arg, size_t len)
{
	return (struct uio_frame){
		.length = (uint32_t)len,
		.magic = UIO_FRAME_MAGIC,
		.type = type,
		.id = id,
		.arg = arg,
	};
}

static bool is_told(const struct uio_frame *f)
{
	return f->type == UIO_FRAME_GONE || f->type == UIO_FRAME_LOG;
}

static void append(struct posted *p)
{
	p->next = NULL;
	*ch.posted_end = p;
	ch.posted_end = &p->next;
	if (is_told(&p->frame))
		ch.told_count++;
	else
		ch.answer_bytes += sizeof(*p) + p->frame.length;
}

static void take_first(void)
{
	struct posted *p = ch.posted;

	ch.posted = p->next;
	if (ch.posted == NULL)
		ch.posted_end = &ch.posted;
	if (is_told(&p->frame))
		ch.told_count--;
	else
		ch.answer_bytes -= sizeof(*p) + p->frame.length;
	uio_port_free(p);
}

bool uio_channel_post(uint8_t type, uint32_t id, uint32_t arg, const void *payload, size_t len)
{
	struct uio_frame f = make_frame(type, id, arg, len);

	if (ch.posted == NULL) {
		ch.posted_end = &ch.posted;
		int err = send_frame(&f, payload);
		if (err != -EAGAIN)
			return err >= 0;
	}
	struct posted *p = uio_port_alloc(sizeof(*p) + len);
	if (p == NULL)
		return false;
	p->frame = f;
	if (len != 0)
		memcpy(p + 1, payload, len);
	append(p);
	return true;
}

static void drop_posted(void)
{
	while (ch.posted != NULL)
		take_first();
}

static void flush_posted(void)
{
	while (ch.posted != NULL && send_frame(&ch.posted->frame, ch.posted + 1) != -EAGAIN)
		take_first();
}

static int send_waiting(uint32_t session, const struct uio_sg *pieces, unsigned int n)
{
	if (session != ch.session || !ch.synced)
		return -EPIPE;
	int err = uio_hostport_send(UIO_HOSTPORT_CHANNEL, pieces, n, false);
	/* Who waited may find a new session: its frame must not get into that. */
	while (err == -EAGAIN) {
		err = uio_hostport_wait(UIO_HOSTPORT_CHANNEL);
		if (err < 0)
			return err;
		if (session != ch.session)
			return -EPIPE;
		err = uio_hostport_send(UIO_HOSTPORT_CHANNEL, pieces, n, false);
	}
	return err;
}

int uio_channel_send(uint32_t session, uint8_t type, uint32_t id, uint32_t arg, const void *payload,
		     size_t len)
{
	struct uio_frame f = make_frame(type, id, arg, len);
	struct uio_sg pieces[2];

	return send_waiting(session, pieces, add_frame(pieces, &f, payload));
}

int uio_channel_send_end(uint32_t session, uint32_t id, const void *out, size_t out_len,
			 uint32_t kind, const void *payload, size_t len)
{
	struct uio_frame data = make_frame(UIO_FRAME_DATA, id, 1, out_len);
	struct uio_frame end = make_frame(UIO_FRAME_EXIT, id, kind, len);
	struct uio_sg pieces[4];
	unsigned int n = out_len != 0 ? add_frame(pieces, &data, out) : 0;

	return send_waiting(session, pieces, n + add_frame(pieces + n, &end, payload));
}

void uio_channel_gone(const uint8_t hash[32])
{
	if (ch.synced && ch.told_count < TOLD_MAX)
		uio_channel_post(UIO_FRAME_GONE, 0, 0, hash, 32);
}

void uio_channel_log(int level, const char *text, size_t len)
{
	if (!ch.synced)
		return;

	uint64_t now = uio_port_ns();
	uint64_t fresh = (now - ch.log_ns) / 1000 * LOG_PER_S / 1000000;
	if (fresh > 0) {
		ch.log_ns = now;
		ch.log_tokens = fresh + ch.log_tokens > LOG_PER_S ? LOG_PER_S
								  : ch.log_tokens + (uint32_t)fresh;
	}
	if (ch.log_tokens < len + 64 || ch.posted != NULL) {
		ch.log_dropped++;
		return;
	}
	if (ch.log_dropped != 0) {
		char note[64];
		int n = snprintf(note, sizeof(note), "%u log lines were dropped",
				 (unsigned int)ch.log_dropped);
		ch.log_dropped = 0;
		ch.log_tokens -= (uint32_t)n;
		uio_channel_post(UIO_FRAME_LOG, 0, 4, note, (size_t)n);
	}
	ch.log_tokens -= (uint32_t)len;
	uio_channel_post(UIO_FRAME_LOG, 0, (uint32_t)level, text, len);
}

/* ---- sessions ---- */

static void end_session(void)
{
	ch.synced = false;
	ch.session++;
	uio_port_free(ch.payload);
	ch.payload = NULL;
	ch.kind = NULL;
	ch.head_len = 0;
	drop_posted();
	uio_console_resize(0, 0);
	uio_channel_exec_reset();
	uio_channel_symq_reset();
}

void uio_channel_broken(const char *why)
{
	uio_log(4, "the host broke the channel's protocol: %s", why);
	end_session();
	uio_channel_post(UIO_FRAME_RESET, 0, 0, why, strlen(why));
}

static void take_sync(uint64_t nonce)
{
	if (!ch.synced || nonce != ch.nonce) {
		end_session();
		ch.nonce = nonce;
		ch.synced = true;
		ch.log_tokens = LOG_PER_S;
		ch.log_ns = uio_port_ns();
	}
	uio_channel_hello(ch.nonce, ch.features);
}

/* ---- what frames do, apart from commands ---- */

static bool frame_sync(const struct uio_frame *f, uint8_t *payload)
{
	uint64_t nonce;

	(void)f;
	if (memcmp(payload, SYNC_MAGIC, 8) != 0) {
		uio_channel_broken("SYNC without its magic");
		return false;
	}
	memcpy(&nonce, payload + 8, 8);
	take_sync(nonce);
	return true;
}

static bool frame_ping(const struct uio_frame *f, uint8_t *payload)
{
	uio_channel_post(UIO_FRAME_PONG, f->id, f->arg, payload, f->length);
	return true;
}

static bool frame_reset(const struct uio_frame *f, uint8_t *payload)
{
	uio_log(4, "the host has reset the channel: %.*s", (int)(f->length > 160 ? 160 : f->length),
		payload != NULL ? (const char *)payload : "");
	end_session();
	return false;
}

/* ---- the table of frames the host may send ---- */

struct kind {
	uint8_t type;
	uint8_t min; /* bytes of payload */
	uint32_t max;
	bool (*whole)(const struct uio_frame *f, uint8_t *payload);
	bool (*begin)(const struct uio_frame *f);
	void (*bytes)(const struct uio_frame *f, const uint8_t *bytes, size_t len);
};

static const struct kind kinds[] = {
	{UIO_FRAME_SYNC, SYNC_SIZE, SYNC_SIZE, frame_sync, NULL, NULL},
	{UIO_FRAME_PING, 0, UIO_FRAME_MAX, frame_ping, NULL, NULL},
	{UIO_FRAME_RESET, 0, UIO_FRAME_MAX, frame_reset, NULL, NULL},
	{UIO_FRAME_EXEC, 52, UIO_FRAME_MAX, uio_frame_exec, NULL, NULL},
	{UIO_FRAME_IMAGE, 1, UIO_FRAME_MAX, NULL, uio_frame_image_begin, uio_frame_image_bytes},
	{UIO_FRAME_CANCEL, 0, 0, uio_frame_cancel, NULL, NULL},
	{UIO_FRAME_WINSIZE, 0, 0, uio_frame_winsize, NULL, NULL},
	{UIO_FRAME_DATA, 0, UIO_FRAME_MAX, NULL, uio_frame_data_begin, uio_frame_data_bytes},
	{UIO_FRAME_CREDIT, 4, 4, uio_frame_credit, NULL, NULL},
	{UIO_FRAME_SYMR, 0, UIO_FRAME_MAX, uio_frame_symr, NULL, NULL},
	{UIO_FRAME_LISTQ, 0, 0, uio_frame_listq, NULL, NULL},
	{UIO_FRAME_UNLOAD, 32, 32, uio_frame_unload, NULL, NULL},
};

static const struct kind *find_kind(uint8_t type)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (kinds[i].type == type)
			return &kinds[i];
	return NULL;
}

static bool broken(const char *what, const struct uio_frame *f)
{
	char why[96];

	snprintf(why, sizeof(why), "%s: type 0x%02x, length %u, id %u", what, f->type,
		 (unsigned int)f->length, (unsigned int)f->id);
	uio_channel_broken(why);
	return false;
}

/* ---- receiving ---- */

/* Could these bytes be the beginning of a SYNC? */
static bool sync_prefix(const uint8_t *p, size_t len)
{
	static const uint8_t pattern[] = "\x10\0\0\0\x75\x49\x01\0\0\0\0\0....\0uIO\xffSYN";

	for (size_t i = 0; i < len && i < sizeof(pattern) - 1; i++)
		if (p[i] != pattern[i] && (i < 12 || i >= 16))
			return false;
	return true;
}

/* Unsynchronised: look for SYNC. Takes bytes one by one; how many. */
static size_t scan(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		ch.head[ch.head_len++] = bytes[i];
		while (!sync_prefix(ch.head, ch.head_len))
			memmove(ch.head, ch.head + 1, --ch.head_len);
		if (ch.head_len == sizeof(ch.head)) {
			uint64_t nonce;
			memcpy(&nonce, ch.head + HEADER_SIZE + 8, 8);
			ch.head_len = 0;
			take_sync(nonce);
			return i + 1;
		}
	}
	return len;
}

static bool begin_frame(void)
{
	struct uio_frame *f = &ch.frame;

	memcpy(f, ch.head, HEADER_SIZE);
	ch.head_len = 0;
	if (f->magic != UIO_FRAME_MAGIC)
		return broken("wrong magic", f);
	const struct kind *kind = find_kind(f->type);
	if (kind == NULL)
		return broken("unknown frame", f);
	if (f->flags != 0)
		return broken("unknown flags", f);
	if (f->length < kind->min || f->length > kind->max)
		return broken("wrong length", f);
	if (kind->begin != NULL && !kind->begin(f))
		return false;
	if (kind->whole != NULL && f->length != 0) {
		ch.payload = uio_port_alloc(f->length + 1); /* room for a NUL */
		if (ch.payload == NULL)
			return broken("no memory for a frame", f);
	}
	ch.kind = kind;
	ch.got = 0;
	return true;
}

static void finish_frame(void)
{
	const struct kind *kind = ch.kind;
	uint8_t *payload = ch.payload;

	ch.kind = NULL;
	ch.payload = NULL;
	if (kind->whole != NULL)
		kind->whole(&ch.frame, payload);
	uio_port_free(payload);
}

/* Take bytes up to the end of at most one frame; how many. */
static size_t consume(const uint8_t *bytes, size_t len)
{
	size_t used = 0;

	if (!ch.synced)
		return scan(bytes, len);
	if (ch.kind == NULL) {
		used = HEADER_SIZE - ch.head_len < len ? HEADER_SIZE - ch.head_len : len;
		memcpy(ch.head + ch.head_len, bytes, used);
		ch.head_len += used;
		if (ch.head_len < HEADER_SIZE || !begin_frame())
			return used;
	}
	size_t n = ch.frame.length - ch.got < len - used ? ch.frame.length - ch.got : len - used;
	if (ch.payload != NULL)
		memcpy(ch.payload + ch.got, bytes + used, n);
	else if (n != 0)
		ch.kind->bytes(&ch.frame, bytes + used, n);
	ch.got += (uint32_t)n;
	if (ch.got == ch.frame.length)
		finish_frame();
	return used + n;
}

void uio_channel_poll(void)
{
	size_t budget = POLL_BUDGET;

	for (;;) {
		/* A new peer knows nothing of what the old one was in the middle of. */
		unsigned int generation = uio_hostport_generation(UIO_HOSTPORT_CHANNEL);
		bool connected = uio_hostport_connected(UIO_HOSTPORT_CHANNEL);
		if (generation != ch.generation || (!connected && ch.synced)) {
			ch.generation = generation;
			ch.rx_at = ch.rx_len = 0;
			end_session();
		}
		flush_posted();
		/*
		 * Answers alone, which the host asked for, hold it up. What it is told must not: it
		 * may be writing CREDIT before it reads on, and then each would wait for the other.
		 */
		if (ch.answer_bytes > ANSWERS_MAX)
			return;
		if (ch.rx_at == ch.rx_len) {
			ssize_t n = uio_hostport_read(UIO_HOSTPORT_CHANNEL, ch.rx, sizeof(ch.rx));
			if (n <= 0)
				return;
			ch.rx_at = 0;
			ch.rx_len = (size_t)n;
			if (generation != uio_hostport_generation(UIO_HOSTPORT_CHANNEL)) {
				ch.generation = uio_hostport_generation(UIO_HOSTPORT_CHANNEL);
				end_session();
			}
		}
		size_t used = consume(ch.rx + ch.rx_at, ch.rx_len - ch.rx_at);
		ch.rx_at += used;
		if (used >= budget) {
			uio_context_wake();
			return;
		}
		budget -= used;
	}
}
