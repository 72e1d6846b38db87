/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uIO-fs by 9P2000.L: operations on paths and open files of the host. Paths
 * are absolute and taken lexically; commands come here through file.h. All
 * calls block the calling thread, never the context, and end with -EINTR when
 * its command is cancelled and -EIO when the host goes away.
 */
#ifndef UIO_CORE_NINEP_H
#define UIO_CORE_NINEP_H

#include <uio/port.h>

struct ninep_ahead;

/* An open file. It ends with the connection on which it was opened. */
struct uio_ninep_file {
	uint32_t fid;
	uint32_t epoch;
	uint64_t path; /* its number on the server */
	uint64_t next; /* where a read would go on from the last one; UINT64_MAX: nowhere */
	struct ninep_ahead *ahead; /* what is read ahead of its reader; NULL: nothing */
};

/* What tells a file from another, or from itself after a change. */
struct uio_file_identity {
	uint64_t path, size, mtime_ns;
	uint32_t version;
};

int uio_ninep_open(const char *path, int flags, unsigned int mode, struct uio_ninep_file *out);
int uio_ninep_close(struct uio_ninep_file *f);
ssize_t uio_ninep_read(struct uio_ninep_file *f, void *buf, size_t len, uint64_t offset);
ssize_t uio_ninep_write(struct uio_ninep_file *f, const void *buf, size_t len, uint64_t offset);
int uio_ninep_fsync(const struct uio_ninep_file *f);
int uio_ninep_fstat(const struct uio_ninep_file *f, struct uio_stat *out);

int uio_ninep_stat(const char *path, struct uio_stat *out);
int uio_ninep_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg);
/** flags: 0, or 0x200 (AT_REMOVEDIR) for a directory. */
int uio_ninep_unlink(const char *path, unsigned int flags);
int uio_ninep_mkdir(const char *path, unsigned int mode);
int uio_ninep_rename(const char *from, const char *to);
int uio_ninep_space(const char *path, uint64_t *total, uint64_t *available);

int uio_ninep_identity(const char *path, struct uio_file_identity *out);
/** As uio_file_slurp(); identity (may be NULL) is of the content that was read. */
int uio_ninep_slurp(const char *path, void **out, size_t *size, size_t max,
		    struct uio_file_identity *identity);

/** The thread was taken out of whatever it did here: nothing may be written to its memory. */
void uio_ninep_abandon(const struct uio_thread *thread);

#endif /* UIO_CORE_NINEP_H */
