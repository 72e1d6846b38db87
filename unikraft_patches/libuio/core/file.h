/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Files for commands and overlays under one roof: uIO-fs over 9P (`/bin`,
 * `/host`, `/vm`, anything from its root) and the guest's own files, which
 * are named `guest:/path`. All calls block the calling command and end with
 * -EINTR when it is cancelled, -EIO when the host goes away.
 */
#ifndef UIO_CORE_FILE_H
#define UIO_CORE_FILE_H

#include <uio/port.h>

struct uio_file;

/** Linux open flags and mode. */
int uio_file_open(struct uio_file **out, const char *path, int flags, unsigned int mode);
/** At the file's own position, which moves; up to len, pipelined for large ones. */
ssize_t uio_file_read(struct uio_file *f, void *buf, size_t len);
ssize_t uio_file_write(struct uio_file *f, const void *buf, size_t len);
int64_t uio_file_seek(struct uio_file *f, int64_t offset, int whence);
int uio_file_sync(struct uio_file *f);
int uio_file_close(struct uio_file *f);
/** A thread has not come back from one of the calls above; who closes it takes it from under that.
 */
bool uio_file_is_in_use(const struct uio_file *f);

int uio_file_stat(const char *path, struct uio_stat *out);
int uio_file_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg);
int uio_file_unlink(const char *path);
int uio_file_rmdir(const char *path);
int uio_file_mkdir(const char *path, unsigned int mode);
int uio_file_rename(const char *from, const char *to);

/** Bytes in all and available of the file system behind path. */
int uio_file_space(const char *path, uint64_t *total, uint64_t *available);

/**
 * The whole file in one round trip (pipelined walk, open, read, clunk), in
 * heap memory that the caller frees; at most max bytes, else -EFBIG.
 */
int uio_file_slurp(const char *path, void **out, size_t *size, size_t max);

/** Called by the context whenever org.uio.fs may have something. Never blocks. */
void uio_ninep_poll(void);

#endif /* UIO_CORE_FILE_H */
