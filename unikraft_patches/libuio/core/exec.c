/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands: each is a thread that runs a builtin or an overlay, with streams,
 * a deadline, a list of what it holds and a result. Who asked for it (channel,
 * shell) supplies the streams and is told the end. One thread that has become
 * free waits a little for the next command: to make one costs more than a
 * short command does.
 */
#include "exec.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "context.h"
#include "overlay.h"

#define EXEC_STACK (24u * 1024)
#define OUT_SIZE   1024u
#define STOP_RETRY 1000000ull
#define PARKED_NS  1000000000ull

/* A command's thread. It lies on that thread's stack. */
struct worker {
	struct uio_thread *thread;
	struct uio_exec *x; /* what it is to run next; NULL: nothing */
	struct uio_event given;
};

extern int *kernel_errno(void) __asm__("__errno_location") __attribute__((weak));

static struct worker *parked;
static struct uio_exec *execs;
static unsigned int exec_count, next_number = 1;

struct uio_exec *uio_exec_self(void)
{
	struct uio_thread *self = uio_port_thread_self();

	for (struct uio_exec *x = execs; x != NULL; x = x->next)
		if (x->thread != NULL && x->thread == self)
			return x;
	return NULL;
}

int uio_exec_foreach(int (*fn)(struct uio_exec *x, void *arg), void *arg)
{
	for (struct uio_exec *x = execs, *next; x != NULL; x = next) {
		next = x->next;
		int r = fn(x, arg);
		if (r != 0)
			return r;
	}
	return 0;
}

/* ---- streams ---- */

/* A reader that is gone ends the command as SIGPIPE would. */
static ssize_t pass_on(struct uio_exec *x, unsigned int stream, const void *buf, size_t len)
{
	ssize_t n = x->io->write(x, stream, buf, len);

	if (n == -EPIPE && x->cancel == 0)
		uio_exec_cancel(x, 13);
	return n;
}

int uio_exec_flush(struct uio_exec *x)
{
	size_t len = x->out_len;

	if (len == 0)
		return 0;
	x->out_len = 0;
	ssize_t n = pass_on(x, 1, x->out, len);
	return n < 0 ? (int)n : 0;
}

ssize_t uio_exec_write(struct uio_exec *x, unsigned int stream, const void *buf, size_t len)
{
	int err = uio_exec_flush(x);

	if (err < 0)
		return err;
	return len == 0 ? 0 : pass_on(x, stream, buf, len);
}

ssize_t uio_exec_read(struct uio_exec *x, void *buf, size_t len)
{
	int err = uio_exec_flush(x);

	if (err < 0)
		return err;
	return len == 0 ? 0 : x->io->read(x, buf, len);
}

/* Take text into the buffer; what does not fit there goes through. */
static ssize_t gather(struct uio_exec *x, const char *text, size_t len)
{
	if (x->out == NULL)
		x->out = uio_port_alloc(OUT_SIZE);
	if (x->out == NULL || len >= OUT_SIZE)
		return uio_exec_write(x, 1, text, len);
	if (len > OUT_SIZE - x->out_len) {
		int err = uio_exec_flush(x);
		if (err < 0)
			return err;
	}
	memcpy(x->out + x->out_len, text, len);
	x->out_len += len;
	return (ssize_t)len;
}

ssize_t uio_exec_write_last(struct uio_exec *x, const void *buf, size_t len)
{
	return gather(x, buf, len);
}

static int write_formatted(struct uio_exec *x, unsigned int stream, const char *fmt, va_list ap)
{
	char line[256], *text = line;
	va_list again;

	va_copy(again, ap);
	int len = vsnprintf(line, sizeof(line), fmt, ap);
	if (len >= (int)sizeof(line)) {
		text = uio_port_alloc((size_t)len + 1);
		if (text != NULL)
			vsnprintf(text, (size_t)len + 1, fmt, again);
	}
	va_end(again);
	if (len < 0)
		return -EINVAL;
	if (text == NULL)
		return -ENOMEM;

	bool gathers = stream == 1 && x->overlay == NULL;
	ssize_t n = gathers ? gather(x, text, (size_t)len)
			    : uio_exec_write(x, stream, text, (size_t)len);
	if (text != line)
		uio_port_free(text);
	return (int)n;
}

int uio_exec_printf(struct uio_exec *x, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = write_formatted(x, 1, fmt, ap);
	va_end(ap);
	return n;
}

int uio_exec_error(struct uio_exec *x, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = write_formatted(x, 2, fmt, ap);
	va_end(ap);
	return n;
}

/* ---- result and resources ---- */

void uio_exec_result(struct uio_exec *x, enum uio_exit_kind kind, int status, const char *fmt, ...)
{
	va_list ap;

	x->has_result = true;
	x->result.kind = kind;
	x->result.status = status;
	va_start(ap, fmt);
	vsnprintf(x->result.message, sizeof(x->result.message), fmt, ap);
	va_end(ap);
}

void uio_exec_returned(struct uio_exec *x, int status)
{
	x->has_result = true;
	x->result.kind = UIO_EXIT_OK;
	x->result.status = status;
	x->result.message[0] = '\0';
}

void uio_exec_hold(struct uio_exec *x, struct uio_resource *r,
		   void (*release)(struct uio_resource *r))
{
	r->release = release;
	r->next = x->resources;
	x->resources = r;
}

void uio_exec_drop(struct uio_exec *x, struct uio_resource *r)
{
	for (struct uio_resource **p = &x->resources; *p != NULL; p = &(*p)->next)
		if (*p == r) {
			*p = r->next;
			return;
		}
}

static void release_all(struct uio_exec *x)
{
	while (x->resources != NULL) {
		struct uio_resource *r = x->resources;
		x->resources = r->next;
		r->release(r);
	}
}

/* ---- the end: cancellation and deadlines ---- */

bool uio_exec_stopping(const struct uio_exec *x)
{
	return x->cancel != 0 || (x->deadline_ns != UINT64_MAX && uio_port_ns() >= x->deadline_ns);
}

void uio_exec_cancel(struct uio_exec *x, int signal)
{
	if (x->cancel == 0 || signal == 9)
		x->cancel = signal > 0 ? signal : 9;
	x->stop_ns = 0;
	uio_port_event_signal(&x->wake);
	uio_context_wake();
}

uint64_t uio_exec_tick(uint64_t now)
{
	uint64_t due = UINT64_MAX;

	for (struct uio_exec *x = execs; x != NULL; x = x->next) {
		if (x->end_ns != 0)
			continue;
		if (!x->timed_out && now >= x->deadline_ns) {
			x->timed_out = true;
			uio_exec_cancel(x, 9);
		}
		uint64_t next = x->timed_out ? UINT64_MAX : x->deadline_ns;
		/* Only overlay code needs force: everything else sees x->cancel. */
		if (x->stop_ns <= now && x->overlay != NULL) {
			if (uio_overlay_stop(x) == -EAGAIN)
				next = now + STOP_RETRY;
			else
				x->stop_ns = UINT64_MAX;
		}
		if (next < due)
			due = next;
	}
	return due;
}

/* ---- running ---- */

int uio_exec_run_overlay(struct uio_exec *x, struct uio_overlay *o)
{
	if (o->policy.timeout_ms != 0) {
		uint64_t limit = uio_port_ns() + o->policy.timeout_ms * 1000000ull;
		if (limit < x->deadline_ns) {
			x->deadline_ns = limit;
			uio_context_wake();
		}
	}
	uio_overlay_run(o, x);
	x->has_result = true;
	return x->result.status;
}

int uio_exec_run_named(struct uio_exec *x)
{
	const struct uio_builtin *b = uio_builtin_find(x->argv[0]);

	if (b != NULL)
		return uio_builtin_run(b, x);

	struct uio_overlay *o;
	uio_exec_flush(x); /* may wait, and so may not come between finding it and running it */
	int err = uio_overlay_pull(x, x->argv[0], &o);
	if (err < 0) {
		x->has_result = true;
		return x->result.status;
	}
	return uio_exec_run_overlay(x, o);
}

/*
 * An end that was asked for is told as that, whatever the command returned
 * then; but an overlay that has seen the request and ended in order
 * (overlay.h: its result is OK) has the last word.
 */
static void conclude(struct uio_exec *x, int status)
{
	bool faulted = x->has_result && x->result.kind == UIO_EXIT_FAULT;
	bool in_order = x->has_result && x->result.kind == UIO_EXIT_OK;

	if ((x->timed_out || uio_port_ns() >= x->deadline_ns) && !faulted)
		uio_exec_result(x, UIO_EXIT_TIMEOUT, -ETIMEDOUT, "%s: timed out", x->argv[0]);
	else if (x->cancel != 0 && !faulted && !in_order)
		uio_exec_result(x, UIO_EXIT_CANCELLED, x->cancel, "%s: cancelled", x->argv[0]);
	else if (!x->has_result)
		x->result.status = status;
}

/* False: its thread must end too. */
static bool run(struct uio_exec *x)
{
	bool (*takes_rest)(struct uio_exec *, size_t) = x->io->takes_rest;

	x->start_ns = uio_port_ns();
	int status = x->cancel != 0 ? 0 : x->body(x);
	if (takes_rest == NULL || !takes_rest(x, x->out_len))
		uio_exec_flush(x);
	release_all(x);
	conclude(x, status);
	x->end_ns = uio_port_ns();
	x->finish(x);

	for (struct uio_exec **p = &execs; *p != NULL; p = &(*p)->next)
		if (*p == x) {
			*p = x->next;
			break;
		}
	exec_count--;
	bool is_good = !x->spoils_thread;
	uio_port_free(x->out);
	uio_port_free(x);
	return is_good;
}

/* Wait for the next command; w->x stays NULL if none comes. */
static void park(struct worker *w)
{
	uio_port_event_init(&w->given);
	parked = w;
	uio_port_event_wait(&w->given, PARKED_NS);
	if (parked == w)
		parked = NULL;
}

static void exec_main(void *arg)
{
	struct worker w = {.thread = uio_port_thread_self(), .x = arg};

	while (w.x != NULL) {
		struct uio_exec *x = w.x;

		w.x = NULL;
		x->thread = w.thread;
		if (run(x) && parked == NULL) {
			park(&w);
			if (kernel_errno)
				*kernel_errno() = 0; /* as in a new thread */
		}
	}
	if (exec_count == 0 && parked == NULL) {
		uio_overlay_rest();
		uio_context_wake(); /* it rests again, after all of this */
	}
}

static int give_to_thread(struct uio_exec *x)
{
	struct worker *w = parked;

	if (w == NULL)
		return uio_port_thread_create(&x->thread, "uio-exec", exec_main, x, EXEC_STACK);
	parked = NULL;
	x->thread = w->thread;
	w->x = x;
	uio_port_event_signal(&w->given);
	return 0;
}

static size_t strings_size(int n, char *const *strings)
{
	size_t size = ((size_t)n + 1) * sizeof(char *);

	for (int i = 0; i < n; i++)
		size += strlen(strings[i]) + 1;
	return size;
}

static char **copy_strings(void *memory, int n, char *const *strings)
{
	char **copy = memory, *text = (char *)(copy + n + 1);

	for (int i = 0; i < n; i++) {
		size_t len = strlen(strings[i]) + 1;
		copy[i] = memcpy(text, strings[i], len);
		text += len;
	}
	copy[n] = NULL;
	return copy;
}

static size_t align_pointer(size_t n)
{
	return (n + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
}

int uio_exec_spawn(const struct uio_exec_spec *spec, struct uio_exec **out)
{
	if (exec_count >= UIO_EXEC_MAX)
		return -EAGAIN;

	size_t argv_size = align_pointer(strings_size(spec->argc, spec->argv));
	size_t env_size = strings_size(spec->envc, spec->envp);
	struct uio_exec *x = uio_port_alloc(sizeof(*x) + argv_size + env_size);
	if (x == NULL)
		return -ENOMEM;

	memset(x, 0, sizeof(*x));
	x->io = spec->io;
	x->io_data = spec->io_data;
	x->id = spec->id;
	x->argc = spec->argc;
	x->argv = copy_strings(x + 1, spec->argc, spec->argv);
	x->envp = copy_strings((char *)(x + 1) + argv_size, spec->envc, spec->envp);
	x->tty = spec->tty;
	x->rows = spec->rows;
	x->columns = spec->columns;
	x->body = spec->body != NULL ? spec->body : uio_exec_run_named;
	x->finish = spec->finish;
	x->number = next_number++;
	x->stop_ns = UINT64_MAX;
	x->deadline_ns = UINT64_MAX;
	if (spec->timeout_ms != 0)
		x->deadline_ns = uio_port_ns() + spec->timeout_ms * 1000000ull;
	uio_port_event_init(&x->wake);

	x->next = execs;
	execs = x;
	exec_count++;
	int err = give_to_thread(x);
	if (err < 0) {
		execs = x->next;
		exec_count--;
		uio_port_free(x);
		return err;
	}
	if (x->deadline_ns != UINT64_MAX)
		uio_context_wake();
	*out = x;
	return 0;
}
