/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A command that is an overlay, from beginning to end: arguments, fresh data,
 * constructors, main(), what exit() does, and the result: its status, a fault
 * in words, a cancel, a deadline.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "context.h"
#include "overlay_impl.h"

#define DESTRUCTORS_NS      1000000000ull
#define DESTRUCTOR_RETRY_NS 10000000ull
#define BUSY_RETRY_NS       1000000ull

/* ---- arguments ---- */

static size_t count(char **strings, size_t *bytes)
{
	size_t n = 0;

	for (; strings && strings[n]; n++)
		*bytes += strlen(strings[n]) + 1;
	return n;
}

static char **copy_strings(char **strings, size_t n, char **vector, char **at)
{
	for (size_t i = 0; i < n; i++) {
		size_t size = strlen(strings[i]) + 1;

		vector[i] = memcpy(*at, strings[i], size);
		*at += size;
	}
	vector[n] = NULL;
	return vector;
}

struct arguments {
	size_t argc, envc, bytes; /* bytes: of vectors and strings */
	char **argv, **envp;
	uintptr_t sp;
};

static void measure_arguments(const struct uio_exec *x, struct arguments *a)
{
	a->bytes = 0;
	a->argc = count(x->argv, &a->bytes);
	a->envc = count(x->envp, &a->bytes);
	a->bytes += (a->argc + a->envc + 2) * sizeof(char *);
}

/* At the top of the stack, where a program finds them: the overlay may change its own copies. */
static void place_arguments(struct uio_run *run, struct arguments *a)
{
	uintptr_t start = (run->stack_high - a->bytes) & ~(uintptr_t)15;
	char **vectors = (char **)start;
	char *strings = (char *)(vectors + a->argc + a->envc + 2);

	a->argv = copy_strings(run->x->argv, a->argc, vectors, &strings);
	a->envp = copy_strings(run->x->envp, a->envc, vectors + a->argc + 1, &strings);
	a->sp = start;
	run->envp = a->envp;
}

/* ---- the program from beginning to end ---- */

static enum uio_run_end call(struct uio_run *run, uintptr_t fn, uintptr_t sp, uintptr_t a0,
			     uintptr_t a1, uintptr_t a2)
{
	const uint64_t arguments[4] = {a0, a1, a2};
	struct uio_level level = {0};
	enum uio_run_end how = uio_run_call(run, &level, fn, sp, arguments);

	if (how == UIO_RUN_RETURNED && !run->has_status)
		run->status = (int)level.rax;
	return how;
}

/* The objects of C++, newest first, then the destructors backwards. */
static enum uio_run_end destruct(struct uio_run *run, uintptr_t sp)
{
	struct uio_resident *r = run->resident;
	enum uio_run_end how = UIO_RUN_RETURNED;

	for (struct uio_at_unload *u = r->at_unload; u && how == UIO_RUN_RETURNED; u = u->next)
		how = call(run, (uintptr_t)u->fn, sp, (uintptr_t)u->arg, 0, 0);
	for (uint32_t i = r->nfini; i-- > 0 && how == UIO_RUN_RETURNED;)
		how = call(run, r->calls[r->ninit + i], sp, 0, 0, 0);
	return how;
}

static bool keeps_data(const struct uio_resident *r)
{
	return r->o.policy.flags & UIO_POLICY_KEEP_DATA;
}

/* As a program finds its variables: unless others are in it, or it wants to keep them. */
static void renew(struct uio_resident *r)
{
	if (r->o.running > 1 || keeps_data(r))
		return;
	if (r->is_used) {
		uio_resident_restore_data(r);
		uio_resident_forget_objects(r);
		r->state = UIO_RESIDENT_NEW;
	}
	r->is_used = true;
}

/* Constructors, once, by the first command; others wait for it. */
static enum uio_run_end construct(struct uio_run *run, uintptr_t sp)
{
	struct uio_resident *r = run->resident;
	enum uio_run_end how = UIO_RUN_RETURNED;

	while (r->state == UIO_RESIDENT_STARTING) {
		if (uio_exec_stopping(run->x))
			return UIO_RUN_STOPPED;
		uio_port_sleep(BUSY_RETRY_NS);
	}
	if (r->state != UIO_RESIDENT_NEW)
		return how;
	r->state = UIO_RESIDENT_STARTING;
	for (uint32_t i = 0; i < r->ninit && how == UIO_RUN_RETURNED; i++)
		how = call(run, r->calls[i], sp, 0, 0, 0);
	r->state = how == UIO_RUN_RETURNED ? UIO_RESIDENT_READY : UIO_RESIDENT_BROKEN;
	return how;
}

/* What exit() does, after main() has returned or has called it. */
static enum uio_run_end finish(struct uio_run *run, uintptr_t sp)
{
	struct uio_resident *r = run->resident;
	enum uio_run_end how = UIO_RUN_RETURNED;

	run->has_status = true;
	if (run->exit_sp)
		sp = run->exit_sp; /* main()'s variables are still there */
	while (run->nat_exit && how == UIO_RUN_RETURNED)
		how = call(run, (uintptr_t)run->at_exit[--run->nat_exit], sp, 0, 0, 0);
	if (how == UIO_RUN_RETURNED && r->o.running == 1 && !keeps_data(r) &&
	    r->state == UIO_RESIDENT_READY && !run->quick_exit) {
		r->state = UIO_RESIDENT_NEW;
		how = destruct(run, sp);
	}
	if (how == UIO_RUN_RETURNED) {
		run->active = true;
		run->in_core = 1; /* whatever happens, this ends here */
		uio_api_flush_last(run);
		run->in_core = 0;
		run->active = false;
	}
	return how;
}

static const char *const trap_words[] = {
	[UIO_TRAP_READ] = "reads from",
	[UIO_TRAP_WRITE] = "writes to",
	[UIO_TRAP_EXECUTE] = "jumps to",
	[UIO_TRAP_INVALID_OPCODE] = "invalid instruction",
	[UIO_TRAP_DIVIDE] = "division error",
	[UIO_TRAP_PROTECTION] =
		"protection fault (an address of no memory, or a privileged instruction)",
	[UIO_TRAP_STACK] = "stack overflow",
	[UIO_TRAP_ABORT] = "abort()",
	[UIO_TRAP_ALIGNMENT] = "misaligned access",
	[UIO_TRAP_BUDGET] = "budget exceeded",
	[UIO_TRAP_OTHER] = "CPU exception",
};

/* Where it happened: in the overlay; or in what it called, and from where. */
static void describe_place(const struct uio_run *run, char *out, size_t size)
{
	const struct uio_fault *f = &run->fault;
	const struct uio_resident *r = run->resident;
	const char *half_done = "";
	bool is_own;
	struct uio_image image;
	uint64_t ip = f->trap.ip;
	const char *how = " at";

	uio_port_image(&image);
	/*
	 * In a domain what the kernel does for an overlay is done on the kernel's stack; the rest
	 * are functions that run in the overlay's own rights.
	 */
	is_own = run->border.pkru && f->trap.sp - run->border.stack_low < run->border.stack_bytes;
	/* What checks an overlay's pointers first is libuio's own, and has done nothing yet. */
	if (ip >= image.text_start && ip < image.text_end && !run->probing && !is_own)
		half_done = "; a function of the kernel may be half done";
	for (uint32_t i = 0; i <= f->depth; i++) {
		if (uio_resident_has(r, ip, UIO_PROT_EXEC)) {
			snprintf(out, size, "%s %.40s+0x%llx%s", how, r->o.name,
				 (unsigned long long)(ip - r->o.base), half_done);
			return;
		}
		how = ", called from";
		ip = i < f->depth ? f->backtrace[i] : 0;
	}
	snprintf(out, size, "%s", half_done);
}

/* "hello: writes to 0x8 at hello+0x1a" */
static void describe_fault(const struct uio_run *run, struct uio_exec *x)
{
	const struct uio_fault *f = &run->fault;
	enum uio_trap_kind kind = f->trap.kind <= UIO_TRAP_OTHER ? f->trap.kind : UIO_TRAP_OTHER;
	const char *what = kind ? trap_words[kind] : trap_words[UIO_TRAP_OTHER];
	char address[32] = "", where[120] = "";

	if (kind && kind <= UIO_TRAP_EXECUTE)
		snprintf(address, sizeof(address), " 0x%llx", (unsigned long long)f->trap.address);
	describe_place(run, where, sizeof(where));
	uio_exec_result(x, UIO_EXIT_FAULT, -EFAULT, "%.40s: %s%s%s", run->resident->o.name, what,
			address, where);
	x->result.has_fault = true;
	x->result.fault = *f;
}

void uio_run_stopped(struct uio_exec *x, const char *name)
{
	if (x->timed_out || (!x->cancel && uio_port_ns() >= x->deadline_ns))
		uio_exec_result(x, UIO_EXIT_TIMEOUT, -ETIMEDOUT, "%s: time is up", name);
	else
		uio_exec_result(x, UIO_EXIT_CANCELLED, x->cancel, "%s: cancelled by signal %d",
				name, x->cancel);
}

static void set_result(struct uio_run *run, enum uio_run_end how)
{
	struct uio_exec *x = run->x;

	if (run->has_fault)
		how = UIO_RUN_FAULT;
	switch (how) {
	case UIO_RUN_FAULT:
		describe_fault(run, x);
		break;
	case UIO_RUN_STOPPED:
		if (!run->thread_exited) {
			uio_run_stopped(x, run->resident->o.name);
			break;
		}
		/* fall through */
	case UIO_RUN_RETURNED:
		if (uio_exec_stopping(x) && !run->polite && !run->thread_exited)
			uio_run_stopped(x, run->resident->o.name);
		else
			uio_exec_returned(x, run->status);
		break;
	}
}

static void limit_time(const struct uio_policy *policy, struct uio_exec *x)
{
	uint64_t end = uio_port_ns() + policy->timeout_ms * 1000000ull;

	if (policy->timeout_ms && end < x->deadline_ns)
		x->deadline_ns = end;
}

void uio_overlay_run(struct uio_overlay *o, struct uio_exec *x)
{
	struct uio_resident *r = (struct uio_resident *)o;
	struct arguments a = {0};
	enum uio_run_end how;
	struct uio_run *run;

	if (uio_exec_stopping(x)) {
		uio_run_stopped(x, o->name);
		return;
	}
	o->running++; /* before anything that may evict */
	measure_arguments(x, &a);
	run = uio_run_begin(r, x, a.bytes + 16);
	if (!run) {
		o->running--;
		uio_exec_result(x, UIO_EXIT_ERROR, -ENOMEM, "%s: no memory for its stack", o->name);
		return;
	}
	o->uses++;
	limit_time(&o->policy, x);
	place_arguments(run, &a);
	renew(r);
	x->overlay = o;
	x->recover = run;
	how = construct(run, a.sp);
	if (how == UIO_RUN_RETURNED) {
		run->in_main = true;
		how = call(run, o->entry, a.sp, a.argc, (uintptr_t)a.argv, (uintptr_t)a.envp);
		if (how == UIO_RUN_RETURNED)
			how = finish(run, a.sp);
	}
	x->recover = NULL;
	if (how != UIO_RUN_RETURNED)
		uio_ninep_abandon(run->thread);
	set_result(run, how);
	/* What a thread-specific function of the kernel has done stays with the thread. */
	x->spoils_thread = x->result.kind != UIO_EXIT_OK || r->calls_kernel;
	if (how != UIO_RUN_RETURNED)
		r->state = UIO_RESIDENT_BROKEN; /* its data may be half changed: load it afresh */
	uio_run_end(run);
	x->overlay = NULL;
	o->running--;
	r->last_used_ns = uio_port_ns();
	uio_resident_left(r);
}

void uio_overlay_rest(void)
{
	uio_run_trim();
	if (uio_module_drop)
		uio_module_drop();
}

/* ---- ending it from outside ---- */

int uio_overlay_stop(struct uio_exec *x)
{
	struct uio_run *run = x->recover;

	if (!run || !uio_exec_stopping(x))
		return 0; /* libuio's own code looks at x->cancel */
	if (run->polite && x->cancel && x->cancel < 9 && uio_port_ns() < x->deadline_ns)
		return 0;
	return uio_run_stop(run);
}

/* ---- destructors ---- */

struct teardown {
	struct uio_resident *r;
	struct uio_run *run;
	struct uio_event done;
	bool finished;
};

static void teardown_thread(void *arg)
{
	struct teardown *t = arg;
	struct uio_resident *r = t->r;
	enum uio_run_end how = UIO_RUN_RETURNED;
	struct uio_run *run = uio_run_begin(r, NULL, 0);

	t->run = run;
	if (run)
		how = destruct(run, run->stack_high);
	if (how != UIO_RUN_RETURNED)
		uio_log(4, "overlay %s was stopped in a destructor", r->o.name);
	t->run = NULL;
	if (run)
		uio_run_end(run);
	t->finished = true;
	uio_port_event_signal(&t->done);
}

void uio_run_destructors(struct uio_resident *r)
{
	struct teardown t = {.r = r};
	struct uio_thread *thread;
	uint64_t end = uio_port_ns() + DESTRUCTORS_NS;

	uio_port_event_init(&t.done);
	if (uio_port_thread_create(&thread, "uio-destructors", teardown_thread, &t, 16 * 1024))
		return;
	while (!t.finished) {
		uint64_t now = uio_port_ns();

		uio_port_event_wait(&t.done, now < end ? end - now : DESTRUCTOR_RETRY_NS);
		if (t.finished || uio_port_ns() < end || !t.run)
			continue;
		uio_run_stop(t.run);
	}
}

/* What overlays call has no other caller: without a mention no linker would keep it. */
static const void *const *const api[] = {
	uio_api_symbols,
	uio_api_libc_symbols,
	uio_api_stdio_symbols,
	uio_callback_symbols,
};

bool uio_api_has(uint64_t function)
{
	for (size_t i = 0; i < sizeof(api) / sizeof(api[0]); i++)
		for (const void *const *at = api[i]; *at; at++)
			if ((uintptr_t)*at == function)
				return true;
	return false;
}

void uio_fault_init(void)
{
	uio_domain_init();
	uio_port_trap_hook(uio_run_trap);
}
