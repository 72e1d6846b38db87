/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Hits: what a traced function of the application calls at its entry and its
 * return. Only the way in and out is here; what happens is bpf_attach.c's,
 * which is loaded when it is asked for (module/), and is gone again some time.
 * This stays: the application may be in it whenever it is preempted.
 */
#ifndef UIO_CORE_HITS_H
#define UIO_CORE_HITS_H

#include "bpf.h"

/* On the stack at the entry of a function. */
struct uio_entered {
	struct bpf_ctx ctx;
	uint64_t rax, r10, r11;
	uint64_t resume; /* in: the function. out: where to go on in it */
	uint64_t ret;    /* its return address */
};

/* On the stack behind its return. */
struct uio_returned {
	struct bpf_ctx ctx;
	uint64_t rdx, rcx, rsi, rdi, r8, r9, r10, r11;
	uint64_t held; /* what uio_port_hold was */
	uint64_t pad;
	uint64_t ret; /* out: the return address */
};

/** What a hit calls, with uio_port_hold set: where a function was entered (a hit while it is set
 * does not come here), and where it has returned. Set while anything is attached. */
extern void (*uio_hit_entry)(struct uio_entered *e);
extern void (*uio_hit_return)(struct uio_returned *r);

/** Hits at which nothing ran: within another run, or without room to keep a return address. */
extern uint64_t uio_hit_missed;

/** Where the room before functions begins: first and end of a table; both NULL: there is none. */
extern const uintptr_t *const uio_hit_sites[2];

/* What is called by the text of a function, and where it is made to return to. */
extern const char uio_hit_entered[], uio_hit_returned[];

#endif /* UIO_CORE_HITS_H */
