/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The isolation domain: overlay code runs with rights of its own to memory
 * (protection keys, where the CPU has them), on a stack of its own. There are
 * four ways over the border, all in gate.c: into an overlay (a level) and its
 * return, an overlay's call of the kernel (a gate) and its return. domain.c
 * deals in keys and gates, callback.c lets the kernel call an overlay's
 * functions. docs/security.md says what it is worth.
 */
#ifndef UIO_CORE_DOMAIN_H
#define UIO_CORE_DOMAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uio_resident;
struct uio_run;

/* How many words of arguments on the stack a gate, or a callback, takes over the border. */
#define UIO_GATE_WORDS     64u
#define UIO_CALLBACK_WORDS 8u

/*
 * What of a run the code at the border needs, without a stack to work on and
 * before it knows whom it serves. The assembler knows the offsets. A run has
 * two stacks: the overlay's, and the one on which functions of the kernel
 * run that it calls, which no overlay can reach.
 */
struct uio_border {
	uint64_t saved_sp; /* of the outermost level: where faults and cancels unwind to */
	struct uio_run *next;
	uintptr_t stack_low, stack_bytes; /* the overlay's stack, by which the run is found */
	uint64_t kernel_sp;               /* where the next gate's frame goes */
	struct uio_level *level;          /* the innermost call into the overlay */
	uint32_t pkru;                    /* of the overlay; 0: no domain */
	uint64_t sp;                      /* the overlay stack is in use from here */
};

/* One call of the kernel into an overlay. Lies on the kernel's side. */
struct uio_level {
	struct uio_level *outer;
	uint64_t kernel_sp; /* of uio_domain_enter(): what the ABI wants kept */
	uint64_t sp;        /* of the overlay: rdx, rcx, rax, return address */
	uint64_t fn;
	uint64_t rdi, rsi, r8, r9;
	uint64_t gate_sp; /* where gates go; 0: below uio_domain_enter()'s frame */
	uint64_t rax, rdx, xmm0[2], xmm1[2]; /* results */
	uint64_t outer_gate_sp, outer_sp;    /* of the border, to be put back */
};

/* What the overlay, or a caller of it, had in its registers. */
struct uio_registers {
	uint64_t rdi, rsi, r8, r9, r10, r11, rbp, rdx, rcx, rax, back;
	uint64_t stack[];
};

/** Find out what there is; uio_domain_keys() is 0 before and without. */
void uio_domain_init(void);
/** Protection keys are in use. */
bool uio_domain_on(void);

/**
 * A command or callback begins in r: see that r has a key, and its pages have
 * it; the PKRU for it, 0 without a domain. False: the port has no memory to
 * switch keys on.
 */
bool uio_domain_take(struct uio_resident *r, uint32_t *pkru);
void uio_domain_give(struct uio_resident *r);
/** Pages of r that were just mapped get its key; those that are to stay the kernel's do not come
 * here. 0 or a negative errno. */
int uio_domain_tag(const struct uio_resident *r, uintptr_t va, size_t pages);
/** Pages of an overlay become the kernel's. */
int uio_domain_untag(uintptr_t va, size_t pages);
/** r goes for good: its key is free. */
void uio_domain_forget(struct uio_resident *r);

/** What a slot of an overlay holds for the kernel's function at target; 0: no memory. */
uint64_t uio_gate(uint64_t target);
/** What the slots of an overlay's own functions hold that others may be given to call. */
uint64_t uio_gate_back(void);
/**
 * Look at a byte of each page from first to last, write it back too, with the
 * overlay's rights: whoever passes a pointer must have the rights itself. The
 * rights change once, however many pages there are: that is what it costs.
 */
void uio_domain_touch(const struct uio_run *run, uintptr_t first, uintptr_t last, bool write);

/**
 * Call fn(rdi, rsi, rdx, rcx) in the overlay, below its stack's top sp. How it
 * ended; then level has its results. Nested calls, from functions that the
 * overlay called, end only by returning.
 */
int uio_domain_call(struct uio_run *run, struct uio_level *level, uintptr_t fn, uintptr_t sp,
		    const uint64_t arguments[4]);

/** Who called the function that the overlay called: in it, if `back` is a gate's. */
uint64_t uio_gate_caller(const struct uio_run *run, uint64_t back);

/** NULL, or what forbidden instruction lies in finished code, at *at. */
const char *uio_domain_scan(const uint8_t *code, size_t size, size_t *at);

/** The command is over: so are its threads, and callbacks if the overlay is broken (callback.c). */
void uio_callback_stop(struct uio_run *command);

/* gate.c's assembler */
extern const char uio_gate_entry[], uio_gate_back_keys[], uio_gate_back_plain[];
extern const char uio_gate_return[], uio_border_bad[];
extern int uio_domain_enter(struct uio_run *run, struct uio_level *level);
extern _Noreturn void uio_run_unwind(struct uio_run *run, int how);

/* what it calls */
struct uio_gate_target {
	uint64_t target, words;
};
extern uint64_t *uio_gate_table, uio_gate_count;

#endif /* UIO_CORE_DOMAIN_H */
