/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Overlay code runs and ends here: the one place where it is entered, on a
 * stack of its own between guard pages, and the one place to which every end
 * of it unwinds: return, exit(), a fault, a cancel, a deadline. Whatever the
 * command held is given back afterwards.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "overlay_impl.h"

#define DESTRUCTORS_NS      1000000000ull
#define DESTRUCTOR_RETRY_NS 10000000ull
#define BUSY_RETRY_NS       1000000ull

/* ---- entry and exit ---- */

/*
 * uio_run_enter(run, entry, sp, a0, a1, a2): keep what the ABI wants kept on
 * this stack and its top in run; then the overlay's stack and entry. The
 * overlay can reach neither run nor this stack by what is in its registers.
 *
 * uio_run_unwind(run, how): back to where uio_run_enter() was called, which
 * returns how. Also where the trap hook sends a thread whose every register
 * but rdi, rsi and rsp is the overlay's.
 *
 * A switch of protection keys belongs right before `call` and right after the
 * label uio_run_unwind.
 */
__asm__(".text\n"
	".globl uio_run_enter\n"
	".type uio_run_enter, @function\n"
	"uio_run_enter:\n"
	"	pushq %rbp\n"
	"	pushq %rbx\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	pushfq\n"
	"	subq $8, %rsp\n"
	"	stmxcsr (%rsp)\n"
	"	fnstcw 4(%rsp)\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rdx, %rsp\n"
	"	movq %rsi, %rax\n"
	"	movq %rcx, %rdi\n"
	"	movq %r8, %rsi\n"
	"	movq %r9, %rdx\n"
	"	xorl %ebp, %ebp\n"
	"	xorl %ebx, %ebx\n"
	"	xorl %ecx, %ecx\n"
	"	xorl %r8d, %r8d\n"
	"	xorl %r9d, %r9d\n"
	"	xorl %r12d, %r12d\n"
	"	xorl %r13d, %r13d\n"
	"	xorl %r14d, %r14d\n"
	"	xorl %r15d, %r15d\n"
	"	call *%rax\n"
	"	movl %eax, %edi\n"
	"	cld\n"
	"	andq $-16, %rsp\n"
	"	call uio_run_returned\n"
	"	ud2\n"
	".size uio_run_enter, .-uio_run_enter\n"
	".globl uio_run_unwind\n"
	".type uio_run_unwind, @function\n"
	"uio_run_unwind:\n"
	"	movq (%rdi), %rsp\n"
	"	movl %esi, %eax\n"
	"	cld\n"
	"	fninit\n"
	"	ldmxcsr (%rsp)\n"
	"	fldcw 4(%rsp)\n"
	"	addq $8, %rsp\n"
	"	popfq\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbx\n"
	"	popq %rbp\n"
	"	ret\n"
	".size uio_run_unwind, .-uio_run_unwind\n");

extern int uio_run_enter(struct uio_run *run, uintptr_t entry, uintptr_t sp, uintptr_t a0,
			 uintptr_t a1, uintptr_t a2);
extern _Noreturn void uio_run_unwind(struct uio_run *run, int how);
_Static_assert(offsetof(struct uio_run, saved_sp) == 0, "known to the assembler");

_Noreturn void uio_run_leave(struct uio_run *run, enum uio_run_end how)
{
	run->active = false;
	uio_run_unwind(run, (int)how);
}

/* Called by the assembler when the overlay's function returns. */
__attribute__((used)) _Noreturn void uio_run_returned(int status)
{
	struct uio_run *run = uio_run_self();

	if (run->in_main)
		uio_api_exit(run, status);
	uio_run_leave(run, UIO_RUN_RETURNED);
}

_Noreturn void uio_run_abort(struct uio_run *run, enum uio_trap_kind kind, uint64_t ip,
			     uint64_t frame)
{
	memset(&run->fault, 0, sizeof(run->fault));
	run->fault.trap.kind = kind;
	run->fault.trap.ip = ip;
	run->fault.trap.sp = frame;
	run->fault.trap.regs[6] = frame; /* rbp */
	uio_run_backtrace(run, &run->fault);
	uio_run_leave(run, UIO_RUN_FAULT);
}

static enum uio_run_end call(struct uio_run *run, uintptr_t entry, uintptr_t sp, uintptr_t a0,
			     uintptr_t a1, uintptr_t a2)
{
	run->in_core = 0;
	run->active = true;
	return (enum uio_run_end)uio_run_enter(run, entry, sp, a0, a1, a2);
}

/* ---- stacks ---- */

static int stack_take(struct uio_run *run, size_t pages)
{
	struct uio_resident *r = run->resident;
	uintptr_t range = r->spare_stack;
	int rc;

	if (range && r->spare_pages >= pages) {
		r->spare_stack = 0;
		pages = r->spare_pages;
	} else {
		while (!(range = uio_arena_take(UIO_STACK_GUARD + pages + UIO_RUN_GUARD_HIGH)))
			if (!uio_resident_evict())
				return -ENOMEM;
		do {
			rc = uio_port_map(range + UIO_STACK_GUARD * UIO_PAGE_SIZE, pages,
					  UIO_PROT_READ | UIO_PROT_WRITE);
		} while (rc == -ENOMEM && uio_resident_evict());
		if (rc) {
			uio_arena_release(range);
			return rc;
		}
	}
	run->stack_low = range + UIO_STACK_GUARD * UIO_PAGE_SIZE;
	run->stack_high = run->stack_low + pages * UIO_PAGE_SIZE;
	return 0;
}

/* One is kept for the overlay's next command: mapping costs more than a short command. */
static void stack_give(struct uio_run *run)
{
	struct uio_resident *r = run->resident;
	uintptr_t range = run->stack_low - UIO_STACK_GUARD * UIO_PAGE_SIZE;
	size_t pages = (run->stack_high - run->stack_low) / UIO_PAGE_SIZE;

	if (!run->stack_low)
		return;
	if (!r->spare_stack && pages <= UIO_PAGES(UIO_STACK_DEFAULT) + 16) {
		r->spare_stack = range;
		r->spare_pages = pages;
		return;
	}
	uio_port_unmap(run->stack_low, pages);
	uio_arena_release(range);
}

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
static void place_arguments(const struct uio_run *run, struct arguments *a)
{
	uintptr_t start = (run->stack_high - a->bytes) & ~(uintptr_t)15;
	char **vectors = (char **)start;
	char *strings = (char *)(vectors + a->argc + a->envc + 2);

	a->argv = copy_strings(run->x->argv, a->argc, vectors, &strings);
	a->envp = copy_strings(run->x->envp, a->envc, vectors + a->argc + 1, &strings);
	a->sp = start;
}

/* ---- a run from beginning to end ---- */

static struct uio_run *run_begin(struct uio_resident *r, struct uio_exec *x, size_t more_stack)
{
	const struct uio_policy *policy = &r->o.policy;
	size_t stack = policy->stack_bytes ? policy->stack_bytes : UIO_STACK_DEFAULT;
	struct uio_run *run = uio_port_alloc(sizeof(*run));

	if (!run)
		return NULL;
	memset(run, 0, sizeof(*run));
	run->thread = uio_port_thread_self();
	run->x = x;
	run->resident = r;
	run->heap_limit = policy->memory_bytes;
	if (stack_take(run, UIO_PAGES(stack + more_stack))) {
		uio_port_free(run);
		return NULL;
	}
	run->next = uio_runs;
	uio_runs = run;
	return run;
}

static void run_end(struct uio_run *run)
{
	struct uio_run **at = &uio_runs;

	uio_api_close_all(run);
	uio_heap_free_all(run);
	stack_give(run);
	while (*at != run)
		at = &(*at)->next;
	*at = run->next;
	uio_port_free(run);
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
	struct uio_image image;
	uint64_t ip = f->trap.ip;
	const char *how = " at";

	uio_port_image(&image);
	/* What checks an overlay's pointers first is libuio's own, and has done nothing yet. */
	if (ip >= image.text_start && ip < image.text_end && !run->probing)
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

	switch (how) {
	case UIO_RUN_FAULT:
		describe_fault(run, x);
		break;
	case UIO_RUN_STOPPED:
		uio_run_stopped(x, run->resident->o.name);
		break;
	case UIO_RUN_RETURNED:
		if (uio_exec_stopping(x) && !run->polite)
			uio_run_stopped(x, run->resident->o.name);
		else
			uio_exec_result(x, UIO_EXIT_OK, run->status, "%s", "");
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
	run = run_begin(r, x, a.bytes + 16);
	if (!run) {
		o->running--;
		uio_exec_result(x, UIO_EXIT_ERROR, -ENOMEM, "%s: no memory for its stack", o->name);
		return;
	}
	o->uses++;
	limit_time(&o->policy, x);
	place_arguments(run, &a);
	x->overlay = o;
	x->recover = run;
	how = construct(run, a.sp);
	if (how == UIO_RUN_RETURNED) {
		run->in_main = true;
		how = call(run, o->entry, a.sp, a.argc, (uintptr_t)a.argv, (uintptr_t)a.envp);
	}
	x->recover = NULL;
	if (how != UIO_RUN_RETURNED)
		uio_ninep_abandon(run->thread);
	set_result(run, how);
	if (how != UIO_RUN_RETURNED)
		r->state = UIO_RESIDENT_BROKEN; /* its data may be half changed: load it afresh */
	run_end(run);
	x->overlay = NULL;
	o->running--;
	r->last_used_ns = uio_port_ns();
	uio_resident_left(r);
}

/* ---- ending it from outside ---- */

static void diverted(void *arg)
{
	uio_run_leave(arg, UIO_RUN_STOPPED);
}

int uio_overlay_stop(struct uio_exec *x)
{
	struct uio_run *run = x->recover;

	if (!run || !uio_exec_stopping(x))
		return 0; /* libuio's own code looks at x->cancel */
	if (run->polite && x->cancel && x->cancel < 9 && uio_port_ns() < x->deadline_ns)
		return 0;
	run->stop = true;
	if (!run->active || run->in_core)
		return -EAGAIN;
	return uio_port_thread_divert(run->thread, diverted, run);
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
	struct uio_run *run = run_begin(r, NULL, 0);

	t->run = run;
	for (struct uio_at_unload *u = r->at_unload; run && u && how == UIO_RUN_RETURNED;
	     u = u->next)
		how = call(run, (uintptr_t)u->fn, run->stack_high, (uintptr_t)u->arg, 0, 0);
	for (uint32_t i = r->nfini; run && i-- > 0 && how == UIO_RUN_RETURNED;)
		how = call(run, r->calls[r->ninit + i], run->stack_high, 0, 0, 0);
	if (how != UIO_RUN_RETURNED)
		uio_log(4, "overlay %s was stopped in a destructor", r->o.name);
	t->run = NULL;
	if (run)
		run_end(run);
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
		t.run->stop = true;
		if (t.run->active && !t.run->in_core)
			uio_port_thread_divert(thread, diverted, t.run);
	}
}

void uio_fault_init(void)
{
	/* What overlays call has no other caller: without a mention no linker would keep it. */
	__asm__ volatile("" ::"r"(uio_api_symbols), "r"(uio_api_libc_symbols),
			 "r"(uio_api_stdio_symbols));
	uio_port_trap_hook(uio_run_trap);
}
