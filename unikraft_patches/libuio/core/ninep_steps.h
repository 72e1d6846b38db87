/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What operations on the host's files are made of: messages of numbers, walks
 * along a path, and what is asked about the file at its end in the same round
 * trip.
 */
#ifndef UIO_CORE_NINEP_STEPS_H
#define UIO_CORE_NINEP_STEPS_H

#include "ninep_session.h"

#define NINEP_WALKS_MAX 4u /* 64 components */

struct ninep_walk {
	struct ninep_request *requests[NINEP_WALKS_MAX];
	unsigned int n;
	uint32_t fid;
};

/* Something to ask about a fid: a message of 32-bit numbers, the fid in front of them. */
struct ninep_step {
	uint8_t type, n;
	uint32_t numbers[3];
	void *data;     /* Tread, Treaddir: where it goes */
	uint32_t asked; /* Tread, Treaddir, Twrite: how much */
	struct ninep_request *request;
};

/** The next component of *path, which moves on; NULL: there is none. */
const char *uio_ninep_component(const char **path, size_t *len);
/** How many there are. */
unsigned int uio_ninep_depth(const char *path);

/** Walk from the root along the first `names` components of path. w->fid is to be dropped. */
int uio_ninep_walk(struct ninep_call *c, const char *path, unsigned int names,
		   struct ninep_walk *w);
/** Walk to path and take all steps there, in one round trip. w->fid is to be dropped. */
int uio_ninep_walk_and(struct ninep_call *c, const char *path, struct ninep_walk *w,
		       struct ninep_step *steps, unsigned int n);
/** Send one. */
int uio_ninep_step_send(struct ninep_call *c, uint32_t fid, struct ninep_step *s, const void *data,
			size_t len);
/** Take one at a fid. */
int uio_ninep_step(struct ninep_call *c, uint32_t fid, struct ninep_step *s);
/** Tread, Treaddir or Twrite; never more than a message holds. */
struct ninep_step uio_ninep_io(uint8_t type, uint64_t offset, void *buf, size_t len);
/** Bytes that one message carries, `most` at most. */
uint32_t uio_ninep_room(uint32_t most);

/* ---- ninep_names.c ---- */

/** Asks for all that the two below tell. */
struct ninep_step uio_ninep_getattr(void);
void uio_ninep_attributes(const struct ninep_request *r, struct uio_stat *out);
void uio_ninep_identify(const struct ninep_request *r, struct uio_file_identity *out);
/** Make and open a file: the reply, with its fid. */
int uio_ninep_create(struct ninep_call *c, const char *path, int flags, unsigned int mode,
		     struct ninep_request **made);

/* ---- ninep_files.c ---- */

/** Begin an operation on an open file: -EIO if its connection is gone. */
int uio_ninep_begin_file(struct ninep_call *c, const struct uio_ninep_file *f);

#endif /* UIO_CORE_NINEP_STEPS_H */
