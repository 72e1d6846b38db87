/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The 9P connection under the operations (ninep_steps.h): requests with tags,
 * fids, and whose thread waits for what. The context receives (uio_ninep_poll)
 * and puts what comes where the waiter wants it; commands' threads send.
 */
#ifndef UIO_CORE_NINEP_SESSION_H
#define UIO_CORE_NINEP_SESSION_H

#include <string.h>

#include "exec.h"
#include "ninep.h"

enum {
	NINEP_RLERROR = 7,
	NINEP_TSTATFS = 8,
	NINEP_TLOPEN = 12,
	NINEP_TLCREATE = 14,
	NINEP_TGETATTR = 24,
	NINEP_TREADDIR = 40,
	NINEP_TFSYNC = 50,
	NINEP_TMKDIR = 72,
	NINEP_TRENAMEAT = 74,
	NINEP_TUNLINKAT = 76,
	NINEP_TVERSION = 100,
	NINEP_TATTACH = 104,
	NINEP_TWALK = 110,
	NINEP_TREAD = 116,
	NINEP_TWRITE = 118,
	NINEP_TCLUNK = 120,
};

#define NINEP_HEADER    7u
#define NINEP_IOHDR     24u /* in front of the data of Twrite and Rread, at most */
#define NINEP_REPLY_MAX 224u
#define NINEP_WALK_MAX  16u
#define NINEP_ROOT      0u
#define NINEP_NOFID     0xffffffffu

struct ninep_call;

/* One message and its reply. */
struct ninep_request {
	struct ninep_request *next; /* of the same call */
	struct ninep_call *call;    /* NULL: nobody waits any more */
	uint8_t type;               /* T number; the reply's is one more */
	bool sent, done;
	uint16_t tag;
	int error;                /* 0 or a negative errno, when done */
	uint32_t fid;             /* which it uses or makes; NINEP_NOFID: none */
	uint8_t walked;           /* Twalk: names that must be found */
	void *data;               /* of Rread, Rreaddir: where it goes */
	uint32_t asked, received; /* bytes of data; also of Twrite */
	uint8_t reply[NINEP_REPLY_MAX];
	uint32_t reply_size;
	uint32_t size, room; /* of message */
	uint8_t message[];
};

/* What one thread is doing: requests under way, and how it is woken. */
struct ninep_call {
	struct ninep_call *next;
	const struct uio_thread *thread;
	struct uio_exec *x;
	struct uio_event own, *wake;
	uint32_t epoch;
	bool lasting; /* longer than what a thread does */
	struct ninep_request *requests;
};

/** Wait until the connection is ready. 0, -EIO, -EINTR. */
int uio_ninep_begin(struct ninep_call *c);
/** Requests without a reply are left to the context. */
void uio_ninep_end(struct ninep_call *c);
/** One that has requests under way while no thread waits for them; ended as all others. */
void uio_ninep_lasting(struct ninep_call *c);
/** Let it wait on behalf of another's thread; NULL: no more. */
void uio_ninep_lend(struct ninep_call *c, const struct ninep_call *to);
/** A message with room for this many bytes of body; NULL: no memory. */
struct ninep_request *uio_ninep_request(struct ninep_call *c, uint8_t type, uint32_t fid,
					size_t body);
/** Send it, with data behind it (Twrite). 0, -EIO, -EINTR. */
int uio_ninep_send(struct ninep_call *c, struct ninep_request *r, const void *data, size_t len);
/** Wait for the reply: its error. */
int uio_ninep_wait(struct ninep_call *c, struct ninep_request *r);
/** Give back a request that is done. */
void uio_ninep_request_free(struct ninep_call *c, struct ninep_request *r);
/** Send and wait; the request stays for its reply, also on errors. */
int uio_ninep_rpc(struct ninep_call *c, struct ninep_request *r);

/** A number that the server does not know; NINEP_NOFID: all are in use. */
uint32_t uio_ninep_fid_new(void);
/** The context clunks it as soon as nothing that uses it is under way. */
void uio_ninep_fid_drop(uint32_t epoch, uint32_t fid);

uint32_t uio_ninep_msize(void);
uint32_t uio_ninep_epoch(void);

/* ---- fields ---- */

static inline void ninep_put(struct ninep_request *r, const void *bytes, size_t n)
{
	if (r->room - r->size < n) /* never: rooms are sized by what goes in */
		return;
	memcpy(r->message + r->size, bytes, n);
	r->size += (uint32_t)n;
}

static inline void ninep_put16(struct ninep_request *r, uint16_t v)
{
	ninep_put(r, &v, sizeof(v));
}

static inline void ninep_put32(struct ninep_request *r, uint32_t v)
{
	ninep_put(r, &v, sizeof(v));
}

static inline void ninep_put64(struct ninep_request *r, uint64_t v)
{
	ninep_put(r, &v, sizeof(v));
}

static inline void ninep_put_string(struct ninep_request *r, const char *s, size_t n)
{
	ninep_put16(r, (uint16_t)n);
	ninep_put(r, s, n);
}

/* 0 behind the end of the reply: the context has checked its size. */
static inline uint64_t ninep_field(const struct ninep_request *r, uint32_t at, uint32_t width)
{
	uint64_t v = 0;

	if (at + width <= r->reply_size)
		memcpy(&v, r->reply + at, width);
	return v;
}

#endif /* UIO_CORE_NINEP_SESSION_H */
