/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The C library's streams for overlays: stdin, stdout and stderr are the
 * command's, fopen() opens files of uIO-fs and `guest:` ones. The first three
 * are known by the pointers in the kernel's variables of that name, whatever
 * a FILE is there; a FILE that the application opened goes to the kernel.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

#include "overlay_impl.h"

#define END (-1) /* EOF */

extern void *kernel_stdin __asm__("stdin") __attribute__((weak));
extern void *kernel_stdout __asm__("stdout") __attribute__((weak));
extern void *kernel_stderr __asm__("stderr") __attribute__((weak));
extern int kernel_vfprintf(void *f, const char *fmt, va_list args) __asm__("vfprintf")
	__attribute__((weak));
extern size_t kernel_fwrite(const void *buf, size_t size, size_t n, void *f) __asm__("fwrite")
	__attribute__((weak));
extern int kernel_fflush(void *f) __asm__("fflush") __attribute__((weak));
extern int *kernel_errno(void) __asm__("__errno_location") __attribute__((weak));

extern int uio_api_vprint(unsigned int stream, const char *fmt, va_list args);
extern int uio_flush(void);
extern int uio_open(const char *path, int flags, unsigned int mode);
extern int uio_close(int fd);
extern ssize_t uio_read(int fd, void *buf, size_t len);
extern ssize_t uio_write(int fd, const void *buf, size_t len);
extern int64_t uio_seek(int fd, int64_t offset, int whence);
extern int uio_libc_vasprintf(char **out, const char *fmt, va_list args);
extern void uio_free(void *p);
extern void *uio_alloc(size_t size);

/* A stream of fopen(), or the command's standard input: in libuio's memory, gone with the command.
 */
struct uio_stream {
	struct uio_stream *next;
	int fd;
	bool at_end, failed;
	size_t used, filled; /* of room, while reading */
	size_t unwritten;    /* of room, while writing */
	uint8_t room[2048];
};

static int seterr(ssize_t error)
{
	if (kernel_errno)
		*kernel_errno() = (int)-error;
	return END;
}

/* 0, 1, 2: a standard stream; -1: another. */
static int standard(const void *f)
{
	if (&kernel_stdout && f == kernel_stdout)
		return 1;
	if (&kernel_stderr && f == kernel_stderr)
		return 2;
	return &kernel_stdin && f == kernel_stdin ? 0 : -1;
}

static struct uio_stream *stream_new(struct uio_run *run, int fd)
{
	struct uio_stream *s = uio_run_hold(run, sizeof(*s));

	run = run->owner;
	if (s) {
		memset(s, 0, sizeof(*s));
		s->fd = fd;
		s->next = run->streams;
		run->streams = s;
	}
	return s;
}

/* The stream behind f, unless it is the application's: that of stdin is made when it is asked for.
 */
static struct uio_stream *own(const void *f)
{
	struct uio_run *run = uio_run_self();
	bool is_stdin = standard(f) == 0;

	if (!run)
		return NULL;
	for (struct uio_stream *s = run->owner->streams; s; s = s->next)
		if (s == f || (is_stdin && s->fd == 0))
			return s;
	return is_stdin ? stream_new(run, 0) : NULL;
}

/* ---- out ---- */

static int write_out(struct uio_stream *s)
{
	size_t n = s->unwritten;
	ssize_t rc = n ? uio_api_write(s->fd, s->room, n) : 0;

	s->unwritten = 0;
	if (rc == (ssize_t)n)
		return 0;
	s->failed = true;
	return seterr(rc < 0 ? rc : -EIO);
}

/* Forget what was read ahead: the file's position is where the program thinks it is. */
static void stop_reading(struct uio_stream *s)
{
	if (s->fd && s->filled > s->used)
		uio_seek(s->fd, -(int64_t)(s->filled - s->used), 1 /* SEEK_CUR */);
	s->used = s->filled = 0;
}

static int put(struct uio_stream *s, const void *buf, size_t len)
{
	ssize_t rc;

	stop_reading(s);
	if (len > sizeof(s->room) - s->unwritten && write_out(s))
		return END;
	if (len < sizeof(s->room)) {
		memcpy(s->room + s->unwritten, buf, len);
		s->unwritten += len;
		return 0;
	}
	rc = uio_api_write(s->fd, buf, len);
	if (rc == (ssize_t)len)
		return 0;
	s->failed = true;
	return seterr(rc < 0 ? rc : -EIO);
}

/* From libuio's own memory, or what was looked at. */
static size_t write_to(const void *buf, size_t size, size_t n, void *f)
{
	int fd = standard(f);
	struct uio_stream *s;
	size_t len;
	ssize_t rc;

	if (__builtin_mul_overflow(size, n, &len) || !len)
		return 0;
	if (fd > 0) {
		rc = uio_api_write(fd, buf, len);
		return rc == (ssize_t)len ? n : (seterr(rc < 0 ? rc : -EIO), 0);
	}
	s = own(f);
	if (s)
		return put(s, buf, len) ? 0 : n;
	return kernel_fwrite ? kernel_fwrite(buf, size, n, f) : 0;
}

size_t uio_libc_fwrite(const void *buf, size_t size, size_t n, void *f)
{
	size_t len;

	if (!__builtin_mul_overflow(size, n, &len))
		uio_api_touch(buf, len, false);
	return write_to(buf, size, n, f);
}

int uio_libc_vfprintf(void *f, const char *fmt, va_list args)
{
	int fd = standard(f), n;
	char *text;

	if (fd > 0) {
		n = uio_api_vprint((unsigned int)fd, fmt, args);
		return n < 0 ? seterr(n) : n;
	}
	if (!own(f))
		return kernel_vfprintf ? kernel_vfprintf(f, fmt, args) : seterr(-EBADF);
	n = uio_libc_vasprintf(&text, fmt, args);
	if (n < 0)
		return END;
	n = uio_libc_fwrite(text, 1, (size_t)n, f) == (size_t)n ? n : END;
	uio_free(text);
	return n;
}

int uio_libc_fprintf(void *f, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = uio_libc_vfprintf(f, fmt, args);
	va_end(args);
	return n;
}

int uio_libc_vprintf(const char *fmt, va_list args)
{
	int n = uio_api_vprint(1, fmt, args);

	return n < 0 ? seterr(n) : n;
}

int uio_libc_printf(const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = uio_libc_vprintf(fmt, args);
	va_end(args);
	return n;
}

int uio_libc_dprintf(int fd, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = fd == 1 || fd == 2 ? uio_api_vprint((unsigned int)fd, fmt, args) : -EBADF;
	va_end(args);
	return n < 0 ? seterr(n) : n;
}

int uio_libc_fputs(const char *text, void *f)
{
	size_t n = strlen(text);

	return !n || uio_libc_fwrite(text, 1, n, f) == n ? 0 : END;
}

int uio_libc_puts(const char *text)
{
	size_t len = strlen(text);
	ssize_t n;

	uio_api_touch(text, len, false);
	n = uio_api_line(text, len);
	return n < 0 ? seterr(n) : 0;
}

int uio_libc_fputc(int c, void *f)
{
	unsigned char byte = (unsigned char)c;

	return write_to(&byte, 1, 1, f) == 1 ? byte : END;
}

int uio_libc_putc(int c, void *f)
{
	return uio_libc_fputc(c, f);
}

int uio_libc_putchar(int c)
{
	unsigned char byte = (unsigned char)c;
	ssize_t n = uio_api_write(1, &byte, 1);

	return n == 1 ? byte : seterr(n < 0 ? n : -EIO);
}

int uio_api_flush_all(void)
{
	struct uio_run *run = uio_run_self();
	int rc = uio_flush();

	for (struct uio_stream *s = run ? run->owner->streams : NULL; s; s = s->next)
		if (write_out(s))
			rc = END;
	return rc < 0 ? END : 0;
}

void uio_api_flush_last(struct uio_run *run)
{
	if (run->x && run->buffered) {
		uio_exec_write_last(run->x, run->buffer, run->buffered);
		run->buffered = 0;
	}
	uio_api_flush_all();
}

int uio_libc_fflush(void *f)
{
	int fd = f ? standard(f) : -1;
	struct uio_stream *s;

	if (!f)
		return uio_api_flush_all();
	if (fd >= 0)
		return uio_flush() < 0 ? END : 0;
	s = own(f);
	if (s)
		return write_out(s);
	return kernel_fflush ? kernel_fflush(f) : END;
}

void uio_libc_perror(const char *text)
{
	int error = kernel_errno ? *kernel_errno() : 0;

	if (text && *text)
		uio_libc_fprintf(kernel_stderr, "%s: %s\n", text, strerror(error));
	else
		uio_libc_fprintf(kernel_stderr, "%s\n", strerror(error));
}

/* ---- in ---- */

/* More bytes into room: false at the end, or after an error. */
static bool fetch(struct uio_stream *s)
{
	ssize_t n;

	if (s->unwritten && write_out(s))
		return false;
	n = uio_api_read(s->fd, s->room, sizeof(s->room));
	s->used = 0;
	s->filled = n > 0 ? (size_t)n : 0;
	if (n == 0)
		s->at_end = true;
	if (n < 0) {
		s->failed = true;
		seterr(n);
	}
	return n > 0;
}

int uio_libc_fgetc(void *f)
{
	struct uio_stream *s = own(f);

	if (!s || (s->used == s->filled && !fetch(s)))
		return END;
	return s->room[s->used++];
}

int uio_libc_getc(void *f)
{
	return uio_libc_fgetc(f);
}

int uio_libc_getchar(void)
{
	return uio_libc_fgetc(kernel_stdin);
}

int uio_libc_ungetc(int c, void *f)
{
	struct uio_stream *s = own(f);

	if (!s || c == END || !s->used)
		return END;
	s->room[--s->used] = (uint8_t)c;
	s->at_end = false;
	return c;
}

char *uio_libc_fgets(char *line, int size, void *f)
{
	int n = 0, c = 0;

	while (n + 1 < size && c != '\n') {
		c = uio_libc_fgetc(f);
		if (c == END)
			break;
		line[n++] = (char)c;
	}
	if (!n)
		return NULL;
	line[n] = '\0';
	return line;
}

size_t uio_libc_fread(void *buf, size_t size, size_t n, void *f)
{
	struct uio_stream *s = own(f);
	uint8_t *to = buf;
	size_t len, done = 0;

	if (!s || __builtin_mul_overflow(size, n, &len) || !len)
		return 0;
	while (done < len) {
		size_t have = s->filled - s->used;

		if (!have && len - done >= sizeof(s->room)) {
			ssize_t got = uio_read(s->fd, to + done, len - done);

			if (got <= 0) {
				s->at_end = got == 0;
				s->failed = got < 0;
				break;
			}
			done += (size_t)got;
			continue;
		}
		if (!have && !fetch(s))
			break;
		have = s->filled - s->used;
		if (have > len - done)
			have = len - done;
		memcpy(to + done, s->room + s->used, have);
		s->used += have;
		done += have;
	}
	return done / size;
}

/* ---- files ---- */

static int flags_of(const char *mode)
{
	bool both = strchr(mode, '+') != NULL;

	switch (*mode) {
	case 'r':
		return both ? O_RDWR : O_RDONLY;
	case 'w':
		return (both ? O_RDWR : O_WRONLY) | O_CREAT | O_TRUNC |
		       (strchr(mode, 'x') ? O_EXCL : 0);
	case 'a':
		return (both ? O_RDWR : O_WRONLY) | O_CREAT | O_APPEND;
	default:
		return -EINVAL;
	}
}

void *uio_libc_fopen(const char *path, const char *mode)
{
	struct uio_run *run = uio_run_self();
	int flags = flags_of(mode), fd;
	struct uio_stream *s;

	if (!run || flags < 0) {
		seterr(-EINVAL);
		return NULL;
	}
	fd = uio_open(path, flags, 0644);
	if (fd < 0) {
		seterr(fd);
		return NULL;
	}
	s = stream_new(run, fd);
	if (!s)
		uio_close(fd);
	return s;
}

int uio_libc_fclose(void *f)
{
	struct uio_stream *s = own(f), **at;
	int rc, closed;

	if (!s)
		return standard(f) > 0 ? (uio_flush() ? END : 0) : seterr(-EBADF);
	rc = write_out(s);
	for (at = &uio_run_self()->owner->streams; *at != s; at = &(*at)->next)
		;
	*at = s->next;
	closed = s->fd ? uio_close(s->fd) : 0;
	uio_run_drop(s);
	return closed < 0 ? seterr(closed) : rc;
}

int uio_libc_fseek(void *f, long offset, int whence)
{
	struct uio_stream *s = own(f);
	int64_t at;

	if (!s)
		return seterr(-ESPIPE);
	if (write_out(s))
		return END;
	stop_reading(s);
	at = uio_seek(s->fd, offset, whence);
	s->at_end = false;
	return at < 0 ? seterr((ssize_t)at) : 0;
}

long uio_libc_ftell(void *f)
{
	struct uio_stream *s = own(f);
	int64_t at = s ? uio_seek(s->fd, 0, 1 /* SEEK_CUR */) : -ESPIPE;

	if (at < 0)
		return seterr((ssize_t)at);
	return (long)at - (long)(s->filled - s->used) + (long)s->unwritten;
}

void uio_libc_rewind(void *f)
{
	struct uio_stream *s = own(f);

	uio_libc_fseek(f, 0, 0);
	if (s)
		s->failed = false;
}

int uio_libc_feof(void *f)
{
	struct uio_stream *s = own(f);

	return s && s->at_end;
}

int uio_libc_ferror(void *f)
{
	struct uio_stream *s = own(f);

	return s && s->failed;
}

void uio_libc_clearerr(void *f)
{
	struct uio_stream *s = own(f);

	if (s)
		s->at_end = s->failed = false;
}

int uio_libc_fileno(void *f)
{
	struct uio_stream *s = own(f);
	int fd = standard(f);

	return fd >= 0 ? fd : s ? s->fd : seterr(-EBADF);
}

int uio_libc_setvbuf(void *f, char *buf, int mode, size_t size)
{
	(void)f, (void)buf, (void)mode, (void)size;
	return 0; /* uIO buffers as it does */
}

void uio_libc_setbuf(void *f, char *buf)
{
	(void)f, (void)buf;
}

const void *const uio_api_stdio_symbols[] = {
	uio_libc_fwrite,
	uio_libc_vfprintf,
	uio_libc_fprintf,
	uio_libc_vprintf,
	uio_libc_printf,
	uio_libc_dprintf,
	uio_libc_fputs,
	uio_libc_puts,
	uio_libc_fputc,
	uio_libc_putc,
	uio_libc_putchar,
	uio_libc_fflush,
	uio_libc_perror,
	uio_libc_fgetc,
	uio_libc_getc,
	uio_libc_getchar,
	uio_libc_ungetc,
	uio_libc_fgets,
	uio_libc_fread,
	uio_libc_fopen,
	uio_libc_fclose,
	uio_libc_fseek,
	uio_libc_ftell,
	uio_libc_rewind,
	uio_libc_feof,
	uio_libc_ferror,
	uio_libc_clearerr,
	uio_libc_fileno,
	uio_libc_setvbuf,
	uio_libc_setbuf,
	NULL,
};
