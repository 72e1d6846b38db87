/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What overlays call, as overlays/include/uio/uio.h declares it: streams,
 * files, time, the guest. The C library's names are in api_libc.c and
 * api_stdio.c, memory in api_heap.c.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "file.h"
#include "overlay_impl.h"

#define FIRST_FD   3
#define EXIT_GAP   256u        /* red zone and this function's own frame */
#define SLEEP_STEP 50000000ull /* how late a sleep without an exec notices that it shall stop */

/* ---- in and out ---- */

static bool must_stop(const struct uio_run *run)
{
	const struct uio_exec *x = run->x;

	if (run->stop)
		return true;
	if (!x || !uio_exec_stopping(x))
		return false;
	return !run->polite || x->cancel >= 9 || uio_port_ns() >= x->deadline_ns;
}

struct uio_run *uio_api_enter(void)
{
	struct uio_run *run = uio_run_self();

	if (!run || !run->active)
		return NULL;
	if (!run->in_core++)
		run->was_pinned = uio_port_pin(true);
	return run;
}

void uio_api_leave(struct uio_run *run)
{
	if (!run)
		return;
	if (--run->in_core)
		return;
	uio_port_pin(run->was_pinned);
	if (must_stop(run))
		uio_run_leave(run, UIO_RUN_STOPPED);
}

static void set_probing(bool probing)
{
	struct uio_run *run = uio_run_self();

	if (run)
		run->probing = probing;
}

void uio_api_touch(const void *p, size_t len, bool write)
{
	const struct uio_run *run = uio_run_self();
	uintptr_t at = (uintptr_t)p, last = at + (len ? len - 1 : 0);

	if (!len)
		return;
	if (last < at)
		last = UINTPTR_MAX; /* there is a fault on the way */
	set_probing(true);
	if (run && run->border.pkru &&
	    (write || run->resident->o.policy.flags & UIO_POLICY_APP_NONE)) {
		/* With the rights of the overlay, which passed the pointer. */
		uio_domain_touch(run, at, last, write);
	} else {
		for (; at <= last && at >= (uintptr_t)p; at = (at | (UIO_PAGE_SIZE - 1)) + 1) {
			volatile uint8_t *byte = (volatile uint8_t *)at;

			if (write)
				*byte = *byte;
			else
				(void)*byte;
		}
	}
	set_probing(false);
}

void uio_api_touch_string(const char *s)
{
	set_probing(true);
	(void)*(volatile const char *)(s + strlen(s));
	set_probing(false);
}

/* ---- streams ---- */

static ssize_t write_out(struct uio_run *run, unsigned int stream, const void *buf, size_t len)
{
	if (run->x)
		return uio_exec_write(run->x, stream, buf, len);
	uio_port_log(buf, len); /* a destructor: there is no command any more */
	return (ssize_t)len;
}

int uio_api_flush(struct uio_run *run)
{
	ssize_t n = 0;

	run = run->owner;
	if (run->buffered) {
		n = write_out(run, 1, run->buffer, run->buffered);
		run->buffered = 0;
	}
	return n < 0 ? (int)n : 0;
}

ssize_t uio_api_output(struct uio_run *run, unsigned int stream, const void *buf, size_t len)
{
	int rc = 0;

	if (stream != 1)
		return write_out(run, stream, buf, len);
	run = run->owner; /* whose buffer it is */
	if (len > sizeof(run->buffer) - run->buffered)
		rc = uio_api_flush(run);
	if (rc)
		return rc;
	if (len >= sizeof(run->buffer))
		return write_out(run, stream, buf, len);
	memcpy(run->buffer + run->buffered, buf, len);
	run->buffered += len;
	if (run->x && run->x->tty && memchr(buf, '\n', len))
		rc = uio_api_flush(run);
	return rc ? rc : (ssize_t)len;
}

static ssize_t output(unsigned int stream, const void *buf, size_t len)
{
	struct uio_run *run = uio_api_enter();
	ssize_t n;

	if (!run) {
		uio_port_log(buf, len);
		return (ssize_t)len;
	}
	n = uio_api_output(run, stream, buf, len);
	uio_api_leave(run);
	return n;
}

ssize_t uio_api_line(const char *text, size_t len)
{
	struct uio_run *run = uio_api_enter();
	ssize_t n;

	if (!run) {
		uio_port_log(text, len);
		uio_port_log("\n", 1);
		return 0;
	}
	n = uio_api_output(run, 1, text, len);
	if (n >= 0)
		n = uio_api_output(run, 1, "\n", 1);
	uio_api_leave(run);
	return n;
}

int uio_api_vprint(unsigned int stream, const char *fmt, va_list args)
{
	char text[256], *long_text;
	struct uio_run *run = uio_run_self();
	va_list again;
	ssize_t rc;
	int n;

	/* Formatted before entering: the arguments may point anywhere. */
	va_copy(again, args);
	n = vsnprintf(text, sizeof(text), fmt, args);
	if (n < (int)sizeof(text)) {
		rc = n < 0 ? -EINVAL : output(stream, text, (size_t)n);
	} else {
		long_text = run ? uio_heap_alloc(run, (size_t)n + 1, 16) : NULL;
		rc = -ENOMEM;
		if (long_text) {
			vsnprintf(long_text, (size_t)n + 1, fmt, again);
			rc = output(stream, long_text, (size_t)n);
			uio_heap_free(run, long_text);
		}
	}
	va_end(again);
	return (int)rc;
}

int uio_printf(const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = uio_api_vprint(1, fmt, args);
	va_end(args);
	return n;
}

int uio_eprintf(const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = uio_api_vprint(2, fmt, args);
	va_end(args);
	return n;
}

int uio_flush(void)
{
	struct uio_run *run = uio_api_enter();
	int rc = run ? uio_api_flush(run) : 0;

	uio_api_leave(run);
	return rc;
}

bool uio_terminal(unsigned int *rows, unsigned int *columns)
{
	struct uio_run *run = uio_run_self();
	bool tty = run && run->x && run->x->tty;

	if (rows)
		uio_api_touch(rows, sizeof(*rows), true);
	if (columns)
		uio_api_touch(columns, sizeof(*columns), true);
	if (rows)
		*rows = tty ? run->x->rows : 0;
	if (columns)
		*columns = tty ? run->x->columns : 0;
	return tty;
}

/* ---- the command ---- */

const char *uio_getenv(const char *name)
{
	struct uio_run *run = uio_run_self();
	size_t n = strlen(name);

	if (!run || !run->owner->envp)
		return NULL;
	for (char **e = run->owner->envp; *e; e++)
		if (!strncmp(*e, name, n) && (*e)[n] == '=')
			return *e + n + 1;
	return NULL;
}

int uio_interrupted(void)
{
	struct uio_run *run = uio_api_enter();
	int signal = 0;

	if (run) {
		run->polite = true;
		signal = run->x ? run->x->cancel : 0;
	}
	uio_api_leave(run);
	return signal;
}

_Noreturn void uio_api_exit(struct uio_run *run, int status)
{
	struct uio_run *command = run->owner;
	uint64_t sp = run->border.pkru ? run->border.sp : (uintptr_t)__builtin_frame_address(0);

	command->status = status;
	command->has_status = true;
	if (run != command) { /* a thread of it, or called back: the command ends */
		command->thread_exited = true;
		uio_exec_cancel(command->x, 9);
		uio_run_leave(run, UIO_RUN_STOPPED);
	}
	/* What exit() does has to happen below the variables of main(), which may still be used. */
	if (sp - run->border.stack_low < run->border.stack_bytes)
		run->exit_sp = sp - EXIT_GAP;
	uio_run_leave(run, UIO_RUN_RETURNED);
}

_Noreturn void uio_exit(int status)
{
	struct uio_run *run = uio_run_self();

	while (!run || !run->active)
		uio_port_sleep(UINT64_MAX / 2); /* no overlay calls this: there is nothing to end */
	uio_api_exit(run, status);
}

/* ---- files ---- */

static struct uio_file **slot_of(struct uio_run *run, int fd)
{
	run = run->owner;
	if (fd < FIRST_FD || fd >= FIRST_FD + (int)UIO_RUN_FILES)
		return NULL;
	return run->files[fd - FIRST_FD] ? &run->files[fd - FIRST_FD] : NULL;
}

int uio_open(const char *path, int flags, unsigned int mode)
{
	struct uio_run *run;
	struct uio_file **files;
	unsigned int i = 0;
	int rc = -EMFILE;

	uio_api_touch_string(path);
	run = uio_api_enter();
	if (!run)
		return -EPERM;
	files = run->owner->files;
	while (i < UIO_RUN_FILES && files[i])
		i++;
	if (i < UIO_RUN_FILES)
		rc = uio_file_open(&files[i], path, flags, mode);
	if (rc < 0 && i < UIO_RUN_FILES)
		files[i] = NULL;
	uio_api_leave(run);
	return rc < 0 ? rc : FIRST_FD + (int)i;
}

int uio_close(int fd)
{
	struct uio_run *run = uio_api_enter();
	struct uio_file **slot = run ? slot_of(run, fd) : NULL;
	int rc = -EBADF;

	if (slot && uio_file_is_in_use(*slot)) {
		rc = -EBUSY; /* by another thread; the end of the command closes it in any case */
	} else if (slot) {
		rc = uio_file_close(*slot);
		*slot = NULL;
	}
	uio_api_leave(run);
	return rc;
}

static ssize_t read_input(struct uio_run *run, void *buf, size_t len)
{
	int rc = uio_api_flush(run); /* a question is seen before its answer is awaited */

	if (rc)
		return rc;
	return run->x ? uio_exec_read(run->x, buf, len) : 0;
}

ssize_t uio_read(int fd, void *buf, size_t len)
{
	uio_api_touch(buf, len, true);
	return uio_api_read(fd, buf, len);
}

ssize_t uio_api_read(int fd, void *buf, size_t len)
{
	struct uio_run *run = uio_api_enter();
	struct uio_file **slot;
	ssize_t n = -EBADF;

	slot = run ? slot_of(run, fd) : NULL;
	if (slot)
		n = uio_file_read(*slot, buf, len);
	else if (run && fd == 0)
		n = read_input(run, buf, len);
	uio_api_leave(run);
	return n;
}

static ssize_t write_all(struct uio_file *f, const uint8_t *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = uio_file_write(f, buf + done, len - done);

		if (n <= 0)
			return done ? (ssize_t)done : n ? n : -EIO;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

ssize_t uio_write(int fd, const void *buf, size_t len)
{
	uio_api_touch(buf, len, false);
	return uio_api_write(fd, buf, len);
}

ssize_t uio_api_write(int fd, const void *buf, size_t len)
{
	struct uio_run *run;
	struct uio_file **slot;
	ssize_t n = -EBADF;

	if (fd == 1 || fd == 2)
		return output((unsigned int)fd, buf, len);
	run = uio_api_enter();
	slot = run ? slot_of(run, fd) : NULL;
	if (slot)
		n = write_all(*slot, buf, len);
	uio_api_leave(run);
	return n;
}

int64_t uio_seek(int fd, int64_t offset, int whence)
{
	struct uio_run *run = uio_api_enter();
	struct uio_file **slot = run ? slot_of(run, fd) : NULL;
	int64_t at = slot ? uio_file_seek(*slot, offset, whence) : -EBADF;

	uio_api_leave(run);
	return at;
}

int uio_fsync(int fd)
{
	struct uio_run *run = uio_api_enter();
	struct uio_file **slot = run ? slot_of(run, fd) : NULL;
	int rc = slot ? uio_file_sync(*slot) : -EBADF;

	uio_api_leave(run);
	return rc;
}

int uio_stat(const char *path, struct uio_stat *out)
{
	struct uio_run *run;
	struct uio_stat st = {0};
	int rc;

	uio_api_touch_string(path);
	run = uio_api_enter();
	rc = run ? uio_file_stat(path, &st) : -EPERM;
	uio_api_leave(run);
	if (!rc) {
		uio_api_touch(out, sizeof(*out), true);
		*out = st;
	}
	return rc;
}

/*
 * The overlay's callbacks are called when all answers are there, and libuio is
 * left: they may do what they like. The copies are the command's own memory.
 */
struct copied_entry {
	struct copied_entry *next;
	uint64_t ino;
	unsigned char type;
	char name[];
};

struct copying {
	struct uio_run *run;
	struct copied_entry *first, **last;
};

static int copy_entry(const struct uio_dirent *entry, void *arg)
{
	struct copying *c = arg;
	size_t size = strlen(entry->name) + 1;
	struct copied_entry *copy = uio_run_hold(c->run, sizeof(*copy) + size);

	if (!copy)
		return -ENOMEM;
	copy->next = NULL;
	copy->ino = entry->ino;
	copy->type = entry->type;
	memcpy(copy->name, entry->name, size);
	*c->last = copy;
	c->last = &copy->next;
	return 0;
}

/* The callback has a copy of its own memory: it may not be able to read libuio's. */
static int show_entry(struct uio_run *run, const struct copied_entry *e,
		      int (*fn)(const struct uio_dirent *entry, void *arg), void *arg)
{
	size_t size = strlen(e->name) + 1;
	struct uio_dirent *entry = uio_heap_alloc(run, sizeof(*entry) + size, 16);
	int rc;

	if (!entry)
		return -ENOMEM;
	*entry = (struct uio_dirent){.name = memcpy(entry + 1, e->name, size)};
	entry->ino = e->ino;
	entry->type = e->type;
	rc = fn(entry, arg);
	uio_heap_free(run, entry);
	return rc;
}

int uio_readdir(const char *path, int (*fn)(const struct uio_dirent *entry, void *arg), void *arg)
{
	struct copying c = {0};
	struct copied_entry *next;
	int rc;

	uio_api_touch_string(path);
	c.last = &c.first;
	c.run = uio_api_enter();
	if (!c.run)
		return -EPERM;
	rc = uio_file_readdir(path, copy_entry, &c);
	uio_api_leave(c.run);
	for (struct copied_entry *e = c.first; e; e = next) {
		if (!rc)
			rc = show_entry(c.run, e, fn, arg);
		next = e->next;
		uio_run_drop(e);
	}
	return rc;
}

static int with_path(const char *path, int (*operation)(const char *path))
{
	struct uio_run *run;
	int rc;

	uio_api_touch_string(path);
	run = uio_api_enter();
	rc = run ? operation(path) : -EPERM;
	uio_api_leave(run);
	return rc;
}

int uio_unlink(const char *path)
{
	return with_path(path, uio_file_unlink);
}

int uio_rmdir(const char *path)
{
	return with_path(path, uio_file_rmdir);
}

int uio_mkdir(const char *path, unsigned int mode)
{
	struct uio_run *run;
	int rc;

	uio_api_touch_string(path);
	run = uio_api_enter();
	rc = run ? uio_file_mkdir(path, mode) : -EPERM;
	uio_api_leave(run);
	return rc;
}

int uio_rename(const char *from, const char *to)
{
	struct uio_run *run;
	int rc;

	uio_api_touch_string(from);
	uio_api_touch_string(to);
	run = uio_api_enter();
	rc = run ? uio_file_rename(from, to) : -EPERM;
	uio_api_leave(run);
	return rc;
}

int uio_slurp(const char *path, void **data, size_t *size, size_t max)
{
	struct uio_run *run;
	void *file = NULL, *copy = NULL;
	size_t n = 0;
	int rc;

	uio_api_touch_string(path);
	run = uio_api_enter();
	if (!run)
		return -EPERM;
	rc = uio_file_slurp(path, &file, &n, max);
	if (!rc) {
		copy = uio_heap_alloc(run, n ? n : 1, 16);
		if (copy)
			memcpy(copy, file, n);
		else
			rc = -ENOMEM;
		uio_port_free(file);
	}
	uio_api_leave(run);
	if (!rc) {
		uio_api_touch(data, sizeof(*data), true);
		uio_api_touch(size, sizeof(*size), true);
		*data = copy;
		*size = n;
	}
	return rc;
}

/* ---- time, memory, the guest ---- */

uint64_t uio_now_ns(void)
{
	return uio_port_ns();
}

void uio_meminfo(size_t *total, size_t *free_bytes)
{
	size_t all = 0, left = 0;

	uio_port_meminfo(&all, &left);
	uio_api_touch(total, sizeof(*total), true);
	uio_api_touch(free_bytes, sizeof(*free_bytes), true);
	*total = all;
	*free_bytes = left;
}

/* When a sleep of this run must look again whether it is to stop. */
static uint64_t sleep_until(const struct uio_run *run, uint64_t now, uint64_t end)
{
	if (run && run->x)
		return run->x->deadline_ns < end ? run->x->deadline_ns : end;
	return end - now < SLEEP_STEP ? end : now + SLEEP_STEP;
}

int uio_sleep_ns(uint64_t ns)
{
	struct uio_run *run = uio_api_enter();
	uint64_t now = uio_port_ns(), end = ns < UINT64_MAX - now ? now + ns : UINT64_MAX;
	bool interrupted = false;

	if (run)
		uio_api_flush(run);
	for (; now < end; now = uio_port_ns()) {
		uint64_t until = sleep_until(run, now, end);

		interrupted = run && (run->stop || (run->x && uio_exec_stopping(run->x)));
		if (interrupted || until <= now)
			break;
		if (run && run->x)
			uio_port_event_wait(&run->x->wake, until - now);
		else
			uio_port_sleep(until - now);
	}
	uio_api_leave(run);
	return interrupted ? -EINTR : 0;
}

int uio_symbol(const char *name, struct uio_symbol *out)
{
	struct uio_run *run;
	struct uio_symbol symbol = {0};
	int rc = -EPERM;

	uio_api_touch_string(name);
	run = uio_api_enter();
	if (run)
		rc = uio_channel_symq(run->resident->o.hash, &name, 1, &symbol);
	if (symbol.type > 2)
		symbol.type = 1; /* how it would be called does not matter here */
	if (!rc && !symbol.type)
		rc = -ENOENT;
	uio_api_leave(run);
	if (!rc) {
		uio_api_touch(out, sizeof(*out), true);
		*out = symbol;
	}
	return rc;
}

struct copied_thread {
	struct copied_thread *next;
	struct uio_thread_info info;
	char name[40];
};

struct copying_threads {
	struct uio_run *run;
	struct copied_thread *first, **last;
};

static int copy_thread(const struct uio_thread_info *info, void *arg)
{
	struct copying_threads *c = arg;
	struct copied_thread *copy = uio_run_hold(c->run, sizeof(*copy));

	if (!copy)
		return -ENOMEM;
	copy->next = NULL;
	copy->info = *info;
	snprintf(copy->name, sizeof(copy->name), "%s", info->name ? info->name : "");
	copy->info.name = copy->name;
	*c->last = copy;
	c->last = &copy->next;
	return 0;
}

static int show_thread(struct uio_run *run, const struct copied_thread *t,
		       int (*fn)(const struct uio_thread_info *entry, void *arg), void *arg)
{
	struct copied_thread *own = uio_heap_alloc(run, sizeof(*own), 16);
	int rc;

	if (!own)
		return -ENOMEM;
	*own = *t;
	own->next = NULL;
	own->info.name = own->name;
	rc = fn(&own->info, arg);
	uio_heap_free(run, own);
	return rc;
}

int uio_threads(int (*fn)(const struct uio_thread_info *entry, void *arg), void *arg)
{
	struct copying_threads c = {0};
	struct copied_thread *next;
	int rc;

	c.last = &c.first;
	c.run = uio_api_enter();
	if (!c.run)
		return -EPERM;
	rc = uio_port_thread_foreach(copy_thread, &c);
	uio_api_leave(c.run);
	for (struct copied_thread *t = c.first; t; t = next) {
		if (!rc)
			rc = show_thread(c.run, t, fn, arg);
		next = t->next;
		uio_run_drop(t);
	}
	return rc;
}

int uio_counts(struct uio_counts *out)
{
	struct uio_counts counts = {0};

	if (!uio_port_counts)
		return -ENOSYS;
	uio_port_counts(&counts);
	uio_api_touch(out, sizeof(*out), true);
	*out = counts;
	return 0;
}

ssize_t uio_heap_blocks(struct uio_block *out, size_t max)
{
	struct uio_run *run;
	ssize_t n;

	if (!uio_port_heap_blocks)
		return -ENOSYS;
	if (max > SIZE_MAX / sizeof(*out))
		return -EINVAL;
	uio_api_touch(out, max * sizeof(*out), true);
	run = uio_api_enter();
	n = run ? uio_port_heap_blocks(out, max) : -EPERM;
	uio_api_leave(run);
	return n;
}

ssize_t uio_peek(void *dst, const void *src, size_t n)
{
	uintptr_t at = (uintptr_t)src, end = at + n < at ? UINTPTR_MAX : at + n;
	const struct uio_run *run = uio_run_self();

	if (run && run->resident->o.policy.flags & UIO_POLICY_APP_NONE)
		return -EPERM;
	uio_api_touch(dst, n, true);
	while (uio_port_readable && at < end && uio_port_readable(at))
		at = (at | (UIO_PAGE_SIZE - 1)) + 1;
	if (uio_port_readable)
		n = (at < end ? at : end) - (uintptr_t)src;
	else
		uio_api_touch(src, n, false);
	memcpy(dst, src, n);
	return (ssize_t)n;
}

void uio_poke(void *dst, const void *src, size_t n)
{
	uio_api_touch(src, n, false);
	memcpy(dst, src, n); /* the one that is meant to reach what is not the overlay's */
}

void uio_api_close_all(struct uio_run *run)
{
	for (unsigned int i = 0; i < UIO_RUN_FILES; i++) {
		if (run->files[i])
			uio_file_close(run->files[i]);
		run->files[i] = NULL;
	}
	uio_api_flush(run);
}

extern void *uio_alloc(size_t size);
extern void uio_free(void *p);

const void *const uio_api_symbols[] = {
	uio_printf,      uio_eprintf,  uio_flush,  uio_terminal, uio_log,    uio_getenv,
	uio_interrupted, uio_exit,     uio_open,   uio_close,    uio_read,   uio_write,
	uio_seek,        uio_fsync,    uio_stat,   uio_readdir,  uio_unlink, uio_rmdir,
	uio_mkdir,       uio_rename,   uio_slurp,  uio_alloc,    uio_free,   uio_now_ns,
	uio_meminfo,     uio_sleep_ns, uio_symbol, uio_threads,  uio_counts, uio_heap_blocks,
	uio_peek,        uio_poke,     NULL,
};
