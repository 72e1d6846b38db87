/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Overlays in the guest: how they come in (pull: loader.c reads an ET_REL and
 * relocates it; push: image.c takes an image that the host has linked), how
 * they are kept (by the SHA-256 of their file), run and stopped (fault.c).
 */
#ifndef UIO_CORE_OVERLAY_H
#define UIO_CORE_OVERLAY_H

#include "exec.h"

#define UIO_HASH_SIZE 32

/* `.uio.policy` and the image's policy field (docs/protocol.md, section 5). */
struct uio_policy {
	uint32_t version; /* 1 */
	uint32_t flags;
	uint32_t stack_bytes;
	uint32_t timeout_ms;
	uint64_t memory_bytes;
	uint64_t reserved;
};
_Static_assert(sizeof(struct uio_policy) == 32, "wire format");
#define UIO_POLICY_APP_NONE    1u
#define UIO_POLICY_NEED_DOMAIN 2u
#define UIO_POLICY_KEEP_DATA   4u

struct uio_overlay {
	struct uio_overlay *next;
	uintptr_t base;
	size_t size;
	uintptr_t entry;
	bool pushed;
	uint32_t uses;    /* times run */
	uint32_t running; /* commands in it now */
	struct uio_policy policy;
	uint8_t hash[UIO_HASH_SIZE];
	char name[64];
};

/** The arena and the part of it whose addresses the host assigns (HELLO). */
struct uio_arena {
	uintptr_t base, push_base;
	size_t size, push_size; /* zero: no arena, no overlays */
};
void uio_overlay_arena(struct uio_arena *out);

struct uio_overlay *uio_overlay_find(const uint8_t hash[UIO_HASH_SIZE]);
int uio_overlay_foreach(int (*fn)(struct uio_overlay *o, void *arg), void *arg);
/**
 * Run destructors, give every page back, send GONE. 0, -ENOENT, -EBUSY while
 * a command is in it. Blocks a command's thread until that is done; in the
 * context, which must not block, a thread of its own does it afterwards.
 */
int uio_overlay_unload(const uint8_t hash[UIO_HASH_SIZE]);

/**
 * Load /bin/NAME of uIO-fs unless it is resident unchanged. On failure the
 * result of x is set (NOT_FOUND, REFUSED with the reason, ERROR) and a
 * negative errno returned.
 */
int uio_overlay_pull(struct uio_exec *x, const char *name, struct uio_overlay **out);

/* A pushed image on its way in. Memory is bounded by the size its header declares, checked with the
 * first piece. */
struct uio_push;
struct uio_push *uio_push_begin(void);
/** Next bytes, in order. 0, or a negative errno; then finish says why in words, or abort. */
int uio_push_data(struct uio_push *p, const void *buf, size_t len);
/** Check, map, relocate the GOT, protect. On error *why says it in words. Frees p. */
int uio_push_finish(struct uio_push *p, struct uio_overlay **out, const char **why);
void uio_push_abort(struct uio_push *p);

/**
 * Why no pushed image is taken: a kernel that checks signatures itself needs
 * the file that was signed. NULL: images are taken.
 */
const char *uio_push_refusal(void);

/**
 * Run main(argc, argv) of the overlay on a stack of its own in the calling
 * thread. Returns when it has returned, called exit(), faulted, was cancelled
 * or ran out of time; then everything it held is freed and x->result is set.
 */
void uio_overlay_run(struct uio_overlay *o, struct uio_exec *x);

/**
 * End the overlay code that x runs, now: the thread is diverted to the end of
 * uio_overlay_run(). The context calls it, after x->cancel is set and x->wake
 * signalled, for every signal and for a deadline that has passed. 0: it ends,
 * or is left to end itself (a signal below 9, and the overlay has asked
 * uio_interrupted()). -EAGAIN: it is inside libuio or the kernel at this
 * moment, where it notices x->cancel itself; call again a little later.
 */
int uio_overlay_stop(struct uio_exec *x);

/** Nothing has run for a while: what is kept to start the next overlay sooner goes. */
void uio_overlay_rest(void);

/** Install the trap hook. */
void uio_fault_init(void);

#endif /* UIO_CORE_OVERLAY_H */
