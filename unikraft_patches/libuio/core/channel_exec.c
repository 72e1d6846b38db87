/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The channel's commands: EXEC with its streams and credit, the images that
 * are pushed before it, and UNLOAD, which runs an overlay's destructors and so
 * is a command too.
 */
#include <errno.h>
#include <stdio.h>

#include "channel.h"
#include "channel_frames.h"
#include "context.h"
#include "overlay.h"

#define EXEC_TTY       1u
#define EXEC_IMAGE     2u
#define EXEC_LOAD_ONLY 4u
#define ARGS_MAX       128u
#define ARGS_BYTES_MAX 32768u
#define PUSHES_MAX     8u

/* An image between its first piece and its EXEC. */
struct push {
	struct push *next;
	uint32_t id, received;
	int err;
	struct uio_push *image;
};

struct chan_exec {
	struct chan_exec *next;
	struct uio_exec *x;
	uint32_t session;
	uint32_t id;
	uint32_t flags;
	uint8_t hash[UIO_HASH_SIZE];
	struct push *push;
	bool ended; /* its EXIT is on its way */
	/* standard output and error: what the host will take */
	uint32_t credit[3];
	/* standard input: a ring that is allocated with the first byte */
	uint8_t *ring;
	uint32_t head, fill;
	uint32_t allowed;  /* what the host may still send */
	uint32_t consumed; /* read and not yet given back as credit */
	bool input_ended;
};

static struct chan_exec *chan_execs;
static unsigned int chan_exec_count;
static struct push *pushes;
static unsigned int push_count;

static struct chan_exec *find(uint32_t id)
{
	uint32_t session = uio_channel_session();

	for (struct chan_exec *c = chan_execs; c != NULL; c = c->next)
		if (c->id == id && c->session == session && !c->ended)
			return c;
	return NULL;
}

/* ---- streams ---- */

static ssize_t chan_write(struct uio_exec *x, unsigned int stream, const void *buf, size_t len)
{
	struct chan_exec *c = x->io_data;
	size_t done = 0;

	while (done < len) {
		if (x->cancel != 0)
			return -EINTR;
		if (c->session != uio_channel_session())
			return -EPIPE;
		if (c->credit[stream] == 0) {
			uio_port_event_wait(&x->wake, UINT64_MAX);
			continue;
		}
		size_t n = len - done;
		if (n > c->credit[stream])
			n = c->credit[stream];
		if (n > UIO_FRAME_MAX)
			n = UIO_FRAME_MAX;
		c->credit[stream] -= (uint32_t)n;
		int err = uio_channel_send(c->session, UIO_FRAME_DATA, c->id, stream,
					   (const char *)buf + done, n);
		if (err < 0)
			return x->cancel != 0 ? -EINTR : -EPIPE;
		done += n;
	}
	return (ssize_t)len;
}

static ssize_t chan_read(struct uio_exec *x, void *buf, size_t len)
{
	struct chan_exec *c = x->io_data;

	while (c->fill == 0) {
		if (x->cancel != 0)
			return -EINTR;
		if (c->input_ended)
			return 0;
		uio_port_event_wait(&x->wake, UINT64_MAX);
	}
	if (x->cancel != 0)
		return -EINTR;

	uint32_t n = c->fill;
	if (n > len)
		n = (uint32_t)len;
	if (n > UIO_STDIN_WINDOW - c->head)
		n = UIO_STDIN_WINDOW - c->head;
	memcpy(buf, c->ring + c->head, n);
	c->head = (c->head + n) % UIO_STDIN_WINDOW;
	c->fill -= n;
	c->consumed += n;
	if (c->consumed >= UIO_STDIN_WINDOW / 4 && !c->input_ended) {
		uint32_t credit = c->consumed;
		c->consumed = 0;
		c->allowed += credit;
		uio_channel_send(c->session, UIO_FRAME_CREDIT, c->id, 0, &credit, sizeof(credit));
	}
	return (ssize_t)n;
}

static bool chan_ready(struct uio_exec *x)
{
	const struct chan_exec *c = x->io_data;

	return c->fill > 0 || c->input_ended || x->cancel != 0;
}

/* One message instead of two: nothing would come between them but the reader's waking up. */
static bool chan_takes_rest(struct uio_exec *x, size_t len)
{
	const struct chan_exec *c = x->io_data;

	return len <= c->credit[1] && x->cancel == 0;
}

static const struct uio_exec_io chan_io = {
	.write = chan_write,
	.read = chan_read,
	.ready = chan_ready,
	.takes_rest = chan_takes_rest,
};

/* ---- the end ---- */

static size_t put(uint8_t *at, const void *data, size_t len)
{
	memcpy(at, data, len);
	return len;
}

#define EXIT_SIZE_MAX                                                                              \
	(4 + 2 + sizeof(((struct uio_result *)0)->message) + 8 + 8 + 4 * 8 + 8 +                   \
	 UIO_TRAP_NREGS * 8 + 4 + UIO_FAULT_DEPTH * 8)

static size_t encode_exit(uint8_t *out, const struct uio_result *r, uint64_t run_ns)
{
	size_t n = put(out, &r->status, 4);
	uint16_t len = (uint16_t)strlen(r->message);

	n += put(out + n, &len, 2);
	n += put(out + n, r->message, len);
	n += put(out + n, &run_ns, 8);
	if (r->kind != UIO_EXIT_FAULT)
		return n;

	const struct uio_trap *t = &r->fault.trap;
	uint8_t kind[8] = {(uint8_t)t->kind};
	uint32_t vector = t->vector, nregs = UIO_TRAP_NREGS;
	uint32_t depth = r->fault.depth <= UIO_FAULT_DEPTH ? r->fault.depth : UIO_FAULT_DEPTH;
	n += put(out + n, kind, 8);
	n += put(out + n, &t->ip, 8);
	n += put(out + n, &t->address, 8);
	n += put(out + n, &t->sp, 8);
	n += put(out + n, &t->error_code, 8);
	n += put(out + n, &vector, 4);
	n += put(out + n, &nregs, 4);
	n += put(out + n, t->regs, sizeof(t->regs));
	n += put(out + n, &depth, 4);
	n += put(out + n, r->fault.backtrace, depth * 8);
	return n;
}

static void free_push(struct push *p)
{
	if (p == NULL)
		return;
	if (p->image != NULL)
		uio_push_abort(p->image);
	uio_port_free(p);
}

static void chan_finish(struct uio_exec *x)
{
	struct chan_exec *c = x->io_data;
	uint8_t payload[EXIT_SIZE_MAX];
	size_t len = encode_exit(payload, &x->result, x->end_ns - x->start_ns);

	uio_channel_send_end(c->session, c->id, x->out, x->out_len, x->result.kind, payload, len);
	c->ended = true;
	for (struct chan_exec **p = &chan_execs; *p != NULL; p = &(*p)->next)
		if (*p == c) {
			*p = c->next;
			break;
		}
	chan_exec_count--;
	free_push(c->push);
	uio_port_free(c->ring);
	uio_port_free(c);
}

/* EXIT of a request that never became a command. */
static void refuse(uint32_t id, enum uio_exit_kind kind, int status, const char *message)
{
	struct uio_result r = {.kind = kind, .status = status};
	uint8_t payload[EXIT_SIZE_MAX];

	snprintf(r.message, sizeof(r.message), "%s", message);
	uio_channel_post(UIO_FRAME_EXIT, id, kind, payload, encode_exit(payload, &r, 0));
}

void uio_channel_exec_reset(void)
{
	for (struct chan_exec *c = chan_execs; c != NULL; c = c->next)
		uio_exec_cancel(c->x, 9);
	while (pushes != NULL) {
		struct push *p = pushes;
		pushes = p->next;
		free_push(p);
	}
	push_count = 0;
}

/* ---- images ---- */

static struct push **find_push(uint32_t id)
{
	struct push **p = &pushes;

	while (*p != NULL && (*p)->id != id)
		p = &(*p)->next;
	return p;
}

static struct push *take_push(uint32_t id)
{
	struct push **at = find_push(id), *p = *at;

	if (p != NULL) {
		*at = p->next;
		push_count--;
	}
	return p;
}

bool uio_frame_image_begin(const struct uio_frame *f)
{
	struct push *p = *find_push(f->id);

	if (p == NULL) {
		if (f->arg != 0 || push_count >= PUSHES_MAX || find(f->id) != NULL) {
			uio_channel_broken(f->arg != 0 ? "IMAGE without its beginning"
						       : "IMAGE: too many, or its id is in use");
			return false;
		}
		p = uio_port_alloc(sizeof(*p));
		if (p == NULL) {
			uio_channel_broken("IMAGE: no memory");
			return false;
		}
		*p = (struct push){.next = pushes, .id = f->id, .image = uio_push_begin()};
		p->err = p->image == NULL ? -ENOMEM : 0;
		pushes = p;
		push_count++;
	}
	if (f->arg != p->received) {
		uio_channel_broken("IMAGE out of order");
		return false;
	}
	return true;
}

void uio_frame_image_bytes(const struct uio_frame *f, const uint8_t *bytes, size_t len)
{
	struct push *p = *find_push(f->id);

	if (p == NULL)
		return;
	p->received += (uint32_t)len;
	if (p->err < 0)
		return;
	p->err = uio_push_data(p->image, bytes, len);
	if (p->err == -ENOMEM) {
		uio_push_abort(p->image);
		p->image = NULL;
	} /* else it knows why, and is asked below */
}

/* The overlay that EXEC names by its hash, resident or just pushed; NULL: the result is set. */
static struct uio_overlay *pushed_overlay(struct uio_exec *x, struct chan_exec *c)
{
	struct uio_overlay *o = uio_overlay_find(c->hash);
	struct push *p = c->push;
	const char *why = "it cannot be placed";

	if (o != NULL)
		return o;
	if (uio_push_refusal() != NULL) {
		uio_exec_result(x, UIO_EXIT_REFUSED, -EACCES, "%s: %s", x->argv[0],
				uio_push_refusal());
		return NULL;
	}
	if (p == NULL) {
		uio_exec_result(x, UIO_EXIT_NEED_IMAGE, 0, "%s: not resident", x->argv[0]);
		return NULL;
	}
	int err = p->err;
	if (p->image != NULL) {
		struct uio_push *image = p->image;
		p->image = NULL;
		err = uio_push_finish(image, &o, &why);
	} else if (err == -ENOMEM) {
		why = "no memory for its image";
	} else {
		why = "its image is malformed";
	}
	if (err >= 0 && memcmp(o->hash, c->hash, UIO_HASH_SIZE) != 0) {
		err = -EINVAL;
		why = "the image belongs to another overlay";
	}
	if (err < 0) {
		uio_exec_result(x, err == -ENOMEM ? UIO_EXIT_ERROR : UIO_EXIT_REFUSED, err,
				"%s: %s", x->argv[0], why);
		return NULL;
	}
	return o;
}

/* ---- commands ---- */

static int exec_body(struct uio_exec *x)
{
	struct chan_exec *c = x->io_data;
	struct uio_overlay *o;

	if (c->flags & EXEC_IMAGE) {
		o = pushed_overlay(x, c);
		if (o == NULL)
			return 0;
	} else if (!(c->flags & EXEC_LOAD_ONLY)) {
		return uio_exec_run_named(x);
	} else if (uio_overlay_pull(x, x->argv[0], &o) < 0) {
		x->has_result = true;
		return 0;
	}
	return c->flags & EXEC_LOAD_ONLY ? 0 : uio_exec_run_overlay(x, o);
}

static int unload_body(struct uio_exec *x)
{
	struct chan_exec *c = x->io_data;
	int err = uio_overlay_unload(c->hash);

	if (err < 0)
		uio_exec_result(x, UIO_EXIT_ERROR, err,
				err == -EBUSY ? "the overlay is running"
					      : "the overlay is not resident");
	return 0;
}

static void spawn(struct chan_exec *c, struct uio_exec_spec *spec)
{
	int err = -EAGAIN;

	spec->io = &chan_io;
	spec->io_data = c;
	spec->id = c->id;
	spec->finish = chan_finish;
	c->session = uio_channel_session();
	c->allowed = UIO_STDIN_WINDOW;
	if (chan_exec_count < UIO_CHANNEL_EXECS)
		err = uio_exec_spawn(spec, &c->x);
	if (err < 0) {
		refuse(c->id, UIO_EXIT_ERROR, err,
		       err == -EAGAIN ? "too many commands at once" : "no memory for a command");
		free_push(c->push);
		uio_port_free(c);
		return;
	}
	c->next = chan_execs;
	chan_execs = c;
	chan_exec_count++;
}

/*
 * n strings of the payload, each ended by a NUL where the length of the next
 * one stood: the payload is ours, and the cursor has passed that already.
 */
static bool take_strings(struct uio_cursor *c, char **out, unsigned int n, size_t *bytes)
{
	char *last = NULL;

	for (unsigned int i = 0; i < n; i++) {
		uint16_t len = uio_take_u16(c);
		char *text = (char *)(uintptr_t)uio_take(c, len);
		if (text == NULL || memchr(text, '\0', len) != NULL)
			return false;
		if (last != NULL)
			*last = '\0';
		out[i] = text;
		last = text + len;
		*bytes += len + 1u;
	}
	/* Behind the last one there is the next count, or the byte that the receiver adds. */
	if (last != NULL)
		out[n] = last;
	return true;
}

static bool parse_exec(const struct uio_frame *f, uint8_t *payload, struct chan_exec *c,
		       struct uio_exec_spec *spec, char **strings)
{
	struct uio_cursor cur = {payload, f->length, true};
	size_t bytes = 0;

	spec->timeout_ms = uio_take_u32(&cur);
	c->credit[1] = uio_take_u32(&cur);
	c->credit[2] = uio_take_u32(&cur);
	spec->rows = uio_take_u16(&cur);
	spec->columns = uio_take_u16(&cur);
	uio_take_to(&cur, c->hash, UIO_HASH_SIZE);
	uint16_t argc = uio_take_u16(&cur);
	if (!cur.ok || argc == 0 || argc > ARGS_MAX || !take_strings(&cur, strings, argc, &bytes))
		return false;
	char *argv_end = strings[argc];
	uint16_t envc = uio_take_u16(&cur);
	char **env = strings + argc + 1;
	if (!cur.ok || envc > ARGS_MAX || !take_strings(&cur, env, envc, &bytes))
		return false;
	if (cur.left != 0 || bytes > ARGS_BYTES_MAX)
		return false;
	*argv_end = '\0';
	if (envc != 0)
		*env[envc] = '\0';
	spec->argc = argc;
	spec->argv = strings;
	spec->envc = envc;
	spec->envp = env;
	return true;
}

bool uio_frame_exec(const struct uio_frame *f, uint8_t *payload)
{
	if (f->arg & ~(EXEC_TTY | EXEC_IMAGE | EXEC_LOAD_ONLY)) {
		uio_channel_broken("EXEC with unknown flags");
		return false;
	}
	if (find(f->id) != NULL) {
		uio_channel_broken("EXEC with an id that is in use");
		return false;
	}
	struct chan_exec *c = uio_port_alloc(sizeof(*c));
	/* Each string has two bytes for its length. */
	size_t most = f->length / 2 < 2 * ARGS_MAX ? f->length / 2 : 2 * ARGS_MAX;
	char **strings = uio_port_alloc((most + 2) * sizeof(char *));
	if (c == NULL || strings == NULL) {
		refuse(f->id, UIO_EXIT_ERROR, -ENOMEM, "no memory for a command");
		uio_port_free(c);
		uio_port_free(strings);
		return true;
	}
	struct uio_exec_spec spec = {.tty = f->arg & EXEC_TTY, .body = exec_body};
	*c = (struct chan_exec){.id = f->id, .flags = f->arg};
	bool ok = parse_exec(f, payload, c, &spec, strings);
	if (ok) {
		c->push = take_push(f->id);
		spawn(c, &spec);
	} else {
		uio_port_free(c);
	}
	uio_port_free(strings);
	if (!ok)
		uio_channel_broken("malformed EXEC");
	return ok;
}

bool uio_frame_unload(const struct uio_frame *f, uint8_t *payload)
{
	static char *const argv[] = {(char *)"unload", NULL};
	struct uio_exec_spec spec = {.argc = 1, .argv = argv, .body = unload_body};

	if (find(f->id) != NULL) {
		uio_channel_broken("UNLOAD with an id that is in use");
		return false;
	}
	struct chan_exec *c = uio_port_alloc(sizeof(*c));
	if (c == NULL) {
		refuse(f->id, UIO_EXIT_ERROR, -ENOMEM, "no memory for a command");
		return true;
	}
	*c = (struct chan_exec){.id = f->id};
	memcpy(c->hash, payload, UIO_HASH_SIZE);
	spawn(c, &spec);
	return true;
}

bool uio_frame_cancel(const struct uio_frame *f, uint8_t *payload)
{
	struct chan_exec *c = find(f->id);

	(void)payload;
	if (f->arg == 0 || f->arg > 64) {
		uio_channel_broken("CANCEL without a signal");
		return false;
	}
	if (c != NULL)
		uio_exec_cancel(c->x, (int)f->arg);
	else
		free_push(take_push(f->id));
	return true;
}

bool uio_frame_winsize(const struct uio_frame *f, uint8_t *payload)
{
	uint16_t rows = (uint16_t)(f->arg >> 16), columns = (uint16_t)f->arg;
	struct chan_exec *c = find(f->id);

	(void)payload;
	if (f->id == 0) {
		uio_console_resize(rows, columns);
	} else if (c != NULL) {
		c->x->rows = rows;
		c->x->columns = columns;
	}
	return true;
}

bool uio_frame_credit(const struct uio_frame *f, uint8_t *payload)
{
	struct chan_exec *c = find(f->id);
	uint32_t bytes;

	memcpy(&bytes, payload, 4);
	if (f->arg != 1 && f->arg != 2) {
		uio_channel_broken("CREDIT for a stream that the guest does not send");
		return false;
	}
	if (c == NULL)
		return true;
	if (bytes > UINT32_MAX - c->credit[f->arg]) {
		uio_channel_broken("CREDIT beyond 4 GiB");
		return false;
	}
	c->credit[f->arg] += bytes;
	uio_port_event_signal(&c->x->wake);
	return true;
}

bool uio_frame_data_begin(const struct uio_frame *f)
{
	struct chan_exec *c = find(f->id);

	if (f->arg != 0) {
		uio_channel_broken("DATA for a stream that the host does not send");
		return false;
	}
	if (c == NULL)
		return true; /* crossed its EXIT */
	if (c->input_ended || f->length > c->allowed) {
		uio_channel_broken(c->input_ended ? "DATA after the end of the stream"
						  : "DATA beyond the credit");
		return false;
	}
	c->allowed -= f->length;
	if (f->length == 0) {
		c->input_ended = true;
		uio_port_event_signal(&c->x->wake);
	} else if (c->ring == NULL) {
		c->ring = uio_port_alloc(UIO_STDIN_WINDOW);
		if (c->ring == NULL) {
			uio_log(4, "no memory for the input of command %u", c->x->number);
			uio_exec_cancel(c->x, 9);
		}
	}
	return true;
}

void uio_frame_data_bytes(const struct uio_frame *f, const uint8_t *bytes, size_t len)
{
	struct chan_exec *c = find(f->id);

	if (c == NULL || c->ring == NULL || len > UIO_STDIN_WINDOW - c->fill)
		return;
	uint32_t tail = (c->head + c->fill) % UIO_STDIN_WINDOW;
	size_t first = len < UIO_STDIN_WINDOW - tail ? len : UIO_STDIN_WINDOW - tail;
	memcpy(c->ring + tail, bytes, first);
	memcpy(c->ring, bytes + first, len - first);
	c->fill += (uint32_t)len;
	uio_port_event_signal(&c->x->wake);
}
