/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Programs at functions: attaching to the entry and the return of functions
 * that the compiler has left room in, and the one machine in which all
 * programs run. docs/bpf.md, "Attaching".
 */
#ifndef UIO_CORE_BPF_ATTACH_H
#define UIO_CORE_BPF_ATTACH_H

#include "bpf.h"

/* One program at one function; in its owner's memory. */
struct bpf_link {
	struct bpf_link *next; /* at the same function */
	struct bpf_prog *prog;
	void *cookie; /* of its runs */
	const struct bpf_env *env;
	uintptr_t function;
};

/**
 * Whether a program can be attached at this address: 0, or -ENOENT (no
 * function with room begins there), -EIO (the room is not as the compiler
 * left it), -ERANGE, -ENOSYS (not in this kernel); *why says it in words.
 */
int uio_bpf_can_attach(uintptr_t function, const char **why);
/** Attach: prog, cookie and function of the link are set. Also -ENOMEM. */
int uio_bpf_attach(struct bpf_link *link, const char **why);
/** The text is again what it was, unless other programs remain. No run is under way afterwards. */
void uio_bpf_detach(struct bpf_link *link);

/** Make the machine ready; each call needs its uio_bpf_machine_put(). -ENOMEM. */
int uio_bpf_machine_get(void);
void uio_bpf_machine_put(void);
/** Run a program of a command or a timer. 0, else an enum bpf_status, and *fault. */
int uio_bpf_run_now(struct bpf_prog *prog, void *cookie, const struct bpf_ctx *ctx, uint64_t *r0,
		    struct bpf_fault *fault);

/**
 * What the owner of a link is told about a run that was stopped: in the midst
 * of the application, so it must not block.
 */
void uio_bpf_stopped(void *cookie, const struct bpf_prog *prog, const struct bpf_fault *fault);

/*
 * What every session's struct bpf_env has in common. The lock keeps hits out;
 * runs hold it already, so no env has it.
 */
uint32_t uio_bpf_thread(void);
void uio_bpf_thread_name(char *buf, size_t len);
size_t uio_bpf_stack(const struct bpf_ctx *ctx, uint64_t *pc, size_t max);
/** uio_bpf_map_next() under the lock. */
bool uio_bpf_next_row(struct bpf_map *map, uint64_t *cursor, void *key, void *value,
		      uint32_t *thread);
uintptr_t uio_bpf_lock(void);
void uio_bpf_unlock(uintptr_t key);

#endif /* UIO_CORE_BPF_ATTACH_H */
