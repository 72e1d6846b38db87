/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sessions: what one command `bpf session` has loaded and attached. All of it
 * goes when the command ends, however it ends. docs/bpf.md, "Sessions".
 */
#ifndef UIO_CORE_BPF_SESSION_H
#define UIO_CORE_BPF_SESSION_H

#include "bpf_attach.h"
#include "bpf_object.h"
#include "exec.h"

/* A program at work: at a function, or a timer. */
struct bpf_attached {
	struct bpf_attached *next;
	struct bpf_link link;
	uint64_t due_ns, ticks; /* timer */
};

#define BPF_SESSION_OUT  8192u
#define BPF_SESSION_IN   4096u /* payload of a message, but for LOAD's */
#define BPF_SESSION_TEXT 2048u
#define BPF_LOAD_MAX     (4u << 20)

/* A run that was stopped. */
struct bpf_stop {
	const struct bpf_prog *prog;
	struct bpf_fault fault;
};

struct bpf_session {
	struct uio_resource resource;
	struct bpf_session *next;
	struct uio_exec *x;
	struct bpf_object *object;
	struct bpf_attached *attached;
	bool unverified;    /* what the host's verifier refused may be loaded */
	volatile bool news; /* there is something to send */
	/* arguments of the exec program that runs */
	const char *args;
	size_t args_len;
	/* of print helpers, until it is sent */
	size_t text_len;
	uint64_t text_drops;
	/* the first stop of each program is told, as long as there is room */
	uint64_t told;
	unsigned int stops;
	size_t in_len, out_len;
	struct bpf_env env;
	struct bpf_stop stop[8];
	char text[BPF_SESSION_TEXT];
	uint8_t in[8 + BPF_SESSION_IN];
	uint8_t out[BPF_SESSION_OUT];
};

/** The command `bpf session`. */
int uio_bpf_session(struct uio_exec *x, bool unverified);

/** The session of the command with this number; NULL: none. Call it again after anything that
 * blocks. */
struct bpf_session *uio_bpf_session_find(unsigned int number);
/** The first of all; they are chained. */
struct bpf_session *uio_bpf_sessions(void);

#endif /* UIO_CORE_BPF_SESSION_H */
