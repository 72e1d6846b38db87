/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files that make up overlays share with one another and with nobody
 * else: resident overlays as the loaders make them (loader.c, image.c), the
 * arena's address ranges (overlay_arena.c) and running code (fault.c, api*.c).
 */
#ifndef UIO_CORE_OVERLAY_IMPL_H
#define UIO_CORE_OVERLAY_IMPL_H

#include "domain.h"
#include "ninep.h"
#include "overlay.h"
#include "sha256.h"

#define UIO_PAGES(bytes)   (((size_t)(bytes) + UIO_PAGE_SIZE - 1) / UIO_PAGE_SIZE)
#define UIO_SEGMENTS_MAX   16u
#define UIO_STACK_DEFAULT  (64u * 1024)
#define UIO_STACK_MAX      (16u * 1024 * 1024)
#define UIO_STACK_GUARD    16u /* pages below a stack: a large frame must not jump over them */
#define UIO_RUN_GUARD_HIGH 1u

/* ---- address ranges of the arena (overlay_arena.c) ---- */

/** Reserve pages anywhere outside the host's part; 0: no room. Nothing is mapped. */
uintptr_t uio_arena_take(size_t pages);
/** Reserve exactly this range: 0, -EBUSY, -ENOMEM, -EINVAL (outside the arena). */
int uio_arena_claim(uintptr_t va, size_t pages);
/** End a reservation that began at va. Its pages are unmapped already. */
void uio_arena_release(uintptr_t va);

/* ---- resident overlays (overlay.c) ---- */

struct uio_segment {
	uintptr_t va;
	size_t pages;
	unsigned int prot;
	size_t filled; /* writable: so many bytes begin with a content, the others as zero */
};

enum uio_resident_state {
	UIO_RESIDENT_NEW,      /* constructors have not run */
	UIO_RESIDENT_STARTING, /* they are running */
	UIO_RESIDENT_READY,
	UIO_RESIDENT_BROKEN, /* was stopped in the middle of something: goes when it is idle */
};

/* What __cxa_atexit() was told: objects of C++ to be destroyed at unloading. */
struct uio_at_unload {
	struct uio_at_unload *next;
	void (*fn)(void *arg);
	void *arg;
};

struct uio_resident {
	struct uio_overlay o; /* first: the two are converted by a cast */
	enum uio_resident_state state;
	unsigned int nseg;
	uint32_t ninit, nfini;
	uint64_t *calls;                 /* ninit constructors, then nfini destructors */
	struct uio_at_unload *at_unload; /* newest first */
	struct uio_file_identity identity;
	uint64_t last_used_ns;
	uintptr_t spare_stack; /* range of stacks of spare_pages: kept for the next run; 0: none */
	size_t spare_pages;
	bool calls_kernel;      /* imports functions of the kernel that are not libuio's own */
	bool is_used;           /* something has run with its data since they were renewed */
	uint8_t *pristine;      /* what the writable segments held before anything ran */
	unsigned int key;       /* protection key of its pages; 0: none yet */
	unsigned int in_domain; /* runs that need the key */
	struct uio_segment seg[UIO_SEGMENTS_MAX];
};

/** A resident with no segments yet; NULL: no memory. */
struct uio_resident *uio_resident_new(const uint8_t hash[UIO_HASH_SIZE], const char *name);
/** Undo everything that was mapped for it, and free it. Not in the table. */
void uio_resident_free(struct uio_resident *r);
/**
 * Map a segment at va, writable, into r; the range is reserved. Evicts unused
 * overlays when memory is short. 0 or -ENOMEM.
 */
int uio_resident_map(struct uio_resident *r, uintptr_t va, size_t pages, unsigned int prot);
/** Give every segment the rights it was mapped for. */
int uio_resident_protect(struct uio_resident *r);
/** Whether address lies in a segment with all rights of prot. Fit for trap context. */
static inline bool uio_resident_has(const struct uio_resident *r, uint64_t address,
				    unsigned int prot)
{
	for (unsigned int i = 0; i < r->nseg; i++)
		if (address >= r->seg[i].va &&
		    address - r->seg[i].va < r->seg[i].pages * UIO_PAGE_SIZE)
			return (r->seg[i].prot & prot) == prot;
	return false;
}
/** NULL, or the name of a forbidden instruction in its code. */
const char *uio_resident_scan(const struct uio_resident *r);
/** Put it into the table. */
void uio_resident_add(struct uio_resident *r);
/** Make room: unload the unused overlay that was run least recently; false: there is nothing. */
bool uio_resident_evict(void);
/** A command has left r: unload it if it is broken. */
void uio_resident_left(struct uio_resident *r);
/** Look for a pulled overlay of this name. */
struct uio_resident *uio_resident_named(const char *name);

/** The resident overlay with code at address; NULL: none. Fit for trap context. */
struct uio_resident *uio_resident_at(uint64_t address);
/** Keep what its writable segments hold now, or put that back. False: no memory. */
bool uio_resident_keep_data(struct uio_resident *r);
void uio_resident_restore_data(struct uio_resident *r);
/** Forget the objects that are to be destroyed. */
void uio_resident_forget_objects(struct uio_resident *r);

/** NULL, or why an overlay with this policy cannot be run here. */
const char *uio_policy_refusal(const struct uio_policy *policy);

/* ---- the overlay's file (overlay_file.c) ---- */

/* A signature block as it stands in the file. */
struct uio_signature {
	uint8_t key_id[16];
	uint64_t not_after; /* Unix seconds; 0: never expires */
	uint32_t elf_size, flags;
	uint8_t signature[64]; /* Ed25519 */
	uint32_t block_size, version;
	char magic[24];
};

/**
 * The length of the ELF in front of the signature blocks. NULL, or why the
 * file is refused: by its form, or by uio_signature_refusal().
 */
const char *uio_overlay_file_check(const uint8_t *file, size_t size, size_t *elf_size);

/**
 * The guest's own check of the signatures, in kernels that are built with it:
 * NULL, or why the file is refused. Undefined in others, which leave it to the
 * host.
 */
const char *uio_signature_refusal(const uint8_t *elf, size_t size, const struct uio_signature *s,
				  unsigned int n) __attribute__((weak));

/** An address in this image; NULL: there is nothing of that name. */
typedef const void *uio_loader_symbol(const char *name);

/**
 * Relocate the ELF for this kernel. The caller adds it to the table. On failure
 * the result of x is set and NULL returned.
 *
 * With own it is no overlay but a part of libuio itself, which the caller knows
 * to be genuine: it refers to these names, calls functions without gates, and
 * its entry is the object uio_module. It is not for the table.
 */
struct uio_resident *uio_loader_load(struct uio_exec *x, const char *name,
				     const uint8_t hash[UIO_HASH_SIZE], const uint8_t *elf,
				     size_t size, uio_loader_symbol *own);

/* ---- running code (fault.c, fault_trap.c) ---- */

/* Why control came back to where the overlay was entered. */
enum uio_run_end {
	UIO_RUN_RETURNED = 1, /* or called exit() */
	UIO_RUN_FAULT,
	UIO_RUN_STOPPED, /* cancelled, or past the deadline */
};

struct uio_slab;
struct uio_held;
struct uio_stream;
struct uio_file;

#define UIO_RUN_FILES    32u
#define UIO_HEAP_CLASSES 13u
#define UIO_RUN_BUFFER   1024u

/* One thread inside an overlay. It lives on libuio's heap, out of the overlay's reach. */
struct uio_run {
	struct uio_border border; /* first: gate.c's assembler knows it */
	struct uio_thread *thread;
	struct uio_exec *x; /* NULL: destructors run at unloading */
	struct uio_resident *resident;
	uintptr_t stacks, stack_high; /* the whole range; end of the overlay's stack */
	size_t stack_pages;           /* of each of the two */
	uintptr_t kernel_stack_low, kernel_stack_top; /* 0: gates use the thread's own */
	uint64_t serial;                              /* no two runs have the same */
	struct uio_run *owner; /* of memory: the command, also for its threads */
	bool is_callback;      /* not a command: a call from outside, a thread */
	bool is_thread;
	bool has_fault;                /* one of its threads or callbacks faulted */
	bool thread_exited;            /* one of its threads has called exit() */
	bool has_status, quick_exit;   /* the status is known; by _exit() */
	uint64_t exit_sp;              /* exit() was called here */
	uint64_t value;                /* of pthread_exit() */
	char **envp;                   /* the overlay's copy of the environment */
	int *errno_cell;               /* the overlay's own errno, once it has asked for it */
	volatile bool active;          /* overlay code, or what it called, is on the CPU's stack */
	volatile unsigned int in_core; /* in a call of the overlay API that must not be abandoned */
	bool was_pinned;               /* before in_core */
	volatile bool probing;         /* libuio looks whether a pointer of the overlay is good */
	bool in_main;                  /* not in a constructor or destructor */
	bool polite;                   /* the overlay asks uio_interrupted() */
	volatile bool stop;            /* leave at the next opportunity */
	int status;
	/* what the command holds (api_heap.c, api.c, api_stdio.c) */
	struct uio_slab **slabs; /* by their addresses */
	size_t nslabs, slab_room;
	size_t heap_bytes, heap_limit;
	struct uio_held *held; /* libuio's own memory */
	struct uio_stream *streams;
	unsigned int nat_exit;
	size_t buffered;                            /* of standard output */
	struct uio_slab *partial[UIO_HEAP_CLASSES]; /* with free pieces */
	struct uio_file *files[UIO_RUN_FILES];
	void (*at_exit[UIO_RUN_FILES])(void);
	struct uio_fault fault;
	char buffer[UIO_RUN_BUFFER];
};

extern struct uio_run *uio_runs;

/** The innermost run of the calling thread; NULL: it runs no overlay. Fit for trap context. */
struct uio_run *uio_run_self(void);
/** Leave the overlay for good. */
_Noreturn void uio_run_leave(struct uio_run *run, enum uio_run_end how);
/** Set the result of a command that was cancelled or ran out of time. */
void uio_run_stopped(struct uio_exec *x, const char *name);
/** Leave with a fault that the CPU did not raise; the caller's frame tells where. */
_Noreturn void uio_run_abort(struct uio_run *run, enum uio_trap_kind kind, uint64_t ip,
			     uint64_t frame);
/** Fill the return addresses of fault from its registers. */
void uio_run_backtrace(const struct uio_run *run, struct uio_fault *fault);
/** A run in r on the calling thread; NULL: no memory. */
struct uio_run *uio_run_begin(struct uio_resident *r, struct uio_exec *x, size_t more_stack);
void uio_run_end(struct uio_run *run);
/** Give up the stacks that r keeps for its next run: the next overlay may have them. */
void uio_run_free_stack(struct uio_resident *r);
/** Give back the stacks that are kept for the next overlay; false: there are none. */
bool uio_run_trim(void);
/** Call into the overlay; what was entered inside of that and not left, is. */
enum uio_run_end uio_run_call(struct uio_run *run, struct uio_level *level, uintptr_t fn,
			      uintptr_t sp, const uint64_t arguments[4]);
/** Let it end as soon as it can: 0, or -EAGAIN. */
int uio_run_stop(struct uio_run *run);
/** Prepare a level; words of r's stack are copied (gate.c). */
void uio_level_begin(struct uio_run *run, struct uio_level *level, uint64_t fn, uint64_t sp,
		     const struct uio_registers *r, unsigned int words);
/** The range of stacks: guard, the kernel's with a domain, guard, the overlay's, guard. */
uintptr_t uio_stack_low(uintptr_t range, size_t pages);
/** The trap hook. */
bool uio_run_trap(struct uio_trap *trap);
/** Call the destructors of r in a thread of their own, one second at most. */
void uio_run_destructors(struct uio_resident *r);
/** Give back what a run held: its heap (api_heap.c); its files, what it has not yet written
 * (api.c). */
void uio_heap_free_all(struct uio_run *run);
void uio_api_close_all(struct uio_run *run);

/* ---- what overlays call (api*.c) ---- */

/**
 * Around what must not be abandoned half done. Whatever the overlay passed is
 * touched before enter, so that a bad pointer faults where it does no harm;
 * leave ends a command that is to stop. NULL: the caller is no overlay.
 */
struct uio_run *uio_api_enter(void);
void uio_api_leave(struct uio_run *run);
/** Fault now if the range cannot be read, or written. */
void uio_api_touch(const void *p, size_t len, bool write);
/** As the API's functions, from libuio's own buffers. */
ssize_t uio_api_read(int fd, void *buf, size_t len);
ssize_t uio_api_write(int fd, const void *buf, size_t len);
/** Fault now if this is no string. */
void uio_api_touch_string(const char *s);
/** To stream 1 (buffered) or 2 of the command. */
ssize_t uio_api_output(struct uio_run *run, unsigned int stream, const void *buf, size_t len);
int uio_api_flush(struct uio_run *run);
/** Text that was touched, and a line feed, to standard output. */
ssize_t uio_api_line(const char *text, size_t len);
/** All streams: 0, or -1 with errno set. */
int uio_api_flush_all(void);
/** The same at the end of the command, which takes its last output along. */
void uio_api_flush_last(struct uio_run *run);
/** The end of a program as exit() does it: handlers, streams. */
_Noreturn void uio_api_exit(struct uio_run *run, int status);

void *uio_heap_alloc(struct uio_run *run, size_t size, size_t align);
/** The address is in this command's heap. */
bool uio_heap_owns(const struct uio_run *run, const void *p);
/** False: p is no block, or was freed already. */
bool uio_heap_free(struct uio_run *run, void *p);
/** Memory of libuio's own that goes with the command, unless it is dropped before. */
void *uio_run_hold(struct uio_run *run, size_t size);
void uio_run_drop(void *p);
size_t uio_heap_size(const struct uio_run *run, const void *p);

/** The function at this address is libuio's: it keeps nothing in the thread that calls it. */
bool uio_api_has(uint64_t function);
/** Everything that overlays are promised; a NULL ends each table. */
extern const void *const uio_api_symbols[];
extern const void *const uio_api_libc_symbols[];
extern const void *const uio_api_stdio_symbols[];
extern const void *const uio_callback_symbols[];

#endif /* UIO_CORE_OVERLAY_IMPL_H */
