/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the shell connects commands with: pipes in memory (`a | b`) and files
 * (`> FILE`, `< FILE`).
 */
#ifndef UIO_CORE_STREAM_H
#define UIO_CORE_STREAM_H

#include "exec.h"

struct uio_pipe;

/** A pipe with both ends open; NULL: no memory. */
struct uio_pipe *uio_pipe_new(void);
/** Writes all of it: len, -EPIPE (nobody reads), -EINTR. */
ssize_t uio_pipe_write(struct uio_pipe *p, struct uio_exec *x, const void *buf, size_t len);
/** Bytes, 0 = the writer has ended, -EINTR. */
ssize_t uio_pipe_read(struct uio_pipe *p, struct uio_exec *x, void *buf, size_t len);
/** Close an end; the pipe goes with its second. NULL is allowed. */
void uio_pipe_close_writer(struct uio_pipe *p);
void uio_pipe_close_reader(struct uio_pipe *p);

struct uio_file;

/* Output into a file, gathered into large pieces. */
struct uio_sink {
	struct uio_file *file;
	char *buf;
	size_t len;
};
int uio_sink_open(struct uio_sink *s, const char *path, bool append);
ssize_t uio_sink_write(struct uio_sink *s, const void *buf, size_t len);
/** Write what is gathered and close; 0, or the first error. */
int uio_sink_close(struct uio_sink *s);

#endif /* UIO_CORE_STREAM_H */
