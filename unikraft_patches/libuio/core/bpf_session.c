/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One session with the host over a command's standard streams: messages in,
 * answers and events out. It waits for both with one event; programs only
 * ever set a flag and signal that. Every byte of the host's is checked.
 */
#include "bpf_session.h"
#include "hits.h"

#include <errno.h>
#include <string.h>

#include "context.h"
#include "probe.h"

/* Messages: docs/bpf.md. */
enum {
	MSG_LOAD = 1,
	MSG_ATTACH,
	MSG_DETACH,
	MSG_RUN,
	MSG_READ,
	MSG_CLEAR,
	MSG_ZERO,
	MSG_STATS,
	MSG_OK = 0x80,
	MSG_ERROR,
	MSG_ROWS,
	MSG_RESULT,
	MSG_COUNTS,
	MSG_EVENT = 0x90,
	MSG_TEXT,
	MSG_STOPPED,
};

struct message {
	uint8_t type, zero;
	uint16_t seq; /* of the request; 0: unasked */
	uint32_t length;
};
_Static_assert(sizeof(struct message) == 8, "wire format");

#define SESSIONS_MAX  8u
#define ATTACHED_MAX  256u
#define OBJECT_BYTES  (32u << 20)
#define PERIOD_MIN_NS 1000000u

/* Budgets of one run: the application waits for those at functions, all for the others. */
#define FUNCTION_INSNS 100000u
#define FUNCTION_NS    2000000u
#define OTHER_INSNS    4000000u
#define OTHER_NS       50000000u

static struct bpf_session *sessions;

struct bpf_session *uio_bpf_sessions(void)
{
	return sessions;
}

struct bpf_session *uio_bpf_session_find(unsigned int number)
{
	struct bpf_session *s = sessions;

	while (s && s->x->number != number)
		s = s->next;
	return s;
}

/* ---- called by programs, in the midst of anything ---- */

static void tell(struct bpf_session *s)
{
	if (s->news)
		return;
	s->news = true;
	uio_port_event_signal(&s->x->wake);
}

static void env_wake(struct bpf_map *ring)
{
	tell((struct bpf_session *)((char *)(uintptr_t)ring->env -
				    offsetof(struct bpf_session, env)));
}

static void env_print(void *cookie, const char *text, size_t len)
{
	struct bpf_session *s = cookie;

	if (len > sizeof(s->text) - s->text_len) {
		s->text_drops++;
		return;
	}
	memcpy(s->text + s->text_len, text, len);
	s->text_len += len;
	tell(s);
}

static int env_exec_arg(void *cookie, unsigned int n, char *buf, size_t len)
{
	const struct bpf_session *s = cookie;
	const char *at = s->args, *end = s->args + s->args_len;
	size_t size;

	while (n > 0 && at < end) {
		at += strlen(at) + 1;
		n--;
	}
	if (at >= end)
		return -ENOENT;
	size = strlen(at);
	if (size > len - 1)
		size = len - 1;
	memcpy(buf, at, size);
	buf[size] = '\0';
	return (int)size;
}

void uio_bpf_stopped(void *cookie, const struct bpf_prog *prog, const struct bpf_fault *fault)
{
	struct bpf_session *s = cookie;
	uint64_t bit = UINT64_C(1) << (prog - s->object->prog);

	if (s->told & bit || s->stops == sizeof(s->stop) / sizeof(s->stop[0]))
		return;
	s->told |= bit;
	s->stop[s->stops++] = (struct bpf_stop){prog, *fault};
	tell(s);
}

/* ---- output ---- */

static void flush(struct bpf_session *s)
{
	size_t len = s->out_len;

	s->out_len = 0;
	if (len > 0)
		uio_exec_write(s->x, 1, s->out, len);
}

/* Room for a message with its header; the header is written by send(). */
static uint8_t *room(struct bpf_session *s, size_t payload)
{
	if (sizeof(struct message) + payload > sizeof(s->out) - s->out_len)
		flush(s);
	return s->out + s->out_len + sizeof(struct message);
}

static void send(struct bpf_session *s, uint8_t type, uint16_t seq, size_t payload)
{
	struct message m = {.type = type, .seq = seq, .length = (uint32_t)payload};

	memcpy(s->out + s->out_len, &m, sizeof(m));
	s->out_len += sizeof(m) + payload;
}

static void reply(struct bpf_session *s, uint16_t seq, uint32_t value)
{
	memcpy(room(s, 4), &value, 4);
	send(s, MSG_OK, seq, 4);
}

static void refuse(struct bpf_session *s, uint16_t seq, int32_t err, const char *why)
{
	size_t len = strlen(why);
	uint8_t *at = room(s, 4 + len);

	memcpy(at, &err, 4);
	memcpy(at + 4, why, len);
	send(s, MSG_ERROR, seq, 4 + len);
}

static void send_records(struct bpf_session *s)
{
	for (uint32_t i = 0; s->object && i < s->object->nmaps; i++) {
		struct bpf_map *ring = s->object->map[i];
		uint32_t head[2] = {i, 0};

		while (ring->def.type == BPF_MAP_RINGBUF) {
			uint8_t *at = room(s, sizeof(head));
			size_t left = sizeof(s->out) - (size_t)(at + sizeof(head) - s->out);
			uintptr_t key = uio_bpf_lock();
			int64_t n = uio_bpf_ring_read(ring, at + sizeof(head), left);

			uio_bpf_unlock(key);

			if (n == -EMSGSIZE && s->out_len > 0) {
				flush(s);
				continue;
			}
			if (n <= 0)
				break;
			memcpy(at, head, sizeof(head));
			send(s, MSG_EVENT, 0, sizeof(head) + (size_t)n);
			if (s->x->cancel)
				return;
		}
	}
}

/* status, instruction, helper, argument, size u32; address u64; words */
static size_t put_fault(uint8_t *at, const struct bpf_fault *f)
{
	const char *words = uio_bpf_status_text((int)f->status);
	uint32_t head[6] = {f->status, f->pc, f->helper, f->arg, f->size, f->rights};

	memcpy(at, head, sizeof(head));
	memcpy(at + sizeof(head), &f->address, 8);
	memcpy(at + sizeof(head) + 8, words, strlen(words));
	return sizeof(head) + 8 + strlen(words);
}

static void send_news(struct bpf_session *s)
{
	s->news = false;
	send_records(s);
	if (s->text_len > 0) {
		memcpy(room(s, s->text_len), s->text, s->text_len);
		send(s, MSG_TEXT, 0, s->text_len);
		s->text_len = 0;
	}
	for (unsigned int i = 0; i < s->stops; i++) {
		uint8_t *at = room(s, 256);
		uint32_t index = (uint32_t)(s->stop[i].prog - s->object->prog);

		memcpy(at, &index, 4);
		send(s, MSG_STOPPED, 0, 4 + put_fault(at + 4, &s->stop[i].fault));
	}
	s->stops = 0;
}

/* ---- attaching ---- */

static void detach(struct bpf_attached **at)
{
	struct bpf_attached *a = *at;

	*at = a->next;
	if (a->link.prog->kind != BPF_KIND_TIMER)
		uio_bpf_detach(&a->link);
	uio_port_free(a);
}

static void attach(struct bpf_session *s, uint16_t seq, const uint8_t *payload)
{
	struct bpf_attached *a, **end = &s->attached;
	const char *why = "no memory";
	unsigned int count = 0;
	struct bpf_prog *prog;
	uint64_t address;
	uint32_t index;
	int err = 0;

	memcpy(&index, payload, 4);
	memcpy(&address, payload + 8, 8);
	if (!s->object || index >= s->object->nprogs) {
		refuse(s, seq, -ENOENT, "no such program");
		return;
	}
	for (; *end; end = &(*end)->next)
		count++;
	prog = &s->object->prog[index];
	if (prog->kind == BPF_KIND_EXEC || (prog->kind == BPF_KIND_TIMER && address != 0)) {
		refuse(s, seq, -EINVAL, "this kind of program is not attached there");
		return;
	}
	if (count == ATTACHED_MAX) {
		refuse(s, seq, -EMFILE, "too many programs are attached");
		return;
	}
	a = uio_port_alloc(sizeof(*a));
	if (!a) {
		refuse(s, seq, -ENOMEM, why);
		return;
	}
	*a = (struct bpf_attached){.link = {.prog = prog, .cookie = s, .function = address}};
	if (prog->kind == BPF_KIND_TIMER)
		a->due_ns = uio_port_ns() + prog->period_ns;
	else
		err = uio_bpf_attach(&a->link, &why);
	if (err) {
		uio_port_free(a);
		refuse(s, seq, err, why);
		return;
	}
	*end = a;
	if (prog->kind == BPF_KIND_TIMER)
		uio_context_wake();
	reply(s, seq, index);
}

static void detach_all(struct bpf_session *s, uint16_t seq, const uint8_t *payload)
{
	uint32_t index, count = 0;
	uint64_t address;

	memcpy(&index, payload, 4);
	memcpy(&address, payload + 8, 8);
	for (struct bpf_attached **at = &s->attached; *at;) {
		const struct bpf_link *link = &(*at)->link;

		if ((index == UINT32_MAX || link->prog == &s->object->prog[index]) &&
		    (address == 0 || link->function == address)) {
			detach(at);
			count++;
		} else {
			at = &(*at)->next;
		}
	}
	reply(s, seq, count);
}

static uint64_t run_timers(struct bpf_session *s, uint64_t now)
{
	uint64_t due = UINT64_MAX;

	for (struct bpf_attached *a = s->attached; a; a = a->next) {
		struct bpf_prog *prog = a->link.prog;
		struct bpf_ctx ctx = {.args = {0}};
		struct bpf_fault fault;
		uint64_t r0;

		if (prog->kind != BPF_KIND_TIMER)
			continue;
		if (a->due_ns <= now) {
			uint64_t late = (now - a->due_ns) / prog->period_ns + 1;

			a->due_ns += late * prog->period_ns;
			a->ticks += late;
			ctx.args[0] = a->ticks;
			if (uio_bpf_run_now(prog, s, &ctx, &r0, &fault) != BPF_OK)
				uio_bpf_stopped(s, prog, &fault);
		}
		if (a->due_ns < due)
			due = a->due_ns;
	}
	return due;
}

uint64_t uio_bpf_tick(uint64_t now)
{
	uint64_t due = UINT64_MAX;

	for (struct bpf_session *s = sessions; s; s = s->next) {
		uint64_t next = run_timers(s, now);

		if (next < due)
			due = next;
	}
	return due;
}

/* ---- loading, running, maps ---- */

static void limit(struct bpf_prog *prog)
{
	bool at_function = prog->kind == BPF_KIND_ENTRY || prog->kind == BPF_KIND_RETURN;
	uint64_t insns = at_function ? FUNCTION_INSNS : OTHER_INSNS;
	uint64_t ns = at_function ? FUNCTION_NS : OTHER_NS;

	if (prog->max_insns > insns)
		prog->max_insns = insns;
	if (prog->max_ns == 0 || prog->max_ns > ns)
		prog->max_ns = ns;
}

static void load(struct bpf_session *s, uint16_t seq, const uint8_t *bytes, size_t len)
{
	struct bpf_object_limits limits = {
		.max_bytes = OBJECT_BYTES,
		.max_insns = OTHER_INSNS,
		.max_ns = OTHER_NS,
		.need_verified = !s->unverified,
	};
	struct bpf_object_error error;
	int err;

	if (s->object) {
		refuse(s, seq, -EBUSY, "this session has its object already");
		return;
	}
	err = uio_bpf_object_load(&s->object, bytes, len, &s->env, &limits, &error);
	for (uint32_t i = 0; err == 0 && i < s->object->nprogs; i++) {
		limit(&s->object->prog[i]);
		if (s->object->prog[i].kind != BPF_KIND_TIMER ||
		    s->object->prog[i].period_ns >= PERIOD_MIN_NS)
			continue;
		uio_bpf_object_destroy(s->object);
		s->object = NULL;
		err = -EINVAL;
		strcpy(error.text, "a timer's period is at least 1 ms");
	}
	if (err)
		refuse(s, seq, err, error.text);
	else
		reply(s, seq, s->x->number);
}

static void run(struct bpf_session *s, uint16_t seq, const uint8_t *payload, size_t len)
{
	struct bpf_ctx ctx = {.args = {0}};
	struct bpf_fault fault;
	uint64_t r0 = 0;
	uint32_t index;
	uint8_t *at;
	int status;

	memcpy(&index, payload, 4);
	if (!s->object || index >= s->object->nprogs ||
	    s->object->prog[index].kind != BPF_KIND_EXEC) {
		refuse(s, seq, -ENOENT, "no such exec program");
		return;
	}
	/* The arguments: strings, each with its NUL. */
	s->args = (const char *)payload + 4;
	s->args_len = len - 4;
	if (s->args_len > 0 && s->args[s->args_len - 1] != '\0') {
		refuse(s, seq, -EINVAL, "the arguments are cut off");
		return;
	}
	for (size_t i = 0; i < s->args_len; i++)
		ctx.args[0] += s->args[i] == '\0';
	status = uio_bpf_run_now(&s->object->prog[index], s, &ctx, &r0, &fault);
	s->args_len = 0;
	if (status == BPF_OK)
		fault = (struct bpf_fault){.status = BPF_OK};
	send_news(s); /* what it wrote comes before its end */
	at = room(s, 256);
	memcpy(at, &r0, 8);
	send(s, MSG_RESULT, seq, 8 + put_fault(at + 8, &fault));
}

static struct bpf_map *map_of(const struct bpf_session *s, uint32_t index)
{
	return s->object && index < s->object->nmaps ? s->object->map[index] : NULL;
}

static void read_map(struct bpf_session *s, uint16_t seq, uint32_t index)
{
	struct bpf_map *map = map_of(s, index);
	size_t row = 4 + (map ? (size_t)map->def.key_size + map->def.value_size : 0);
	uint64_t cursor = 0, count = 0;
	uint8_t *buf = map ? uio_port_alloc(row) : NULL;
	uint32_t thread;

	if (!buf) {
		refuse(s, seq, map ? -ENOMEM : -ENOENT, map ? "no memory" : "no such map");
		return;
	}
	while (!s->x->cancel &&
	       uio_bpf_next_row(map, &cursor, buf + 4, buf + 4 + map->def.key_size, &thread)) {
		struct message m = {.type = MSG_ROWS, .seq = seq, .length = (uint32_t)row};

		memcpy(buf, &thread, 4);
		if (sizeof(m) + row > sizeof(s->out)) {
			flush(s);
			uio_exec_write(s->x, 1, &m, sizeof(m));
			uio_exec_write(s->x, 1, buf, row);
		} else {
			memcpy(room(s, row), buf, row);
			send(s, MSG_ROWS, seq, row);
		}
		count++;
	}
	uio_port_free(buf);
	reply(s, seq, (uint32_t)count);
}

static void forget(struct bpf_session *s, uint16_t seq, uint32_t index, bool keys_too)
{
	struct bpf_map *map = map_of(s, index);
	uintptr_t key;

	if (!map || map->def.flags & BPF_MAP_RDONLY || map->def.type == BPF_MAP_RINGBUF) {
		refuse(s, seq, -EINVAL, "no such map, or none that can be changed");
		return;
	}
	key = uio_bpf_lock();
	if (keys_too)
		uio_bpf_map_clear(map);
	else
		memset(map->values, 0, map->span);
	uio_bpf_unlock(key);
	reply(s, seq, index);
}

/* Programs: runs, faults; maps: entries, drops; then what was missed, and text that was lost.
 */
static void send_counts(struct bpf_session *s, uint16_t seq)
{
	const struct bpf_object *o = s->object;
	uint64_t *at;
	size_t n = 0;

	if (!o) {
		refuse(s, seq, -ENOENT, "nothing is loaded");
		return;
	}
	at = uio_port_alloc((2 * o->nprogs + 2 * o->nmaps + 2) * sizeof(*at));
	if (!at) {
		refuse(s, seq, -ENOMEM, "no memory");
		return;
	}
	for (uint32_t i = 0; i < o->nprogs; i++) {
		at[n++] = o->prog[i].runs;
		at[n++] = o->prog[i].faults;
	}
	for (uint32_t i = 0; i < o->nmaps; i++) {
		at[n++] = o->map[i]->count;
		at[n++] = o->map[i]->drops;
	}
	at[n++] = uio_hit_missed;
	at[n++] = s->text_drops;
	memcpy(room(s, n * sizeof(*at)), at, n * sizeof(*at));
	send(s, MSG_COUNTS, seq, n * sizeof(*at));
	uio_port_free(at);
}

/* ---- input ---- */

static bool malformed(struct bpf_session *s, const char *why)
{
	uio_exec_result(s->x, UIO_EXIT_ERROR, -EPROTO, "bpf: %s", why);
	return false;
}

static bool read_exactly(struct bpf_session *s, uint8_t *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = uio_exec_read(s->x, buf + done, len - done);

		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

/* Its payload is too long for the buffer: read here, while nothing is attached that could wait. */
static bool take_load(struct bpf_session *s, const struct message *m)
{
	size_t got = s->in_len - sizeof(*m);
	uint8_t *bytes;
	bool ok;

	if (m->length > BPF_LOAD_MAX)
		return malformed(s, "the object is too large");
	if (s->attached)
		return malformed(s, "LOAD after ATTACH");
	bytes = uio_port_alloc(m->length + 1);
	if (!bytes)
		return malformed(s, "no memory for the object");
	if (got > m->length)
		got = m->length;
	memcpy(bytes, s->in + sizeof(*m), got);
	ok = read_exactly(s, bytes + got, m->length - got);
	if (ok) {
		load(s, m->seq, bytes, m->length);
		s->in_len -= sizeof(*m) + got;
		memmove(s->in, s->in + sizeof(*m) + got, s->in_len);
	}
	uio_port_free(bytes);
	return ok;
}

/* Length of the payload, or its least. */
static bool length_is_valid(const struct message *m)
{
	switch (m->type) {
	case MSG_ATTACH:
	case MSG_DETACH:
		return m->length == 16;
	case MSG_RUN:
		return m->length >= 4;
	case MSG_READ:
	case MSG_CLEAR:
	case MSG_ZERO:
		return m->length == 4;
	default:
		return m->length == 0;
	}
}

static bool handle(struct bpf_session *s, const struct message *m, const uint8_t *payload)
{
	uint32_t index = 0;

	if (!length_is_valid(m))
		return malformed(s, "a message of the wrong length");
	if (m->length >= 4)
		memcpy(&index, payload, 4);
	switch (m->type) {
	case MSG_ATTACH:
		attach(s, m->seq, payload);
		break;
	case MSG_DETACH:
		if (index != UINT32_MAX && (!s->object || index >= s->object->nprogs))
			refuse(s, m->seq, -ENOENT, "no such program");
		else
			detach_all(s, m->seq, payload);
		break;
	case MSG_RUN:
		run(s, m->seq, payload, m->length);
		break;
	case MSG_READ:
		read_map(s, m->seq, index);
		break;
	case MSG_CLEAR:
	case MSG_ZERO:
		forget(s, m->seq, index, m->type == MSG_CLEAR);
		break;
	case MSG_STATS:
		send_counts(s, m->seq);
		break;
	default:
		return malformed(s, "a message of an unknown type");
	}
	return true;
}

/* All whole messages that are there. false: the session ends. */
static bool handle_input(struct bpf_session *s)
{
	struct message m;

	while (s->in_len >= sizeof(m)) {
		memcpy(&m, s->in, sizeof(m));
		if (m.zero != 0)
			return malformed(s, "a malformed message");
		if (m.type == MSG_LOAD) {
			if (!take_load(s, &m))
				return false;
			continue;
		}
		if (m.length > BPF_SESSION_IN)
			return malformed(s, "a message that is too long");
		if (s->in_len < sizeof(m) + m.length)
			break;
		if (!handle(s, &m, s->in + sizeof(m)))
			return false;
		s->in_len -= sizeof(m) + m.length;
		memmove(s->in, s->in + sizeof(m) + m.length, s->in_len);
	}
	return true;
}

/* ---- a session from beginning to end ---- */

static void release(struct uio_resource *r)
{
	struct bpf_session *s =
		(struct bpf_session *)((char *)r - offsetof(struct bpf_session, resource));
	struct bpf_session **at = &sessions;

	while (s->attached)
		detach(&s->attached);
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	uio_bpf_object_destroy(s->object);
	uio_bpf_machine_put();
	uio_port_free(s);
}

static struct bpf_session *begin(struct uio_exec *x, bool unverified)
{
	struct bpf_session *s = uio_port_alloc(sizeof(*s));

	if (!s || uio_bpf_machine_get() != 0) {
		uio_port_free(s);
		return NULL;
	}
	memset(s, 0, sizeof(*s));
	s->x = x;
	s->unverified = unverified;
	s->env = (struct bpf_env){
		.now = uio_port_ns,
		.print = env_print,
		.probe_read = uio_probe_read,
		.signal = uio_port_signal,
		.thread = uio_bpf_thread,
		.thread_name = uio_bpf_thread_name,
		.stack = uio_bpf_stack,
		.exec_arg = env_exec_arg,
		.wake = env_wake,
		/* No lock: whoever runs programs holds it, and so do we where we use maps. */
	};
	s->next = sessions;
	sessions = s;
	uio_exec_hold(x, &s->resource, release);
	return s;
}

int uio_bpf_session(struct uio_exec *x, bool unverified)
{
	unsigned int count = 0;
	struct bpf_session *s;

	for (s = sessions; s; s = s->next)
		count++;
	s = count < SESSIONS_MAX ? begin(x, unverified) : NULL;
	if (!s) {
		uio_exec_result(x, UIO_EXIT_ERROR, -ENOMEM, "bpf: %s",
				count < SESSIONS_MAX ? "no memory" : "too many sessions");
		return 1;
	}
	while (!x->cancel) {
		if (s->news)
			send_news(s);
		if (x->io->ready(x)) {
			ssize_t n = x->io->read(x, s->in + s->in_len, sizeof(s->in) - s->in_len);

			if (n <= 0)
				break;
			s->in_len += (size_t)n;
			if (!handle_input(s))
				break;
		} else {
			flush(s);
			if (!s->news && !x->io->ready(x))
				uio_port_event_wait(&x->wake, UINT64_MAX);
		}
	}
	if (x->cancel)
		return 0;
	send_news(s);
	flush(s);
	return 0;
}
