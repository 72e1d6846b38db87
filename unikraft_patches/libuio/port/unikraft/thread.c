/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads: those of libuio are ordinary threads of Unikraft's scheduler with
 * the C library's thread-local data, on stacks of our own that have a guard
 * page. A thread of ours is only ever taken off the CPU at a place where it
 * may be diverted, except inside calls into the kernel.
 */
#include <errno.h>
#include <string.h>
#include <uk/alloc.h>
#include <uk/plat/time.h>
#include <uk/sched.h>
#include <uk/sched_impl.h>
#include <uk/thread.h>

#include "thread.h"

/* For system calls that keep the whole state of the caller there. */
#define AUX_STACK_PAGES 2u

/* Commands call into the kernel and run the application's signal handlers, of which the core knows
 * nothing; vfscore alone keeps several whole paths on its stack. */
#define KERNEL_STACK ((size_t)CONFIG_LIBUIO_KERNEL_STACK_KB * 1024)

static struct uio_thread *threads; /* of libuio */
static const struct uk_thread *main_thread;
static unsigned int n_threads;

/* Every thread gets a number; it lives in the thread's own data. */
static __uk_tls unsigned int thread_id;
static unsigned int last_id;

/* What the core knows threads by that are not libuio's. */
static __uk_tls struct uio_thread foreign;

/* The idle thread, the first of all, is 0; the one that boots and then runs main() is 1. */
static int number_thread(struct uk_thread *child, struct uk_thread *parent __unused)
{
	uk_thread_uktls_var(child, thread_id) = last_id++;
	return 0;
}
UK_THREAD_INIT_PRIO_FLAGS(number_thread, 0x0, UK_PRIO_LATEST, UK_THREAD_INITF_UKTLS);

unsigned int uio_thread_number(const struct uk_thread *t)
{
	return t->flags & UK_THREADF_UKTLS ? uk_thread_uktls_var(t, thread_id) : 0;
}

unsigned int uio_port_thread_id(void)
{
	const struct uk_thread *self = uk_thread_current();

	return self ? uio_thread_number(self) : 0;
}

void uio_thread_init(void)
{
	main_thread = uk_thread_current();
}

/* An allocator of stacks alone, in the form the scheduler wants. */
static void *stack_memalign(struct uk_alloc *a __unused, __sz align __unused, __sz size)
{
	return uio_memory_stack_alloc(size);
}

static void stack_free(struct uk_alloc *a __unused, void *ptr)
{
	uio_memory_stack_free(ptr);
}

static struct uk_alloc stacks = {
	.memalign = stack_memalign,
	.free = stack_free,
};

/* And one of auxiliary stacks: whole pages, without the bookkeeping of the default one. */
static void *aux_memalign(struct uk_alloc *a __unused, __sz align __unused, __sz size __unused)
{
	return uk_palloc(uk_alloc_get_default(), AUX_STACK_PAGES);
}

static void aux_free(struct uk_alloc *a __unused, void *ptr)
{
	uk_pfree(uk_alloc_get_default(), ptr, AUX_STACK_PAGES);
}

static struct uk_alloc aux_stacks = {
	.memalign = aux_memalign,
	.free = aux_free,
};

static void unlist(struct uio_thread *gone)
{
	struct uio_thread **link = &threads;

	while (*link != gone)
		link = &(*link)->next;
	*link = gone->next;
	uio_preempt_threads(--n_threads);
	uio_tlb_flushed(); /* it may have changed its rights often */
}

static void list(struct uio_thread *t)
{
	t->next = threads;
	threads = t;
	uio_preempt_threads(++n_threads);
}

/** Called by Unikraft for a thread of ours that has ended. */
static void release(struct uk_thread *t)
{
	struct uio_thread *self = t->priv;

	if (self->adopted) {
		unlist(self);
		t->dtor = self->dtor;
		t->priv = self->priv;
		if (t->dtor)
			t->dtor(t);
	}
	uio_port_free(self);
}

struct uio_thread *uio_thread_of(const struct uk_thread *t)
{
	return t->dtor == release ? t->priv : NULL;
}

static __noreturn void run(void *arg)
{
	struct uio_thread *self = arg;

	uio_libc_thread_begin(self);
	self->fn(self->arg);
	uio_libc_thread_end(self);

	unlist(self);
	uk_sched_thread_exit();
}

int uio_port_thread_create(struct uio_thread **out, const char *name, void (*fn)(void *arg),
			   void *arg, size_t stack)
{
	struct uk_sched *sched = uk_sched_current();
	struct uio_thread *self;

	/* Unikraft collects ended threads when it is idle, which it may never be. */
	uk_sched_thread_gc(sched);

	self = uio_port_alloc(sizeof(*self));
	if (!self)
		return -ENOMEM;
	memset(self, 0, sizeof(*self));
	strlcpy(self->name, name, sizeof(self->name));
	self->fn = fn;
	self->arg = arg;
	if (threads) /* the context itself asks for what it needs */
		stack += KERNEL_STACK;
	self->stack_size = (stack + UIO_PAGE_SIZE - 1) & ~(size_t)(UIO_PAGE_SIZE - 1);
	self->uk = uk_thread_create_fn1(sched->a, run, self, &stacks, self->stack_size, &aux_stacks,
					AUX_STACK_PAGES * UIO_PAGE_SIZE, sched->a_uktls, false,
					self->name, self, release);
	if (!self->uk) {
		uio_port_free(self);
		return -ENOMEM;
	}
	if (uk_sched_thread_add(sched, self->uk) < 0) {
		uk_thread_release(self->uk); /* frees self, too */
		return -ENOMEM;
	}
	list(self);
	*out = self;
	return 0;
}

/* A thread of the C library's, which began it and will end it. Without memory it stays that. */
void uio_port_thread_adopt(const char *name)
{
	struct uk_thread *t = uk_thread_current();
	struct uio_thread *self;

	if (uio_thread_of(t))
		return;
	self = uio_port_alloc(sizeof(*self));
	if (!self)
		return;
	memset(self, 0, sizeof(*self));
	strlcpy(self->name, name, sizeof(self->name));
	self->uk = t;
	self->adopted = true;
	self->dtor = t->dtor;
	self->priv = t->priv;
	t->priv = self;
	t->dtor = release;
	list(self);
}

struct uio_thread *uio_port_thread_self(void)
{
	struct uk_thread *t = uk_thread_current();
	struct uio_thread *self = t ? uio_thread_of(t) : NULL;

	if (!self && t && t->flags & UK_THREADF_UKTLS) {
		self = &uk_thread_uktls_var(t, foreign);
		self->uk = t;
	}
	return self;
}

bool uio_port_pin(bool pinned)
{
	struct uio_thread *self = uio_port_thread_self();
	bool before = self && self->pinned;

	if (self)
		self->pinned = pinned;
	return before;
}

bool uio_thread_is_pinned(void)
{
	const struct uio_thread *self = uio_port_thread_self();

	return self && self->pinned;
}

int uio_port_thread_divert(struct uio_thread *t, void (*fn)(void *arg), void *arg)
{
	unsigned long flags;

	if (t->uk == uk_thread_current() || !t->divertible)
		return -EAGAIN;
	flags = ukplat_lcpu_save_irqf();
	uio_event_forget(&t->wait);
	t->divertible = false;
	/* Below all that is on its stack: fn unwinds to a frame further up. */
	ukarch_ctx_init_entry1(&t->uk->ctx, (t->uk->ctx.sp - UIO_PAGE_SIZE / 16) & ~(uintptr_t)15,
			       0, (ukarch_ctx_entry1)(uintptr_t)fn, (long)arg);
	uk_thread_wake(t->uk);
	ukplat_lcpu_restore_irqf(flags);
	return 0;
}

/** Give the CPU away, at a point where a thread of ours may be diverted. */
static void yield_from(struct uio_thread *self)
{
	if (self)
		self->divertible = true;
	uk_sched_yield();
	if (self)
		self->divertible = false;
}

void uio_port_yield(void)
{
	yield_from(uio_port_thread_self());
}

void uio_thread_preempted(void)
{
	yield_from(uio_port_thread_self());
}

/* Unikraft's idle thread may oversleep by 55 ms when the time has come while it programs the timer.
 */
#define SHORT_SLEEP_NS 50000u

void uio_port_sleep(uint64_t ns)
{
	if (ns < SHORT_SLEEP_NS) {
		uint64_t until = uio_port_ns() + ns;

		do
			uio_port_yield();
		while (uio_port_ns() < until);
		return;
	}
	uk_thread_block_timeout(uk_thread_current(), ns);
	yield_from(uio_port_thread_self());
}

void uio_thread_block(struct uio_thread *self, uint64_t deadline)
{
	if (self)
		self->divertible = true;
	uk_thread_block_until(uk_thread_current(), (__snsec)deadline);
}

/* What ukarch_ctx_switch() leaves on the stack of a thread that it takes off the CPU. */
struct switched {
	uint64_t r15, r14, r13, r12, rbx, rbp, ip;
};

/** Where t was left. Only for threads that gave the CPU away as the calling one last did. */
static void find_frame(const struct uk_thread *t, struct uio_thread_info *info)
{
	const struct uk_thread *self = uk_thread_current();
	const struct switched *frame = (const struct switched *)t->ctx.sp;

	if (t == self || t->ctx.ip != self->ctx.ip || !uio_port_readable(t->ctx.sp))
		return;
	info->ip = frame->ip;
	info->fp = frame->rbp;
	info->sp = (uintptr_t)(frame + 1);
}

static const char *name_of(const struct uk_thread *t, const struct uio_thread *ours)
{
	if (ours)
		return ours->name;
#if !CONFIG_LIBUKBOOT_MAINTHREAD
	if (t == main_thread)
		return "main"; /* Unikraft calls it "init", which it no longer is */
#endif
	return t->name ? t->name : "";
}

int uio_port_thread_foreach(int (*fn)(const struct uio_thread_info *, void *), void *arg)
{
	struct uk_sched *sched = uk_sched_current();
	struct uk_thread *t, *next;
	int rc;

	UK_TAILQ_FOREACH_SAFE(t, &sched->thread_list, thread_list, next)
	{
		const struct uio_thread *ours = uio_thread_of(t);
		struct uio_thread_info info = {
			.name = name_of(t, ours),
			.id = uio_thread_number(t),
			.state = t == uk_thread_current()   ? 'R'
				 : uk_thread_is_runnable(t) ? 'r'
							    : 'S',
			.ours = ours != NULL,
			.cpu_ns = t->exec_time,
			.stack_size = ours ? ours->stack_size : 0,
			.switches = uio_thread_switches(t),
		};

		find_frame(t, &info);
		rc = fn(&info, arg);
		if (rc)
			return rc;
	}
	return 0;
}
