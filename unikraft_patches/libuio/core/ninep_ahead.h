/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reading ahead of who reads a file from one end to the other: the next
 * messages are under way while he works on what he has. Memory is taken while
 * that goes on, and for a few files at once only.
 */
#ifndef UIO_CORE_NINEP_AHEAD_H
#define UIO_CORE_NINEP_AHEAD_H

#include "ninep_session.h"

#define NINEP_READ_CHUNK (128u * 1024)

/**
 * Serve a read from what was read ahead, or begin to read ahead with it. False:
 * this is not for us; else *n is its result.
 */
bool uio_ninep_ahead_read(struct ninep_call *c, struct uio_ninep_file *f, void *buf, size_t len,
			  uint64_t offset, ssize_t *n);
/** Stop, and forget what was read. */
void uio_ninep_ahead_end(struct ninep_ahead **ahead);
/** The file with this number changes: what was read of it before is not given to anybody. */
void uio_ninep_ahead_void(uint64_t path);

#endif /* UIO_CORE_NINEP_AHEAD_H */
