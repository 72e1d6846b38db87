/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Functions of the C library in the form that suits an overlay: the host
 * resolves an overlay's `malloc` to uio_libc_malloc here, and so on. Memory,
 * the end of the program, time and descriptors; streams are in api_stdio.c.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "overlay_impl.h"

/* The kernel's own, where it has them: for what is not the overlay's. */
extern void kernel_free(void *p) __asm__("free") __attribute__((weak));
extern ssize_t kernel_read(int fd, void *buf, size_t len) __asm__("read") __attribute__((weak));
extern ssize_t kernel_write(int fd, const void *buf, size_t len) __asm__("write")
	__attribute__((weak));
extern int *kernel_errno(void) __asm__("__errno_location") __attribute__((weak));

extern const char *uio_getenv(const char *name);
extern int uio_sleep_ns(uint64_t ns);
extern _Noreturn void uio_exit(int status);
extern ssize_t uio_read(int fd, void *buf, size_t len);
extern ssize_t uio_write(int fd, const void *buf, size_t len);
extern int uio_eprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define CALLER() ((uintptr_t)__builtin_return_address(0))
/* The caller's frame: what the frame pointer saved at our own points to. */
#define FRAME() (*(const uint64_t *)__builtin_frame_address(0))

static void set_errno(int error)
{
	if (kernel_errno)
		*kernel_errno() = error;
}

/* ---- the end ---- */

static _Noreturn void fatal(uintptr_t ip, uint64_t frame)
{
	struct uio_run *run = uio_run_self();

	if (run && run->active)
		uio_run_abort(run, UIO_TRAP_ABORT, ip, frame);
	for (;;)
		uio_port_sleep(UINT64_MAX / 2); /* no overlay: the kernel never calls this */
}

_Noreturn void uio_libc_exit(int status)
{
	uio_exit(status);
}

_Noreturn void uio_libc__exit(int status)
{
	struct uio_run *run = uio_run_self();

	if (run && run->active && run->owner == run) {
		run->nat_exit = 0;
		run->quick_exit = true;
	}
	uio_exit(status);
}

_Noreturn void uio_libc_abort(void)
{
	fatal(CALLER(), FRAME());
}

_Noreturn void uio_libc___stack_chk_fail(void)
{
	uio_eprintf("stack smashing detected\n");
	fatal(CALLER(), FRAME());
}

_Noreturn void uio_libc___assert_fail(const char *expression, const char *file, int line,
				      const char *function)
{
	uio_eprintf("%s:%d: %s: assertion failed: %s\n", file, line, function ? function : "?",
		    expression);
	fatal(CALLER(), FRAME());
}

_Noreturn void uio_libc___cxa_pure_virtual(void)
{
	uio_eprintf("pure virtual function called\n");
	fatal(CALLER(), FRAME());
}

int uio_libc_atexit(void (*fn)(void))
{
	struct uio_run *run = uio_run_self();

	run = run ? run->owner : NULL;
	if (!run || run->nat_exit == sizeof(run->at_exit) / sizeof(run->at_exit[0]))
		return -1;
	run->at_exit[run->nat_exit++] = fn;
	return 0;
}

/* Objects of C++, static ones and those in functions: they live until the overlay is unloaded. */
int uio_libc___cxa_atexit(void (*fn)(void *arg), void *arg, void *handle)
{
	struct uio_run *run = uio_api_enter();
	struct uio_at_unload *u = NULL;

	(void)handle;
	if (run)
		u = uio_port_alloc(sizeof(*u));
	if (u) {
		*u = (struct uio_at_unload){.next = run->resident->at_unload, .fn = fn, .arg = arg};
		run->resident->at_unload = u;
	}
	uio_api_leave(run);
	return u ? 0 : -1;
}

/* Commands in one overlay do not run at the same moment: no lock is needed. */
int uio_libc___cxa_guard_acquire(uint8_t *guard)
{
	return !*guard;
}

void uio_libc___cxa_guard_release(uint8_t *guard)
{
	*guard = 1;
}

/* ---- memory ---- */

static void *allocate(size_t size, size_t align)
{
	struct uio_run *run = uio_api_enter();
	void *p = run ? uio_heap_alloc(run, size, align) : NULL;

	uio_api_leave(run);
	if (!p)
		set_errno(ENOMEM);
	return p;
}

void *uio_alloc(size_t size)
{
	return allocate(size, 16);
}

/* Overlays, their stacks and heaps: the application's allocator has nothing there. */
static bool is_in_arena(const void *p)
{
	uintptr_t base;
	size_t size;

	uio_port_arena(&base, &size);
	return (uintptr_t)p - base < size;
}

void uio_free(void *p)
{
	struct uio_run *run = uio_run_self();

	if (!p)
		return;
	if (run && is_in_arena(p)) {
		bool is_block = uio_heap_owns(run, p);

		if (is_block) {
			run = uio_api_enter();
			if (run)
				is_block = uio_heap_free(run, p);
			uio_api_leave(run);
		}
		if (!is_block) {
			uio_eprintf("free() of what is no block, or was freed before\n");
			fatal(CALLER(), FRAME());
		}
	} else if (kernel_free) {
		kernel_free(p); /* the application's: it handed out what its caller frees */
	}
}

/*
 * The kernel's errno is in its own memory, where an overlay cannot write: it
 * has one of its own, which gates keep the same from when it is first asked for.
 */
int *uio_libc___errno_location(void)
{
	struct uio_run *run = uio_run_self();

	if (!run || !run->border.pkru || !kernel_errno)
		return kernel_errno ? kernel_errno() : NULL;
	if (!run->errno_cell) {
		run->errno_cell = uio_heap_alloc(run, sizeof(int), 16);
		if (run->errno_cell)
			*run->errno_cell = *kernel_errno();
	}
	return run->errno_cell ? run->errno_cell : kernel_errno();
}

void *uio_libc_malloc(size_t size)
{
	return allocate(size, 16);
}

void uio_libc_free(void *p)
{
	uio_free(p);
}

void *uio_libc_calloc(size_t n, size_t size)
{
	size_t bytes;
	void *p;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		set_errno(ENOMEM);
		return NULL;
	}
	p = allocate(bytes, 16);
	return p ? memset(p, 0, bytes) : NULL;
}

void *uio_libc_realloc(void *p, size_t size)
{
	struct uio_run *run = uio_run_self();
	size_t old;
	void *q;

	if (!p)
		return allocate(size, 16);
	if (!run || !uio_heap_owns(run, p)) {
		uio_eprintf("realloc() of memory that is not the command's own\n");
		fatal(CALLER(), FRAME());
	}
	old = uio_heap_size(run, p);
	if (!old) {
		uio_eprintf("realloc() of what is no block, or was freed before\n");
		fatal(CALLER(), FRAME());
	}
	if (size <= old && size >= old / 2)
		return p;
	q = allocate(size, 16);
	if (q) {
		memcpy(q, p, size < old ? size : old);
		uio_free(p);
	}
	return q;
}

void *uio_libc_reallocarray(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		set_errno(ENOMEM);
		return NULL;
	}
	return uio_libc_realloc(p, bytes);
}

void *uio_libc_aligned_alloc(size_t align, size_t size)
{
	if (!align || align & (align - 1)) {
		set_errno(EINVAL);
		return NULL;
	}
	return allocate(size, align);
}

int uio_libc_posix_memalign(void **out, size_t align, size_t size)
{
	void *p;

	if (align < sizeof(void *) || align & (align - 1))
		return EINVAL;
	p = allocate(size, align);
	if (p)
		*out = p;
	return p ? 0 : ENOMEM;
}

char *uio_libc_strndup(const char *s, size_t max)
{
	const char *nul = memchr(s, 0, max);
	size_t n = nul ? (size_t)(nul - s) : max;
	char *copy = allocate(n + 1, 16);

	if (copy) {
		memcpy(copy, s, n);
		copy[n] = '\0';
	}
	return copy;
}

char *uio_libc_strdup(const char *s)
{
	return uio_libc_strndup(s, strlen(s));
}

int uio_libc_vasprintf(char **out, const char *fmt, va_list args)
{
	va_list again;
	char *text;
	int n;

	va_copy(again, args);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	text = n < 0 ? NULL : allocate((size_t)n + 1, 16);
	if (!text)
		return -1;
	*out = text;
	return vsnprintf(text, (size_t)n + 1, fmt, args);
}

int uio_libc_asprintf(char **out, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = uio_libc_vasprintf(out, fmt, args);
	va_end(args);
	return n;
}

/* C++: operator new and delete, with and without sizes. */
static void *new_or_die(size_t size, uintptr_t ip, uint64_t frame)
{
	void *p = allocate(size ? size : 1, 16);

	if (!p) {
		uio_eprintf("operator new: out of memory\n");
		fatal(ip, frame);
	}
	return p;
}

void *uio_libc__Znwm(size_t size)
{
	return new_or_die(size, CALLER(), FRAME());
}

void *uio_libc__Znam(size_t size)
{
	return new_or_die(size, CALLER(), FRAME());
}

void uio_libc__ZdlPv(void *p)
{
	uio_free(p);
}

void uio_libc__ZdaPv(void *p)
{
	uio_free(p);
}

void uio_libc__ZdlPvm(void *p, size_t size)
{
	(void)size;
	uio_free(p);
}

void uio_libc__ZdaPvm(void *p, size_t size)
{
	(void)size;
	uio_free(p);
}

/* ---- descriptors, environment, time ---- */

static ssize_t result(ssize_t n)
{
	if (n >= 0)
		return n;
	set_errno((int)-n);
	return -1;
}

/* Only the three standard ones are the command's; others are the application's descriptors. */
ssize_t uio_libc_write(int fd, const void *buf, size_t len)
{
	if ((unsigned int)fd <= 2)
		return result(uio_write(fd, buf, len));
	return kernel_write ? kernel_write(fd, buf, len) : result(-EBADF);
}

ssize_t uio_libc_read(int fd, void *buf, size_t len)
{
	if ((unsigned int)fd <= 2)
		return result(uio_read(fd, buf, len));
	return kernel_read ? kernel_read(fd, buf, len) : result(-EBADF);
}

int uio_libc_isatty(int fd)
{
	struct uio_run *run = uio_run_self();

	if ((unsigned int)fd <= 2 && run && run->x && run->x->tty)
		return 1;
	set_errno(ENOTTY);
	return 0;
}

char *uio_libc_getenv(const char *name)
{
	return (char *)(uintptr_t)uio_getenv(name);
}

unsigned int uio_libc_sleep(unsigned int seconds)
{
	return uio_sleep_ns(seconds * 1000000000ull) ? seconds : 0;
}

int uio_libc_usleep(unsigned int us)
{
	return (int)result(uio_sleep_ns(us * 1000ull));
}

int uio_libc_nanosleep(const struct timespec *want, struct timespec *left)
{
	if (want->tv_nsec < 0 || want->tv_nsec >= 1000000000L || want->tv_sec < 0)
		return (int)result(-EINVAL);
	if (left)
		*left = (struct timespec){0};
	return (int)result(
		uio_sleep_ns((uint64_t)want->tv_sec * 1000000000ull + (uint64_t)want->tv_nsec));
}

const void *const uio_api_libc_symbols[] = {
	uio_libc_exit,
	uio_libc__exit,
	uio_libc_abort,
	uio_libc___stack_chk_fail,
	uio_libc___assert_fail,
	uio_libc___cxa_pure_virtual,
	uio_libc_atexit,
	uio_libc___cxa_atexit,
	uio_libc___cxa_guard_acquire,
	uio_libc___cxa_guard_release,
	uio_libc_malloc,
	uio_libc_free,
	uio_libc_calloc,
	uio_libc_realloc,
	uio_libc_reallocarray,
	uio_libc_aligned_alloc,
	uio_libc_posix_memalign,
	uio_libc_strndup,
	uio_libc_strdup,
	uio_libc_vasprintf,
	uio_libc_asprintf,
	uio_libc__Znwm,
	uio_libc__Znam,
	uio_libc__ZdlPv,
	uio_libc__ZdaPv,
	uio_libc__ZdlPvm,
	uio_libc__ZdaPvm,
	uio_libc_write,
	uio_libc_read,
	uio_libc_isatty,
	uio_libc_getenv,
	uio_libc_sleep,
	uio_libc_usleep,
	uio_libc_nanosleep,
	uio_libc___errno_location,
	NULL,
};
