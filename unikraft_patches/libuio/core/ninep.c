/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The 9P connection: version and attach when the host opens the port, tags,
 * fids, replies straight into the memory of who waits for them. When the port
 * closes, all that is under way ends with -EIO. The host's every byte is
 * checked; one that makes no sense ends the connection, and the next command
 * begins a new one.
 */

#include <errno.h>
#include <string.h>

#include "channel.h"
#include "file.h"
#include "hostport.h"
#include "ninep_session.h"

#define TAGS         64u
#define FIDS         128u
#define NOTAG        0xffffu
#define MSIZE_WANTED (512u * 1024)
#define MSIZE_LEAST  4096u
#define READY_NS     5000000000ull  /* how long a command waits for the connection */
#define REPLY_NS     30000000000ull /* and for a reply */

static const char version[] = "9P2000.L";

/* The least bytes of each reply's body: who reads fields relies on it. */
static uint32_t least_body(uint8_t type)
{
	switch (type) {
	case NINEP_RLERROR:
	case NINEP_TREAD + 1:
	case NINEP_TREADDIR + 1:
	case NINEP_TWRITE + 1:
		return 4;
	case NINEP_TSTATFS + 1:
		return 60;
	case NINEP_TLOPEN + 1:
	case NINEP_TLCREATE + 1:
		return 17;
	case NINEP_TGETATTR + 1:
		return 153;
	case NINEP_TMKDIR + 1:
	case NINEP_TATTACH + 1:
		return 13;
	case NINEP_TVERSION + 1:
		return 6;
	case NINEP_TWALK + 1:
		return 2;
	default:
		return 0;
	}
}

static bool brings_data(uint8_t type) /* of a reply */
{
	return type == NINEP_TREAD + 1 || type == NINEP_TREADDIR + 1;
}

enum state {
	DOWN,    /* the port is closed */
	START,   /* Tversion is to be sent */
	VERSION, /* and is answered next; everything else is thrown away */
	AGREED,  /* Tattach is to be sent */
	ATTACH,
	READY,
	BROKEN, /* the server made no sense, or does not want us */
};

struct fid {
	bool used, lost; /* lost: nobody has it, the server still may */
	bool known;      /* to the server */
	bool clunking;
	uint16_t under_way;
};

static struct {
	enum state state;
	unsigned int generation; /* of the port */
	uint32_t epoch, msize;
	bool wants_room; /* a thread waits for room in the port */
	bool lost_fids;
	uint64_t due; /* bytes of data that replies may still bring */
	struct ninep_request *tags[TAGS];
	struct ninep_request *hello; /* Tversion, Tattach */
	struct fid fids[FIDS];
	/* the message that is coming in */
	uint8_t head[NINEP_HEADER + 4];
	uint32_t have, size; /* bytes of it so far, in all */
	struct ninep_request *request;
} session;

static struct ninep_call *calls;

/* ---- who waits ---- */

static void wake_all(void)
{
	for (struct ninep_call *c = calls; c; c = c->next)
		uio_port_event_signal(c->wake);
}

/* The reply is there, or never will be. */
static void complete(struct ninep_request *r, int error)
{
	struct fid *fid = r->fid < FIDS ? &session.fids[r->fid] : NULL;

	if (r->sent) {
		session.tags[r->tag] = NULL;
		session.due -= brings_data(r->type + 1) ? r->asked : 0;
	}
	if (fid && r->sent && fid->under_way)
		fid->under_way--;
	if (fid && r->type == NINEP_TWALK && !error)
		fid->known = true;
	if (fid && r->type == NINEP_TCLUNK)
		*fid = (struct fid){0};
	r->error = error;
	r->done = true;
	if (r->call)
		uio_port_event_signal(r->call->wake);
	else
		uio_port_free(r);
}

static void fail_all(void)
{
	session.request = NULL;
	session.have = 0;
	for (unsigned int i = 0; i < TAGS; i++)
		if (session.tags[i])
			complete(session.tags[i], -EIO);
	uio_port_free(session.hello);
	session.hello = NULL;
	memset(session.fids, 0, sizeof(session.fids));
	session.lost_fids = false;
	session.epoch++;
	wake_all();
}

static void give_up(const char *why)
{
	uio_log(3, "uIO-fs: %s; the connection starts anew with the next command", why);
	fail_all();
	session.state = BROKEN;
}

/* ---- sending ---- */

static void seal(struct ninep_request *r, uint16_t tag, size_t more)
{
	uint32_t size = r->size + (uint32_t)more;

	memcpy(r->message, &size, sizeof(size));
	r->message[4] = r->type;
	memcpy(r->message + 5, &tag, sizeof(tag));
}

static int transmit(struct ninep_request *r, const void *data, size_t len)
{
	struct uio_sg pieces[2] = {{.addr = r->message, .len = r->size},
				   {.addr = (void *)(uintptr_t)data, .len = (uint32_t)len}};

	return uio_hostport_send(UIO_HOSTPORT_FS, pieces, len ? 2 : 1, false);
}

static struct ninep_request *request_new(uint8_t type, uint32_t fid, size_t body)
{
	size_t room = NINEP_HEADER + body;
	struct ninep_request *r = uio_port_alloc(sizeof(*r) + room);

	if (!r)
		return NULL;
	memset(r, 0, sizeof(*r));
	r->type = type;
	r->fid = fid;
	r->size = NINEP_HEADER;
	r->room = (uint32_t)room;
	return r;
}

/* Send without waiting: true if it is on its way. */
static bool try_send(struct ninep_request *r, const void *data, size_t len, int *rc)
{
	uint16_t tag = 0;

	*rc = 0;
	while (tag < TAGS && session.tags[tag])
		tag++;
	if (tag == TAGS)
		return false;
	seal(r, tag, len);
	*rc = transmit(r, data, len);
	if (*rc == -EAGAIN) {
		*rc = 0;
		return false;
	}
	if (*rc)
		return false;
	r->tag = tag;
	r->sent = true;
	session.tags[tag] = r;
	session.due += brings_data(r->type + 1) ? r->asked : 0;
	if (r->fid < FIDS)
		session.fids[r->fid].under_way++;
	return true;
}

/* ---- the beginning of a connection ---- */

/* Tversion and Tattach are the only messages then; they need no tag of the table. */
static bool hello_send(uint8_t type)
{
	struct ninep_request *r = request_new(type, NINEP_NOFID, 64);
	int rc;

	if (!r)
		return false;
	if (type == NINEP_TVERSION) {
		ninep_put32(r, MSIZE_WANTED);
		ninep_put_string(r, version, sizeof(version) - 1);
	} else {
		ninep_put32(r, NINEP_ROOT);
		ninep_put32(r, NINEP_NOFID);
		ninep_put_string(r, "guest", 5);
		ninep_put_string(r, "", 0);
		ninep_put32(r, 0);
	}
	seal(r, type == NINEP_TVERSION ? NOTAG : 0, 0);
	rc = transmit(r, NULL, 0);
	if (rc) {
		session.wants_room = true;
		uio_port_free(r);
		return false;
	}
	uio_port_free(session.hello);
	session.hello = r;
	return true;
}

static void start(void)
{
	if (session.state == START && hello_send(NINEP_TVERSION))
		session.state = VERSION;
	if (session.state == AGREED && hello_send(NINEP_TATTACH))
		session.state = ATTACH;
}

/* An answer to Tversion or Tattach. */
static void hello_reply(uint8_t type)
{
	struct ninep_request *r = session.hello;

	if (type == NINEP_RLERROR) {
		give_up("the host refuses the connection");
		return;
	}
	if (session.state == ATTACH) {
		session.state = READY;
		uio_port_free(r);
		session.hello = NULL;
		wake_all();
		return;
	}
	session.msize = (uint32_t)ninep_field(r, 0, 4);
	if (session.msize > MSIZE_WANTED || session.msize < MSIZE_LEAST ||
	    ninep_field(r, 4, 2) != sizeof(version) - 1 ||
	    r->reply_size != 6 + sizeof(version) - 1 ||
	    memcmp(r->reply + 6, version, sizeof(version) - 1) != 0) {
		give_up("the host speaks another version of 9P");
		return;
	}
	session.state = AGREED;
	start();
}

/* ---- receiving ---- */

static uint32_t le32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* While a version is awaited, what is left of an older connection is passed over, byte by byte. */
static bool is_version(const uint8_t *head)
{
	return head[4] == NINEP_TVERSION + 1 && head[5] == 0xff && head[6] == 0xff &&
	       le32(head) >= NINEP_HEADER + 6 && le32(head) <= NINEP_HEADER + 32;
}

/* The header is complete: whose reply it is. False: it makes no sense. */
static bool open_message(void)
{
	uint8_t type = session.head[4];
	uint16_t tag = (uint16_t)(session.head[5] | session.head[6] << 8);
	struct ninep_request *r = session.hello;
	uint32_t body, limit = NINEP_REPLY_MAX;

	session.size = le32(session.head);
	if (session.state == READY)
		r = tag < TAGS ? session.tags[tag] : NULL;
	else if (session.state == ATTACH && tag != 0)
		r = NULL;
	if (!r || session.size < NINEP_HEADER || (type != r->type + 1 && type != NINEP_RLERROR))
		return false;
	if (brings_data(type))
		limit = 4 + r->asked;
	body = session.size - NINEP_HEADER;
	if (body < least_body(type) || body > limit)
		return false;
	session.request = r;
	r->reply_size = 0;
	r->received = 0;
	return true;
}

/* Where the next bytes of the message go, and how many. */
static void *place(uint32_t *len)
{
	static uint8_t nowhere[512];
	struct ninep_request *r = session.request;
	uint32_t at = session.have - NINEP_HEADER, left = session.size - session.have;

	*len = left;
	if (!brings_data(session.head[4]))
		return r->reply + at;
	if (at < 4) {
		*len = 4 - at;
		return r->reply + at;
	}
	if (r->data)
		return (uint8_t *)r->data + (at - 4);
	if (*len > sizeof(nowhere))
		*len = sizeof(nowhere);
	return nowhere;
}

static int linux_error(uint32_t error)
{
	return error && error < 4096 ? -(int)error : -EIO;
}

/* The whole message is there. False: it makes no sense. */
static bool close_message(void)
{
	struct ninep_request *r = session.request;
	uint8_t type = session.head[4];
	uint32_t body = session.size - NINEP_HEADER;
	int error = 0;

	session.request = NULL;
	session.have = 0;
	r->reply_size = body < NINEP_REPLY_MAX ? body : NINEP_REPLY_MAX;
	if (type == NINEP_RLERROR) {
		error = linux_error((uint32_t)ninep_field(r, 0, 4));
	} else if (r->asked) {
		r->received = (uint32_t)ninep_field(r, 0, 4);
		if (brings_data(type) ? r->received != body - 4 : r->received > r->asked)
			return false;
	} else if (type == NINEP_TWALK + 1) {
		uint32_t n = (uint32_t)ninep_field(r, 0, 2);

		if (n > r->walked || body != 2 + 13 * n)
			return false;
		if (n < r->walked)
			error = -ENOENT;
	}
	if (r == session.hello)
		hello_reply(type);
	else
		complete(r, error);
	return true;
}

/* Take n bytes that have arrived at the place of place(), or in head. */
static void advance(uint32_t n)
{
	session.have += n;
	if (session.have == NINEP_HEADER && !session.request) {
		if (session.state == VERSION && !is_version(session.head)) {
			memmove(session.head, session.head + 1, NINEP_HEADER - 1);
			session.have = NINEP_HEADER - 1;
			return;
		}
		if (!open_message()) {
			give_up("the host sent what is no reply");
			return;
		}
	}
	if (session.request && session.have == session.size && !close_message())
		give_up("the host sent a reply that contradicts itself");
}

/* Bytes of data in what has come of the current message. */
static uint32_t data_of_message(void)
{
	bool some =
		session.request && brings_data(session.head[4]) && session.have > NINEP_HEADER + 4;

	return some ? session.have - NINEP_HEADER - 4 : 0;
}

static void receive(void)
{
	for (;;) {
		uint8_t nowhere[64];
		uint32_t len;
		void *to;
		ssize_t n;

		if (session.state == BROKEN || session.state == START || session.state == AGREED) {
			to = nowhere;
			len = sizeof(nowhere);
		} else if (session.request) {
			to = place(&len);
		} else {
			to = session.head + session.have;
			len = NINEP_HEADER - session.have;
		}
		uio_hostport_expect(UIO_HOSTPORT_FS, session.due - data_of_message());
		n = uio_hostport_read(UIO_HOSTPORT_FS, to, len);
		if (n <= 0)
			return;
		if (to != nowhere)
			advance((uint32_t)n);
	}
}

/* ---- fids ---- */

uint32_t uio_ninep_fid_new(void)
{
	for (uint32_t i = NINEP_ROOT + 1; i < FIDS; i++) {
		if (!session.fids[i].used) {
			session.fids[i] = (struct fid){.used = true};
			return i;
		}
	}
	return NINEP_NOFID;
}

static void clunk_lost(void)
{
	session.lost_fids = false;
	for (uint32_t i = NINEP_ROOT + 1; i < FIDS; i++) {
		struct fid *fid = &session.fids[i];
		struct ninep_request *r;
		int rc;

		if (!fid->used || !fid->lost || fid->clunking)
			continue;
		if (fid->under_way) {
			session.lost_fids = true;
			continue;
		}
		if (!fid->known || session.state != READY) {
			*fid = (struct fid){0};
			continue;
		}
		r = request_new(NINEP_TCLUNK, i, 4);
		if (r)
			ninep_put32(r, i);
		if (!r || !try_send(r, NULL, 0, &rc)) {
			uio_port_free(r);
			session.lost_fids = true; /* again when there is room, a tag, memory */
			session.wants_room = true;
			return;
		}
		fid->clunking = true;
	}
}

void uio_ninep_fid_drop(uint32_t epoch, uint32_t fid)
{
	if (epoch != session.epoch || fid == NINEP_ROOT || fid >= FIDS || !session.fids[fid].used)
		return; /* a connection takes its fids with it */
	session.fids[fid].lost = true;
	clunk_lost();
}

void uio_ninep_poll(void)
{
	bool connected = uio_hostport_connected(UIO_HOSTPORT_FS);
	unsigned int generation = uio_hostport_generation(UIO_HOSTPORT_FS);

	if (session.state != DOWN && (!connected || generation != session.generation)) {
		fail_all();
		session.state = DOWN;
	}
	if (!connected)
		return;
	if (session.state == DOWN) {
		session.generation = generation;
		session.state = START;
	}
	start();
	receive();
	if (session.lost_fids)
		clunk_lost();
	if (session.wants_room) {
		session.wants_room = false;
		wake_all();
	}
}

/* ---- calls ---- */

static bool must_end(const struct ninep_call *c)
{
	return c->x && uio_exec_stopping(c->x);
}

/* Wait for the context; what for is looked at again by the caller. */
static int pause_until(struct ninep_call *c, uint64_t end)
{
	uint64_t now = uio_port_ns(), until = end;

	if (must_end(c))
		return -EINTR;
	if (now >= end)
		return -EIO;
	if (c->x && c->x->deadline_ns < until)
		until = c->x->deadline_ns;
	uio_port_event_wait(c->wake, until > now ? until - now : 0);
	return 0;
}

int uio_ninep_begin(struct ninep_call *c)
{
	uint64_t end = uio_port_ns() + READY_NS;
	int rc = 0;

	*c = (struct ninep_call){.thread = uio_port_thread_self(), .x = uio_exec_self()};
	uio_port_event_init(&c->own);
	c->wake = c->x ? &c->x->wake : &c->own;
	c->next = calls;
	calls = c;
	if (session.state == BROKEN) {
		session.state = START;
		start();
	}
	while (!rc && session.state != READY)
		rc = session.state == DOWN || session.state == BROKEN ? -EIO : pause_until(c, end);
	c->epoch = session.epoch;
	if (rc)
		uio_ninep_end(c);
	return rc;
}

static void orphan(struct ninep_call *c)
{
	struct ninep_request *next;

	for (struct ninep_request *r = c->requests; r; r = next) {
		next = r->next;
		r->call = NULL;
		r->data = NULL;
		if (r->done || !r->sent)
			uio_port_free(r);
	}
	c->requests = NULL;
}

void uio_ninep_end(struct ninep_call *c)
{
	struct ninep_call **at = &calls;

	orphan(c);
	while (*at && *at != c)
		at = &(*at)->next;
	if (*at)
		*at = c->next;
}

void uio_ninep_lasting(struct ninep_call *c)
{
	*c = (struct ninep_call){.epoch = session.epoch, .lasting = true, .next = calls};
	uio_port_event_init(&c->own);
	c->wake = &c->own;
	calls = c;
}

void uio_ninep_lend(struct ninep_call *c, const struct ninep_call *to)
{
	c->thread = to ? to->thread : NULL;
	c->x = to ? to->x : NULL;
	c->wake = to ? to->wake : &c->own;
}

void uio_ninep_abandon(const struct uio_thread *thread)
{
	struct ninep_call **at = &calls;

	while (*at) {
		struct ninep_call *c = *at;

		if (c->thread != thread) {
			at = &c->next;
			continue;
		}
		if (c->lasting) {
			uio_ninep_lend(c, NULL);
			at = &c->next;
			continue;
		}
		orphan(c);
		*at = c->next;
	}
}

struct ninep_request *uio_ninep_request(struct ninep_call *c, uint8_t type, uint32_t fid,
					size_t body)
{
	struct ninep_request *r = request_new(type, fid, body);

	if (r) {
		r->call = c;
		r->next = c->requests;
		c->requests = r;
	}
	return r;
}

void uio_ninep_request_free(struct ninep_call *c, struct ninep_request *r)
{
	struct ninep_request **at = &c->requests;

	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	r->call = NULL;
	r->data = NULL;
	if (r->done || !r->sent)
		uio_port_free(r); /* else the context does, when the reply is there */
}

int uio_ninep_send(struct ninep_call *c, struct ninep_request *r, const void *data, size_t len)
{
	uint64_t end = uio_port_ns() + REPLY_NS;
	int rc = 0;

	while (!rc) {
		if (session.state != READY || c->epoch != session.epoch)
			return -EIO;
		if (try_send(r, data, len, &rc))
			return 0;
		if (rc)
			return -EIO;
		session.wants_room = true;
		rc = pause_until(c, end);
	}
	return rc;
}

int uio_ninep_wait(struct ninep_call *c, struct ninep_request *r)
{
	uint64_t end = uio_port_ns() + REPLY_NS;

	while (!r->done) {
		int rc = r->sent ? pause_until(c, end) : -EIO;

		if (rc)
			return rc;
	}
	return r->error;
}

int uio_ninep_rpc(struct ninep_call *c, struct ninep_request *r)
{
	int rc = uio_ninep_send(c, r, NULL, 0);

	return rc ? rc : uio_ninep_wait(c, r);
}

uint32_t uio_ninep_msize(void)
{
	return session.msize;
}

uint32_t uio_ninep_epoch(void)
{
	return session.epoch;
}
