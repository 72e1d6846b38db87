/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What libuio's core asks of the kernel it lives in. One implementation per
 * kernel: port/unikraft, port/reference, port/hosted. The core calls nothing
 * else of the kernel but the C library's mem*, str* and [v]snprintf.
 *
 * Scheduling contract: core code is never interrupted by other core code.
 * Another thread of libuio runs only while the caller is inside
 * uio_port_event_wait(), uio_port_yield() or uio_port_sleep(). Interrupt
 * handlers only ever call uio_port_event_signal(). So the core has no locks.
 *
 * Functions that return int give 0 (or a count) or a negative errno.
 */
#ifndef UIO_PORT_H
#define UIO_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define UIO_PAGE_SIZE 4096u

/* ---- time and log ---- */

/** Monotonic nanoseconds since boot. */
uint64_t uio_port_ns(void);
/** Unix time in seconds; 0: not known. A port may lack this. */
uint64_t uio_port_wall_s(void) __attribute__((weak));

/** Write len bytes to the kernel's log (serial console). Never blocks. */
void uio_port_log(const char *text, size_t len);

/* ---- the image we are part of ---- */

struct uio_image {
	uintptr_t base, end;            /* all of it, page aligned */
	uintptr_t text_start, text_end; /* executable part */
	uintptr_t slide;                /* run-time minus link-time address */
	const uint8_t *build_id;        /* GNU build-id, NULL if none */
	size_t build_id_len;
	const char *kernel; /* "refguest 1", "Unikraft 0.17" */
};
void uio_port_image(struct uio_image *out);

/* ---- memory ---- */

/** Heap memory, 16-byte aligned, not zeroed; NULL when there is none. */
void *uio_port_alloc(size_t size);
/** Give back what uio_port_alloc() gave; NULL is allowed. */
void uio_port_free(void *ptr);
/** Physically contiguous memory a device may read and write, page aligned. */
void *uio_port_dma_alloc(size_t size);
void uio_port_dma_free(void *ptr, size_t size);

/** Bytes in the system heap: total, free. */
void uio_port_meminfo(size_t *total, size_t *free_bytes);
/** Bytes that uio_port_alloc() and uio_port_dma_alloc() gave and have not got back. A port may lack
 * this. */
size_t uio_port_held(void) __attribute__((weak));

/* A block of the application's heap. */
struct uio_block {
	uint64_t address, size; /* as it was asked for */
	uint64_t slot;          /* bytes that it takes */
};
/**
 * Tell the blocks of the application's heap that are in use, the first max of
 * them; how many there are. -EAGAIN: the heap is just being changed. -ENOSYS:
 * it is of an unknown kind. A port may lack this.
 */
ssize_t uio_port_heap_blocks(struct uio_block *out, size_t max) __attribute__((weak));

/** Whether the page of this address is there to be read. A port may lack this. */
bool uio_port_readable(uintptr_t va) __attribute__((weak));

/* Rights of a page. Writable and executable together is -EINVAL. */
#define UIO_PROT_READ  1u
#define UIO_PROT_WRITE 2u
#define UIO_PROT_EXEC  4u

/**
 * The window of virtual addresses in which overlays live: unused by anybody
 * else, within 2 GiB of the kernel's text if that is possible at all.
 */
void uio_port_arena(uintptr_t *base, size_t *size);

/** Back [va, va + pages) of the arena with fresh zeroed memory. -ENOMEM, -EINVAL. */
int uio_port_map(uintptr_t va, size_t pages, unsigned int prot);
/** Change the rights of mapped pages of the arena. */
int uio_port_protect(uintptr_t va, size_t pages, unsigned int prot);
/** Unmap pages of the arena and give their memory back. */
int uio_port_unmap(uintptr_t va, size_t pages);

/*
 * Protection keys (PKU), for the domain that overlays run in. A port without
 * them, or on a CPU without, leaves the three functions out: the core has weak
 * ones that say so. One that has them sees to it that
 *  - all that the kernel and the application can write, wherever and by
 *    whatever address (data, heap, stacks, page tables, direct map, devices),
 *    is mapped with key UIO_KEY_KERNEL and the user bit at all levels, now and
 *    when it is mapped later; the frames behind pages of the arena have no
 *    second address, or one with UIO_KEY_KERNEL;
 *  - text and constants stay readable and executable whatever PKRU is;
 *  - interrupts and exceptions save PKRU, run with 0 and restore it, and touch
 *    nothing before that has a key; a thread that the trap hook sends
 *    elsewhere goes on with 0;
 *  - PKRU is each thread's own across all switches, 0 in a new one;
 *  - a signal's handler never runs with an overlay's PKRU.
 */
#define UIO_KEY_KERNEL 1u

/** How many keys there are, 16; 0: none. The first call may switch them on. */
unsigned int uio_port_keys(void);
/** Give mapped pages of the arena this key, 0 to 15; uio_port_map() gives UIO_KEY_KERNEL,
 * uio_port_protect() leaves it. -ENOTSUP. */
int uio_port_tag(uintptr_t va, size_t pages, unsigned int key);
/**
 * While pinned the calling thread, which may be the application's, is not
 * preempted, whatever code it is in. Returns what it was before.
 */
bool uio_port_pin(bool pinned);
/**
 * Of the core, for ports that preempt: where the running thread, which was
 * interrupted in an overlay and with its rights, has stack that no overlay can
 * reach; what is put there has to be gone when it goes on. 0: it has none. Fit
 * for interrupt context.
 */
uintptr_t uio_overlay_kernel_sp(void);

/* ---- threads ---- */

struct uio_thread;

/**
 * Start a thread that runs fn(arg) and ends when fn returns. It has the C
 * library's thread-local data, so fn may call any libc function. stack is the
 * number of bytes it needs; a guard page lies below it where the port can.
 */
int uio_port_thread_create(struct uio_thread **out, const char *name, void (*fn)(void *arg),
			   void *arg, size_t stack);
struct uio_thread *uio_port_thread_self(void);

/**
 * Make the given thread of ours, which is not running at this moment (it
 * waits, or was preempted), continue at fn(arg) as soon as it is scheduled,
 * abandoning what it did. Also for a thread of the application that is inside
 * an overlay. The mechanism behind CANCEL and deadlines: fn is a
 * function that unwinds (longjmp). -EAGAIN if it cannot be done now.
 */
int uio_port_thread_divert(struct uio_thread *t, void (*fn)(void *arg), void *arg);

/** Whether code that never blocks gives way to the context all the same. A port may lack this: no.
 */
bool uio_port_preempts(void) __attribute__((weak));

/** The context has nothing to do and is going to wait, however long. A port may lack this. */
void uio_port_rest(void) __attribute__((weak));
/**
 * The calling thread, which an overlay has started by the C library, is one of
 * ours from now on. A port without threads of the C library leaves it out.
 */
void uio_port_thread_adopt(const char *name);

void uio_port_yield(void);
void uio_port_sleep(uint64_t ns);

struct uio_thread_info {
	const char *name;
	unsigned int id;
	char state; /* 'R' running, 'r' runnable, 'S' blocked */
	bool ours;  /* a thread of libuio */
	uint64_t cpu_ns;
	size_t stack_size;
	uint64_t switches; /* how often it got the CPU; 0: not counted */
	/* Where its own code was left; all 0 if it runs, or if the port cannot tell. */
	uint64_t ip, sp, fp;
};
/** Call fn for each thread until it returns non-zero; returns that. */
int uio_port_thread_foreach(int (*fn)(const struct uio_thread_info *, void *), void *arg);

/* What has happened since boot. */
struct uio_counts {
	uint64_t switches, interrupts, idle_ns;
};
/** A port may lack this. */
void uio_port_counts(struct uio_counts *out) __attribute__((weak));

/** The id of the calling thread, as uio_port_thread_foreach() tells it. A port may lack this. */
unsigned int uio_port_thread_id(void) __attribute__((weak));

/* An event: signalled once, it lets one wait pass. Signals do not add up. */
struct uio_event {
	uint64_t opaque[16];
};
void uio_port_event_init(struct uio_event *ev);
/** Allowed in interrupt context. */
void uio_port_event_signal(struct uio_event *ev);
/** Wait at most ns nanoseconds (UINT64_MAX: for ever). 0, or -ETIMEDOUT. */
int uio_port_event_wait(struct uio_event *ev, uint64_t ns);

/* ---- faults ---- */

enum uio_trap_kind {
	UIO_TRAP_READ = 1,
	UIO_TRAP_WRITE,
	UIO_TRAP_EXECUTE,
	UIO_TRAP_INVALID_OPCODE,
	UIO_TRAP_DIVIDE,
	UIO_TRAP_PROTECTION,
	UIO_TRAP_STACK,
	UIO_TRAP_ABORT,
	UIO_TRAP_ALIGNMENT,
	UIO_TRAP_BUDGET,
	UIO_TRAP_OTHER,
};

#define UIO_TRAP_NREGS 15 /* rax rbx rcx rdx rsi rdi rbp r8..r15 */

struct uio_trap {
	enum uio_trap_kind kind;
	unsigned int vector; /* of the CPU */
	uint64_t error_code, address;
	uint64_t ip, sp, flags;
	uint64_t regs[UIO_TRAP_NREGS];
};

/**
 * Asked for every CPU exception before the kernel gives up. A hook that
 * returns true has changed trap->ip, trap->sp and trap->regs to where the
 * interrupted thread shall go on; false leaves it to the kernel. Runs on a
 * trap stack with interrupts off and must not block.
 */
typedef bool (*uio_trap_hook)(struct uio_trap *trap);
void uio_port_trap_hook(uio_trap_hook hook);

/* ---- traced functions; a port that lacks one of these attaches nothing to functions ---- */

/**
 * Write into the text of the image, which is read-only to everybody else: at
 * most 8 bytes, as one step for whoever executes them (interrupts off; through
 * a writable alias of the page or the like). The CPU
 * executes the new bytes from then on. -EINVAL: that is not in the text.
 */
int uio_port_text_write(uintptr_t va, const void *bytes, size_t len) __attribute__((weak));

/**
 * Not 0 while core code runs in the midst of a thread of the application,
 * which has called a traced function. Defined by the port, which preempts
 * nobody as long as it is set, wherever the instruction pointer is: core code
 * calls memcpy() and the like of the C library. Core alone changes it.
 */
extern volatile uint32_t uio_port_hold __attribute__((weak));

/* ---- signals to the application ---- */

/** Deliver POSIX signal sig (x86-64 Linux number) to the application. -EINVAL. */
int uio_port_signal(int sig);

/* ---- the guest's own files ---- */

struct uio_stat {
	uint64_t size, mtime_ns, ino;
	uint32_t mode; /* Linux st_mode */
	uint32_t nlink;
};
struct uio_dirent {
	const char *name;
	uint64_t ino;
	unsigned char type; /* Linux DT_* */
};
/* As the POSIX calls of the same name, with Linux flag values. */
int uio_port_fs_open(const char *path, int flags, unsigned int mode);
ssize_t uio_port_fs_pread(int fd, void *buf, size_t len, uint64_t off);
ssize_t uio_port_fs_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int uio_port_fs_close(int fd);
int uio_port_fs_stat(const char *path, struct uio_stat *out);
int uio_port_fs_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg);
int uio_port_fs_unlink(const char *path);
int uio_port_fs_mkdir(const char *path, unsigned int mode);

/* ---- byte ports to the host ---- */

/*
 * Either the port has a virtio bus, and core/virtio_console.c drives the
 * device over the calls below, or (hosted) it supplies core/hostport.h's
 * functions itself.
 */
struct uio_vdev;
struct uio_vq;

/** A piece of memory for a device; physically contiguous. */
struct uio_sg {
	void *addr;
	uint32_t len;
};

/**
 * Find the index-th virtio device with this device id (3 = console), reset it,
 * negotiate the wanted features. *got receives what both sides have. -ENODEV.
 */
int uio_port_virtio_open(unsigned int device_id, unsigned int index, uint64_t want, uint64_t *got,
			 struct uio_vdev **out);
int uio_port_virtio_config(struct uio_vdev *dev, size_t offset, void *buf, size_t len);
/**
 * Set up virtqueues 0..n-1. notify[i](arg[i]) runs in interrupt context when
 * queue i has used buffers; NULL: none wanted. A queue that has neither notify
 * nor arg is not needed: it may be left out, and vq[i] be NULL.
 */
int uio_port_virtio_queues(struct uio_vdev *dev, unsigned int n, struct uio_vq *vq[],
			   void (*const notify[])(void *), void *const arg[]);
/** Set DRIVER_OK. */
void uio_port_virtio_start(struct uio_vdev *dev);

/** Offer out readable pieces, then in writable ones. -ENOSPC when full. */
int uio_port_vq_add(struct uio_vq *vq, const struct uio_sg *sg, unsigned int out, unsigned int in,
		    void *cookie);
void uio_port_vq_kick(struct uio_vq *vq);
/** The cookie of a used buffer, *len the bytes the device wrote; NULL: none. */
void *uio_port_vq_get(struct uio_vq *vq, uint32_t *len);
/**
 * Free the descriptors of a buffer that the device will never give back, and
 * forget its cookie. QEMU loses a message that it had sent in part when the
 * host's end of a port closed. A port may lack this; then each such message
 * costs descriptors for ever.
 */
void uio_port_vq_forget(struct uio_vq *vq, void *cookie) __attribute__((weak));
/** Ask for interrupts again; false if used buffers are waiting already. */
bool uio_port_vq_irq_on(struct uio_vq *vq);
/** Descriptors in the queue. */
unsigned int uio_port_vq_size(const struct uio_vq *vq);

/* ---- start ---- */

/**
 * Called by the port once, in a thread with libc initialised, before or
 * beside the application's main(). Starts the uIO context. Never blocks;
 * without a console device it logs that and returns -ENODEV.
 */
int uio_start(void);

#endif /* UIO_PORT_H */
