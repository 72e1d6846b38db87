/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One run queue, first come first served; one list of sleepers; one timer that is armed only when
 * something is due. Without a runnable thread the CPU halts on the stack of whoever blocked last. A
 * tick exists only while a thread of libuio competes for the CPU, so that an idle uIO costs
 * nothing.
 */
#include "sched.h"

#include <errno.h>
#include <string.h>

#include "boot.h"
#include "lapic.h"
#include "memory.h"
#include "print.h"
#include "signal.h"
#include "trap.h"

#define SLICE_NS 2000000ull

struct thread *current;
struct thread *all_threads;

static struct thread boot_thread = {.state = THREAD_DEAD, .calls_c = true, .name = "boot"};
static struct thread *run_head, *run_tail;
static struct thread *sleep_head;
static struct thread *zombie;
static uint32_t next_id = 1;
static unsigned int runnable_ours;
static uint64_t armed = NEVER; /* when the timer will fire */
static uint64_t slice_start;
static uint64_t idle_ns;
uint64_t sched_switches;
static bool resched;

extern void switch_stack(uint64_t *save, uint64_t load);
extern void syscall_return(void);
extern void divert_entry(void);

/* ---- timer ---- */

static void arm(uint64_t deadline, uint64_t now)
{
	if (deadline >= armed)
		return;
	armed = deadline;
	lapic_timer(deadline > now ? deadline - now : 1);
}

static void run_push(struct thread *t)
{
	t->state = THREAD_RUNNABLE;
	t->run_next = NULL;
	t->run_prev = run_tail;
	if (run_tail)
		run_tail->run_next = t;
	else
		run_head = t;
	run_tail = t;
	runnable_ours += t->ours;
}

static void run_remove(struct thread *t)
{
	if (t->run_prev)
		t->run_prev->run_next = t->run_next;
	else
		run_head = t->run_next;
	if (t->run_next)
		t->run_next->run_prev = t->run_prev;
	else
		run_tail = t->run_prev;
	runnable_ours -= t->ours;
}

static void sleep_insert(struct thread *t)
{
	struct thread *after = NULL;

	for (struct thread *s = sleep_head; s && s->deadline <= t->deadline; s = s->sleep_next)
		after = s;
	t->sleep_prev = after;
	t->sleep_next = after ? after->sleep_next : sleep_head;
	if (after)
		after->sleep_next = t;
	else
		sleep_head = t;
	if (t->sleep_next)
		t->sleep_next->sleep_prev = t;
	t->sleeping = true;
}

static void sleep_remove(struct thread *t)
{
	if (t->sleep_prev)
		t->sleep_prev->sleep_next = t->sleep_next;
	else
		sleep_head = t->sleep_next;
	if (t->sleep_next)
		t->sleep_next->sleep_prev = t->sleep_prev;
	t->sleeping = false;
}

static void queue_append(struct thread *t, struct wait_queue *queue)
{
	t->queue = queue;
	t->wait_next = NULL;
	t->wait_prev = queue->tail;
	if (queue->tail)
		queue->tail->wait_next = t;
	else
		queue->head = t;
	queue->tail = t;
}

static void queue_remove(struct thread *t)
{
	struct wait_queue *queue = t->queue;

	if (t->wait_prev)
		t->wait_prev->wait_next = t->wait_next;
	else
		queue->head = t->wait_next;
	if (t->wait_next)
		t->wait_next->wait_prev = t->wait_prev;
	else
		queue->tail = t->wait_prev;
	t->queue = NULL;
}

/** Take a thread that does not run out of every list but that of all threads. */
static void detach(struct thread *t)
{
	if (t->queue)
		queue_remove(t);
	if (t->sleeping)
		sleep_remove(t);
	if (t->state == THREAD_RUNNABLE)
		run_remove(t);
}

static void wake_sleepers(uint64_t now)
{
	while (sleep_head && sleep_head->deadline <= now)
		thread_wake(sleep_head, -ETIMEDOUT);
}

static void timer_interrupt(void *arg)
{
	uint64_t now = clock_ns();

	(void)arg;
	armed = NEVER;
	wake_sleepers(now);
	if (current->state == THREAD_RUNNING && run_head && (current->ours || runnable_ours)) {
		if (now - slice_start >= SLICE_NS / 2)
			resched = true;
		arm(now + SLICE_NS, now);
	}
	if (sleep_head)
		arm(sleep_head->deadline, now);
}

/* ---- switching ---- */

/* PKRU is 0 whenever the kernel runs: an interrupted thread has its own in its frame. */
static void load_state(struct thread *t)
{
	if (t->calls_c) {
		__asm__ volatile("fninit; fldcw %0; ldmxcsr %1" : : "m"(t->fcw), "m"(t->mxcsr));
	} else {
		cpu_xstate_restore(t->xstate);
	}
	t->calls_c = false;
	cpu_set_fs(t->fs_base);
	syscall_stack = t->kernel_stack_top;
}

static void save_state(struct thread *t)
{
	if (t->calls_c) {
		__asm__ volatile("fnstcw %0; stmxcsr %1" : "=m"(t->fcw), "=m"(t->mxcsr));
	} else {
		cpu_xstate_save(t->xstate);
	}
}

/* Give back the memory of the thread that ended last, once nobody runs on it. */
static void reap(void)
{
	struct thread *t = zombie;
	uintptr_t base;

	if (!t || t == current)
		return;
	zombie = NULL;
	base = t->kernel_stack_top - KERNEL_STACK_PAGES * PAGE_SIZE;
	page_protect(base, 1, PTE_RW);
	frames_free(base, KERNEL_STACK_PAGES);
	frames_free((uintptr_t)t->xstate, page_count(cpu_xstate_size));
	heap_free(t);
}

/** Give the CPU to the next runnable thread. Interrupts off; the current thread is in whatever list
 * it belongs to. */
static void schedule(void)
{
	struct thread *prev = current, *next;
	uint64_t now = clock_ns(), left = now;

	prev->cpu_ns += now - slice_start;
	resched = false;
	reap();
	wake_sleepers(now);
	while (!run_head) {
		if (sleep_head)
			arm(sleep_head->deadline, now);
		__asm__ volatile("sti; hlt; cli" : : : "memory");
		now = clock_ns();
	}
	idle_ns += now - left;
	next = run_head;
	run_remove(next);
	next->state = THREAD_RUNNING;
	slice_start = now;
	if (run_head && (next->ours || runnable_ours))
		arm(now + SLICE_NS, now);
	if (sleep_head)
		arm(sleep_head->deadline, now);
	if (next == prev) {
		prev->calls_c = false;
		return;
	}
	sched_switches++;
	next->switches++;
	save_state(prev);
	current = next;
	load_state(next);
	switch_stack(&prev->sp, next->sp);
}

void sched_yield_now(void)
{
	uint64_t flags = irq_save();

	run_push(current);
	schedule();
	irq_restore(flags);
}

void sched_check(void)
{
	/* Core code of libuio gives the CPU away only where it says so. */
	if (resched && runnable_ours && !current->ours)
		sched_yield_now();
}

int thread_wait(struct wait_queue *queue, uint64_t deadline, bool interruptible)
{
	struct thread *t = current;

	if (interruptible && signal_is_pending(t))
		return -EINTR;
	t->state = THREAD_BLOCKED;
	t->interruptible = interruptible;
	t->reason = 0;
	if (queue)
		queue_append(t, queue);
	if (deadline != NEVER) {
		t->deadline = deadline;
		sleep_insert(t);
	}
	schedule();
	t->interruptible = false;
	return t->reason;
}

/** Queue a thread; if libuio takes part in the race for the CPU, see to it that a tick comes. */
static void make_runnable(struct thread *t)
{
	run_push(t);
	if (current->state != THREAD_RUNNING)
		return;
	if (t->ours && in_interrupt)
		resched = true;
	if (t->ours || current->ours) {
		uint64_t now = clock_ns();

		arm(now + SLICE_NS, now);
	}
}

void thread_wake(struct thread *t, int reason)
{
	if (t->state != THREAD_BLOCKED)
		return;
	detach(t);
	t->reason = reason;
	make_runnable(t);
}

uint64_t thread_cpu_ns(const struct thread *t)
{
	return t->cpu_ns + (t->state == THREAD_RUNNING ? clock_ns() - slice_start : 0);
}

uint64_t sched_idle_ns(void)
{
	return idle_ns;
}

/* ---- preemption ---- */

/* Core code runs in the midst of an application's thread (port/reference/trace.c). */
extern volatile uint32_t uio_port_hold __attribute__((visibility("default")));

static bool is_within(uint64_t ip, const uint8_t *start, const uint8_t *end)
{
	return ip >= (uintptr_t)start && ip < (uintptr_t)end;
}

/*
 * The C library may be left anywhere by a thread of the application: libuio starts its threads with
 * pthread_create(), from then on the library's locks are real. A thread of libuio may not: core
 * code that calls memcpy() is still core code.
 */
static bool is_preemptible(uint64_t ip)
{
	if (is_within(ip, __app_text_start, __app_text_end) || (ip >= ARENA_BASE && ip < ARENA_END))
		return true;
	return !current->ours && is_within(ip, __libc_text_start, __libc_text_end);
}

bool sched_wants_preemption(const struct frame *frame)
{
	if (uio_port_hold || !resched || !run_head || current->state != THREAD_RUNNING ||
	    current->pinned)
		return false;
	return (current->ours || runnable_ours) && is_preemptible(frame->rip);
}

struct frame *preempt(struct frame *frame)
{
	struct frame *out = cpu_interrupt_frame();

	run_push(current);
	schedule();
	/* A handler of the application does not run with the rights of an overlay: it waits until
	 * that has left. */
	if (!frame->pkru)
		signal_deliver(frame);
	*out = *frame;
	return out;
}

/* ---- life ---- */

struct thread *thread_create(const char *name)
{
	struct thread *t = heap_zalloc(sizeof(*t));
	uintptr_t base = t ? frames_alloc(KERNEL_STACK_PAGES) : 0;
	uintptr_t xstate = base ? frames_alloc(page_count(cpu_xstate_size)) : 0;
	uint64_t flags;

	if (!xstate || page_protect(base, 1, PTE_OWNED) < 0) {
		if (xstate)
			frames_free(xstate, page_count(cpu_xstate_size));
		if (base)
			frames_free(base, KERNEL_STACK_PAGES);
		heap_free(t);
		return NULL;
	}
	t->kernel_stack_top = base + KERNEL_STACK_PAGES * PAGE_SIZE;
	t->xstate = (void *)xstate;
	cpu_xstate_init(t->xstate);
	strncpy(t->name, name, sizeof(t->name) - 1);

	flags = irq_save();
	reap();
	t->id = next_id++;
	t->next = all_threads;
	t->link = &all_threads;
	if (t->next)
		t->next->link = &t->next;
	all_threads = t;
	irq_restore(flags);
	return t;
}

/** A context for switch_stack(): it pops six registers and returns to entry. */
static void set_context(struct thread *t, uint64_t top, uint64_t entry, uint64_t r12, uint64_t rbx)
{
	uint64_t *sp = (uint64_t *)top;

	*--sp = entry;
	*--sp = 0; /* rbp */
	*--sp = rbx;
	*--sp = r12;
	*--sp = 0;
	*--sp = 0;
	*--sp = 0;
	t->sp = (uint64_t)sp;
}

void thread_start(struct thread *t, const struct frame *frame)
{
	struct frame *copy = (struct frame *)t->kernel_stack_top - 1;
	uint64_t flags;

	*copy = *frame;
	set_context(t, (uint64_t)copy, (uint64_t)syscall_return, 0, 0);
	flags = irq_save();
	make_runnable(t);
	irq_restore(flags);
}

static void unlist(struct thread *t)
{
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	t->state = THREAD_DEAD;
}

void thread_exit(void)
{
	irq_save();
	reap();
	unlist(current);
	zombie = current;
	/* Nothing of its registers will be needed, but its extended state must not be loaded by
	 * anybody. */
	current->calls_c = true;
	schedule();
	panic("a dead thread runs");
}

void thread_kill(struct thread *t)
{
	uint64_t flags = irq_save();

	detach(t);
	unlist(t);
	reap();
	zombie = t;
	irq_restore(flags);
}

int thread_divert(struct thread *t, void (*fn)(void *), void *arg)
{
	uint64_t flags = irq_save();
	int status = -EAGAIN;

	if (t != current && (t->started || !t->ours) &&
	    (t->state == THREAD_BLOCKED || t->state == THREAD_RUNNABLE)) {
		detach(t);
		set_context(t, t->kernel_stack_top, (uint64_t)divert_entry, (uint64_t)arg,
			    (uint64_t)fn);
		t->interruptible = false;
		make_runnable(t);
		status = 0;
	}
	irq_restore(flags);
	return status;
}

void sched_init(void)
{
	current = &boot_thread;
	lapic_init(timer_interrupt);
}

void sched_run(void)
{
	schedule();
	panic("the boot stack runs again");
}
