/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What an overlay can ask of uIO. An overlay is an ordinary program with a
 * main(): printf, puts, malloc, exit, fopen and their kin of the C library do
 * what they say, on the command's own streams and memory. Beside them it may
 * call any function and use any variable of the application by a plain
 * `extern` declaration, and the functions below.
 *
 * All of it: functions that return int or long give 0 or a count, or a
 * negative errno. What a command has opened or allocated is given back at its
 * end, however it ends. A command that is cancelled, or whose time is up, ends
 * inside the next call of any of these, unless it has called
 * uio_interrupted(): then it is expected to end by itself.
 *
 * Global variables begin anew with each command, unless the manifest says
 * `keep = true`: then they keep their values as long as the overlay stays
 * loaded. A second command in it at the same time finds them as they are.
 */
#ifndef UIO_UIO_H
#define UIO_UIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- input and output: 0 standard input, 1 standard output, 2 standard error ---- */

/** Write to standard output; the number of bytes. printf() does the same. */
int uio_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/** Write to standard error. */
int uio_eprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/** Send what is buffered of standard output. Happens by itself at the end, before reads and sleeps.
 */
int uio_flush(void);
/** Whether somebody looks at a terminal; its size in *rows and *columns (either may be NULL). */
bool uio_terminal(unsigned int *rows, unsigned int *columns);
/** Level as syslog's (3 error, 4 warning, 6 info, 7 debug): to the daemon's log and `dmesg`. */
void uio_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- the command ---- */

/** A variable of the environment, or NULL. */
const char *uio_getenv(const char *name);
/** The signal of Ctrl-C or `cancel`, 0 if there was none. Who calls this ends by itself. */
int uio_interrupted(void);
/** End the command at once. */
void uio_exit(int status) __attribute__((noreturn));

/* ---- files: of uIO-fs (`/bin`, `/host`, `/vm`), or of the guest (`guest:/etc/x`) ---- */

/** Flags and mode as of open(2) (<fcntl.h>). A number of the command's own, 3 or more. */
int uio_open(const char *path, int flags, unsigned int mode);
/** -EBUSY: a thread of the command is in the midst of reading or writing it. */
int uio_close(int fd);
/**
 * Up to len bytes; 0 at the end. fd 0 is standard input. Of a file that is read from one end to
 * the other more is fetched ahead: what the host changes meanwhile may be seen a second late.
 */
ssize_t uio_read(int fd, void *buf, size_t len);
/** All of them. fd 1 and 2 are the command's streams. */
ssize_t uio_write(int fd, const void *buf, size_t len);
/** whence as of lseek(2); the new position. */
int64_t uio_seek(int fd, int64_t offset, int whence);
int uio_fsync(int fd);

struct uio_info {
	uint64_t size, mtime_ns, ino;
	uint32_t mode; /* as st_mode of stat(2) */
	uint32_t nlink;
};
int uio_stat(const char *path, struct uio_info *out);

struct uio_entry {
	const char *name;
	uint64_t ino;
	unsigned char type; /* DT_* of readdir(3) */
};
/** Call fn for each entry until it returns non-zero; returns that. */
int uio_readdir(const char *path, int (*fn)(const struct uio_entry *entry, void *arg), void *arg);
int uio_unlink(const char *path);
int uio_rmdir(const char *path);
int uio_mkdir(const char *path, unsigned int mode);
int uio_rename(const char *from, const char *to);
/** A whole file of at most max bytes, in memory of uio_alloc(). */
int uio_slurp(const char *path, void **data, size_t *size, size_t max);

/* ---- memory: as malloc(), within the command's limit, gone with the command ---- */

void *uio_alloc(size_t size);
void uio_free(void *p);
/** The guest's heap in bytes: all of it, free. */
void uio_meminfo(size_t *total, size_t *free_bytes);

/**
 * Write into memory of the application, which the overlay itself may only
 * read. It stops the command if the memory is not there, or read-only.
 */
void uio_poke(void *dst, const void *src, size_t n);

/**
 * Copy from memory that may not be there: the number of bytes up to the first
 * that cannot be read. Where the kernel cannot tell beforehand, reading them
 * stops the command. -EPERM: the manifest says app = "none".
 */
ssize_t uio_peek(void *dst, const void *src, size_t n);

/* ---- time ---- */

/** Nanoseconds since boot. */
uint64_t uio_now_ns(void);
/** 0, or -EINTR. */
int uio_sleep_ns(uint64_t ns);

/* ---- the guest ---- */

struct uio_symbol_info {
	uint64_t address;
	uint32_t size;
	uint8_t type; /* 1 function, 2 object */
};
/** Where a symbol of the kernel or application is: asked of the host. -ENOENT. */
int uio_symbol(const char *name, struct uio_symbol_info *out);

struct uio_thread_entry {
	const char *name;
	unsigned int id;
	char state; /* R running, r runnable, S blocked */
	bool ours;  /* one of uIO's */
	uint64_t cpu_ns;
	size_t stack_size;
	uint64_t switches; /* how often it got the CPU; 0: not counted */
	/* Where its own code was left; all 0 if it runs, or if the kernel cannot tell. */
	uint64_t ip, sp, fp;
};
/** Call fn for each thread until it returns non-zero; returns that. */
int uio_threads(int (*fn)(const struct uio_thread_entry *entry, void *arg), void *arg);

/* What has happened since boot. */
struct uio_event_counts {
	uint64_t switches, interrupts, idle_ns;
};
/** -ENOSYS: this kernel does not count. */
int uio_counts(struct uio_event_counts *out);

/* A block of the application's heap. */
struct uio_heap_block {
	uint64_t address, size; /* as it was asked for */
	uint64_t slot;          /* bytes that it takes */
};
/**
 * The blocks of the application's heap that are in use, the first max of them;
 * how many there are. -EAGAIN: the heap is just being changed; -ENOSYS: the
 * kernel does not know the allocator.
 */
ssize_t uio_heap_blocks(struct uio_heap_block *out, size_t max);

#ifdef __cplusplus
}
#endif

#endif /* UIO_UIO_H */
