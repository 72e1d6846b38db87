/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads. The kernel itself is never preempted; application and overlay code is, while a thread of
 * libuio wants to run.
 */
#ifndef REFGUEST_SCHED_H
#define REFGUEST_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu.h"

#define KERNEL_STACK_PAGES 3
#define KERNEL_STACK_SIZE  (KERNEL_STACK_PAGES * 4096ul)

enum thread_state { THREAD_NEW, THREAD_RUNNING, THREAD_RUNNABLE, THREAD_BLOCKED, THREAD_DEAD };

struct thread;

struct wait_queue {
	struct thread *head, *tail;
};

struct thread {
	uint64_t sp; /* while it does not run */
	uint64_t kernel_stack_top;
	void *xstate;
	uint64_t fs_base;
	enum thread_state state;
	bool ours;    /* of libuio */
	bool calls_c; /* leaves the CPU in a C call: vector registers need not be kept */
	bool started; /* has reached its function */
	bool pinned; /* not to be preempted: inside libuio, which a thread of the application may be
		      */
	bool interruptible;
	int reason; /* why it was woken */
	uint32_t mxcsr;
	uint16_t fcw;
	uint32_t id;
	char name[24];
	uint64_t cpu_ns, stack_size, switches;

	struct thread *next, **link; /* all threads */
	struct thread *run_next, *run_prev;
	struct wait_queue *queue;
	struct thread *wait_next, *wait_prev;
	uint64_t deadline;
	struct thread *sleep_next, *sleep_prev;
	bool sleeping;

	uint32_t *futex;
	uint32_t *clear_tid;
	uint64_t signals_pending, signals_blocked;
	uint64_t alt_stack, alt_stack_size;
	uint64_t saved_blocked; /* sigsuspend */
	bool restore_blocked;
	struct thread_spawn *spawn; /* what the next clone() is for */
};

/** Tells clone() that the new thread belongs to libuio. */
struct thread_spawn {
	const char *name;
	size_t stack_size;
	struct thread *thread; /* out */
};

extern struct thread *current;
extern struct thread *all_threads;

void sched_init(void);
/** A thread with kernel stack and fresh extended state; NULL when memory is out. */
struct thread *thread_create(const char *name);
/** Let a new thread begin with this frame, which leaves the kernel. */
void thread_start(struct thread *t, const struct frame *frame);
_Noreturn void thread_exit(void);
/** Remove another thread for ever. */
void thread_kill(struct thread *t);
/** Run what is runnable; the boot stack never comes back. */
_Noreturn void sched_run(void);

void sched_yield_now(void);
/** Yield if somebody who waits for the CPU should have it; for the end of system calls. */
void sched_check(void);
/**
 * Block the current thread on a queue (may be NULL) until woken, until the deadline (clock_ns();
 * NEVER) or, when interruptible, a signal. Interrupts are off before and after. 0, -ETIMEDOUT,
 * -EINTR.
 */
int thread_wait(struct wait_queue *queue, uint64_t deadline, bool interruptible);
/** Make a blocked thread runnable; its wait gives reason. Interrupts off. */
void thread_wake(struct thread *t, int reason);
/** Abandon what t does; it goes on at fn(arg). -EAGAIN. */
int thread_divert(struct thread *t, void (*fn)(void *), void *arg);

uint64_t thread_cpu_ns(const struct thread *t);
extern uint64_t sched_switches; /* between different threads */
uint64_t sched_idle_ns(void);

/* Called by entry.S, on the kernel stack of the thread whose frame was copied there; gives the
 * frame to leave by. */
struct frame *preempt(struct frame *frame);
bool sched_wants_preemption(const struct frame *frame);

#endif
