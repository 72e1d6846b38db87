/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Signals as on Linux: dispositions of the process, masks and pending sets of threads, delivery
 * when a thread leaves the kernel (from a system call or from preemption) by a frame on its stack
 * in Linux' layout, so that the C library's restorer and handlers with SA_SIGINFO work. Stopping is
 * not implemented: those signals are ignored.
 */
#include "signal.h"

#include <errno.h>
#include <string.h>

#include "memory.h"
#include "print.h"
#include "process.h"
#include "syscall.h"

#define NSIG     64
#define BIT(sig) (1ull << ((sig)-1))

enum {
	SIGKILL = 9,
	SIGCHLD = 17,
	SIGCONT = 18,
	SIGSTOP = 19,
	SIGTSTP = 20,
	SIGTTIN = 21,
	SIGTTOU = 22,
	SIGURG = 23,
	SIGWINCH = 28,
};

#define IGNORED_BY_DEFAULT                                                                         \
	(BIT(SIGCHLD) | BIT(SIGCONT) | BIT(SIGSTOP) | BIT(SIGTSTP) | BIT(SIGTTIN) | BIT(SIGTTOU) | \
	 BIT(SIGURG) | BIT(SIGWINCH))

#define HANDLER_DEFAULT 0
#define HANDLER_IGNORE  1

#define SA_NODEFER   0x40000000u
#define SA_RESETHAND 0x80000000u
#define SA_RESTART   0x10000000u
#define SA_ONSTACK   0x08000000u

struct action {
	uint64_t handler, flags, restorer, mask;
};

struct mcontext {
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
	uint16_t cs, gs, fs, ss;
	uint64_t error, trap, old_mask, cr2, xstate, reserved[8];
};

struct ucontext {
	uint64_t flags, link;
	uint64_t stack, stack_flags, stack_size;
	struct mcontext m;
	uint64_t mask[16];
};

struct siginfo {
	int32_t sig, error, code, pad;
	uint64_t rest[14];
};
_Static_assert(sizeof(struct siginfo) == 128, "Linux' layout");

struct signal_frame {
	uint64_t restorer;
	struct ucontext context;
	struct siginfo info;
};

static struct action actions[NSIG + 1];
static uint64_t process_pending;

static bool is_ignored(int sig)
{
	uint64_t handler = actions[sig].handler;

	return handler == HANDLER_IGNORE ||
	       (handler == HANDLER_DEFAULT && IGNORED_BY_DEFAULT & BIT(sig));
}

static uint64_t deliverable(const struct thread *t)
{
	uint64_t pending = t->signals_pending | (t->ours ? 0 : process_pending);

	return pending & ~t->signals_blocked;
}

bool signal_is_pending(const struct thread *t)
{
	return deliverable(t) != 0;
}

int signal_thread(struct thread *t, int sig)
{
	uint64_t flags;

	if (sig < 0 || sig > NSIG)
		return -EINVAL;
	if (!sig || is_ignored(sig))
		return 0;
	flags = irq_save();
	t->signals_pending |= BIT(sig);
	if (t->interruptible && signal_is_pending(t))
		thread_wake(t, -EINTR);
	irq_restore(flags);
	return 0;
}

int signal_process(int sig)
{
	struct thread *target = NULL;
	uint64_t flags;

	if (sig < 0 || sig > NSIG)
		return -EINVAL;
	if (!sig || is_ignored(sig))
		return 0;
	flags = irq_save();
	process_pending |= BIT(sig);
	/* The first thread, if it takes this signal: it is the last in the list. */
	for (struct thread *t = all_threads; t; t = t->next) {
		if (!t->ours && (!(t->signals_blocked & BIT(sig)) || !target))
			target = t;
	}
	if (target && target->interruptible && signal_is_pending(target))
		thread_wake(target, -EINTR);
	irq_restore(flags);
	return 0;
}

static void save_context(struct mcontext *m, const struct frame *f)
{
	*m = (struct mcontext){
		.r8 = f->r8,
		.r9 = f->r9,
		.r10 = f->r10,
		.r11 = f->r11,
		.r12 = f->r12,
		.r13 = f->r13,
		.r14 = f->r14,
		.r15 = f->r15,
		.rdi = f->rdi,
		.rsi = f->rsi,
		.rbp = f->rbp,
		.rbx = f->rbx,
		.rdx = f->rdx,
		.rax = f->rax,
		.rcx = f->rcx,
		.rsp = f->rsp,
		.rip = f->rip,
		.rflags = f->rflags,
	};
}

static void load_context(const struct mcontext *m, struct frame *f)
{
	f->r8 = m->r8;
	f->r9 = m->r9;
	f->r10 = m->r10;
	f->r11 = m->r11;
	f->r12 = m->r12;
	f->r13 = m->r13;
	f->r14 = m->r14;
	f->r15 = m->r15;
	f->rdi = m->rdi;
	f->rsi = m->rsi;
	f->rbp = m->rbp;
	f->rbx = m->rbx;
	f->rdx = m->rdx;
	f->rax = m->rax;
	f->rcx = m->rcx;
	f->rsp = m->rsp;
	f->rip = m->rip;
	f->rflags = (m->rflags & 0xcd5) | RFLAGS_IF | 2;
}

static bool on_alt_stack(const struct thread *t, uint64_t sp)
{
	return sp - t->alt_stack < t->alt_stack_size;
}

static void push_handler(struct frame *frame, int sig, const struct action *action,
			 uint64_t old_mask)
{
	struct thread *t = current;
	uint64_t sp = frame->rsp - 128;
	struct signal_frame *s;
	uint64_t xstate;

	if (action->flags & SA_ONSTACK && t->alt_stack_size && !on_alt_stack(t, frame->rsp))
		sp = t->alt_stack + t->alt_stack_size;
	xstate = (sp - cpu_xstate_size) & ~63ull;
	/* A function begins with its stack pointer 8 off a multiple of 16. */
	s = (struct signal_frame *)(((xstate - sizeof(*s)) & ~15ull) - 8);
	memset(s, 0, sizeof(*s));
	memset((void *)(xstate + 512), 0, cpu_xstate_size - 512);
	cpu_xstate_save((void *)xstate);
	s->restorer = action->restorer;
	s->context.stack = t->alt_stack;
	s->context.stack_size = t->alt_stack_size;
	s->context.stack_flags = t->alt_stack_size ? 0 : 2;
	save_context(&s->context.m, frame);
	s->context.m.xstate = xstate;
	s->context.m.old_mask = old_mask;
	s->context.mask[0] = old_mask;
	s->info.sig = sig;

	frame->rip = action->handler;
	frame->rsp = (uint64_t)s;
	frame->rdi = (uint64_t)sig;
	frame->rsi = (uint64_t)&s->info;
	frame->rdx = (uint64_t)&s->context;
	frame->rax = 0;
	frame->rflags &= ~(uint64_t)(RFLAGS_DF | RFLAGS_TF);
}

/** Settle a system call that a signal has interrupted: begin it again, or let it fail. */
static void settle_restart(struct frame *frame, bool again)
{
	if ((frame->vector & ~1ull) != FRAME_SYSCALL || (int64_t)frame->rax != -RESTART_CALL)
		return;
	if (again) {
		frame->rax = frame->error;
		frame->rip -= 2; /* the syscall instruction */
	} else {
		frame->rax = (uint64_t)-EINTR;
	}
}

void signal_deliver(struct frame *frame)
{
	struct thread *t = current;
	uint64_t flags = irq_save();
	uint64_t mask = t->restore_blocked ? t->saved_blocked : t->signals_blocked;
	uint64_t pending;

	while ((pending = deliverable(t))) {
		int sig = __builtin_ctzll(pending) + 1;
		struct action action = actions[sig];

		t->signals_pending &= ~BIT(sig);
		if (!t->ours)
			process_pending &= ~BIT(sig);
		if (is_ignored(sig))
			continue;
		if (action.handler == HANDLER_DEFAULT) {
			irq_restore(RFLAGS_IF);
			process_killed(sig);
		}
		settle_restart(frame, action.flags & SA_RESTART);
		push_handler(frame, sig, &action, mask);
		t->signals_blocked |= action.mask;
		if (!(action.flags & SA_NODEFER))
			t->signals_blocked |= BIT(sig);
		if (action.flags & SA_RESETHAND)
			actions[sig].handler = HANDLER_DEFAULT;
		t->restore_blocked = false;
		mask = t->signals_blocked;
	}
	settle_restart(frame, true);
	if (t->restore_blocked) {
		t->signals_blocked = t->saved_blocked;
		t->restore_blocked = false;
	}
	irq_restore(flags);
}

/* ---- system calls ---- */

long sys_rt_sigaction(const uint64_t *a)
{
	int sig = (int)a[0];

	if (sig < 1 || sig > NSIG || sig == SIGKILL || sig == SIGSTOP)
		return -EINVAL;
	if (a[2])
		*(struct action *)a[2] = actions[sig];
	if (a[1]) {
		actions[sig] = *(const struct action *)a[1];
		actions[sig].mask &= ~(BIT(SIGKILL) | BIT(SIGSTOP));
		if (is_ignored(sig))
			process_pending &= ~BIT(sig);
	}
	return 0;
}

long sys_rt_sigprocmask(const uint64_t *a)
{
	struct thread *t = current;
	uint64_t old = t->signals_blocked, set;

	if (a[1]) {
		set = *(const uint64_t *)a[1] & ~(BIT(SIGKILL) | BIT(SIGSTOP));
		if (a[0] == 0)
			t->signals_blocked |= set;
		else if (a[0] == 1)
			t->signals_blocked &= ~set;
		else if (a[0] == 2)
			t->signals_blocked = set;
		else
			return -EINVAL;
	}
	if (a[2])
		*(uint64_t *)a[2] = old;
	return 0;
}

long sys_rt_sigpending(const uint64_t *a)
{
	*(uint64_t *)a[0] = (current->signals_pending | process_pending) & current->signals_blocked;
	return 0;
}

long sys_rt_sigsuspend(const uint64_t *a)
{
	struct thread *t = current;
	uint64_t flags = irq_save();

	t->saved_blocked = t->signals_blocked;
	t->restore_blocked = true;
	t->signals_blocked = *(const uint64_t *)a[0] & ~(BIT(SIGKILL) | BIT(SIGSTOP));
	while (thread_wait(NULL, UINT64_MAX, true) != -EINTR)
		;
	irq_restore(flags);
	return -EINTR;
}

long sys_pause(const uint64_t *a)
{
	uint64_t flags = irq_save();

	(void)a;
	while (thread_wait(NULL, UINT64_MAX, true) != -EINTR)
		;
	irq_restore(flags);
	return -EINTR;
}

long sys_sigaltstack(const uint64_t *a)
{
	struct {
		uint64_t sp;
		int32_t flags, pad;
		uint64_t size;
	} *old = (void *)a[1];
	const typeof(*old) *new = (const void *)a[0];
	struct thread *t = current;

	if (old) {
		old->sp = t->alt_stack;
		old->size = t->alt_stack_size;
		old->flags = t->alt_stack_size ? 0 : 2;
	}
	if (new) {
		t->alt_stack = new->flags & 2 ? 0 : new->sp;
		t->alt_stack_size = new->flags & 2 ? 0 : new->size;
	}
	return 0;
}

long sys_kill(const uint64_t *a)
{
	int64_t pid = (int32_t)a[0];

	if (pid > 1 || pid < -1)
		return -ESRCH;
	return signal_process((int)a[1]);
}

static long signal_tid(uint64_t id, int sig)
{
	for (struct thread *t = all_threads; t; t = t->next) {
		if (t->id == id)
			return signal_thread(t, sig);
	}
	return -ESRCH;
}

long sys_tkill(const uint64_t *a)
{
	return signal_tid(a[0], (int)a[1]);
}

long sys_tgkill(const uint64_t *a)
{
	return signal_tid(a[1], (int)a[2]);
}

void signal_return(struct frame *frame)
{
	/* The restorer was the handler's return address: rsp is past it. */
	struct signal_frame *s = (struct signal_frame *)(frame->rsp - 8);

	load_context(&s->context.m, frame);
	if (s->context.m.xstate)
		cpu_xstate_restore((void *)s->context.m.xstate);
	current->signals_blocked = s->context.mask[0];
	frame->vector = FRAME_FULL;
}
