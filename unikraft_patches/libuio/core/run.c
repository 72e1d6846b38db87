/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A run: one thread's stay in an overlay, with the stacks it has there. Begun
 * for a command, its destructors or a callback; entered by uio_run_call() once
 * or several times; ended, when everything it held is given back.
 */

#include <errno.h>
#include <string.h>

#include "overlay_impl.h"

/* ---- stacks ---- */

/* A function of the kernel may need as much as it would have found on the overlay's own stack. */
static size_t kernel_pages(size_t pages)
{
	return uio_domain_on() ? pages + UIO_STACK_GUARD : 0;
}

uintptr_t uio_stack_low(uintptr_t range, size_t pages)
{
	return range + (UIO_STACK_GUARD + kernel_pages(pages)) * UIO_PAGE_SIZE;
}

static uintptr_t kernel_low(uintptr_t range)
{
	return range + UIO_STACK_GUARD * UIO_PAGE_SIZE;
}

/* The stacks of an overlay that is gone, for the next one: empty, and with the kernel's key. */
static struct {
	uintptr_t range; /* 0: none */
	size_t pages;
} spare;

static int map(uintptr_t va, size_t pages)
{
	int rc;

	do {
		rc = uio_port_map(va, pages, UIO_PROT_READ | UIO_PROT_WRITE);
	} while (rc == -ENOMEM && uio_resident_evict());
	return rc;
}

static void unmap(uintptr_t range, size_t pages)
{
	uio_port_unmap(uio_stack_low(range, pages), pages);
	if (uio_domain_on())
		uio_port_unmap(kernel_low(range), pages);
	uio_arena_release(range);
}

static int map_stacks(const struct uio_resident *r, uintptr_t range, size_t pages)
{
	uintptr_t low = uio_stack_low(range, pages);
	int rc = map(low, pages);

	if (rc)
		return rc;
	rc = uio_domain_tag(r, low, pages);
	if (!rc && uio_domain_on())
		rc = map(kernel_low(range), pages);
	if (rc)
		uio_port_unmap(low, pages);
	return rc;
}

/* *pages: how many are needed, and then how many there are. */
static int find_stacks(struct uio_resident *r, uintptr_t *range, size_t *pages)
{
	int rc;

	if (r->spare_stack && r->spare_pages >= *pages) {
		*range = r->spare_stack;
		*pages = r->spare_pages;
		r->spare_stack = 0;
		return 0;
	}
	if (spare.range && spare.pages == *pages) { /* no more than its policy says */
		*range = spare.range;
		*pages = spare.pages;
		rc = uio_domain_tag(r, uio_stack_low(*range, *pages), *pages);
		spare.range = rc ? spare.range : 0;
		return rc;
	}
	while (!(*range = uio_arena_take(UIO_STACK_GUARD + kernel_pages(*pages) + *pages +
					 UIO_RUN_GUARD_HIGH)))
		if (!uio_resident_evict())
			return -ENOMEM;
	rc = map_stacks(r, *range, *pages);
	if (rc)
		uio_arena_release(*range);
	return rc;
}

static int stack_take(struct uio_run *run, size_t pages)
{
	uintptr_t range;
	int rc = find_stacks(run->resident, &range, &pages);

	if (rc)
		return rc;
	run->stacks = range;
	run->stack_pages = pages;
	run->border.stack_low = uio_stack_low(range, pages);
	run->border.stack_bytes = pages * UIO_PAGE_SIZE;
	run->stack_high = run->border.stack_low + run->border.stack_bytes;
	if (uio_domain_on()) {
		run->kernel_stack_low = kernel_low(range);
		run->kernel_stack_top = run->kernel_stack_low + pages * UIO_PAGE_SIZE;
	}
	return 0;
}

/* One is kept for the overlay's next command: mapping costs more than a short command. */
static void stack_give(struct uio_run *run)
{
	struct uio_resident *r = run->resident;

	if (!run->stacks)
		return;
	if (!r->spare_stack && run->stack_pages <= UIO_PAGES(UIO_STACK_DEFAULT) + 16) {
		r->spare_stack = run->stacks;
		r->spare_pages = run->stack_pages;
		return;
	}
	unmap(run->stacks, run->stack_pages);
}

void uio_run_free_stack(struct uio_resident *r)
{
	uintptr_t range = r->spare_stack, low = uio_stack_low(range, r->spare_pages);

	r->spare_stack = 0;
	if (!range)
		return;
	if (spare.range || uio_domain_untag(low, r->spare_pages)) {
		unmap(range, r->spare_pages);
		return;
	}
	memset((void *)low, 0, r->spare_pages * UIO_PAGE_SIZE);
	spare.range = range;
	spare.pages = r->spare_pages;
}

bool uio_run_trim(void)
{
	uintptr_t range = spare.range;

	spare.range = 0;
	if (range)
		unmap(range, spare.pages);
	return range;
}

/* ---- begin and end ---- */

struct uio_run *uio_run_begin(struct uio_resident *r, struct uio_exec *x, size_t more_stack)
{
	static uint64_t serial;
	const struct uio_policy *policy = &r->o.policy;
	size_t stack = policy->stack_bytes ? policy->stack_bytes : UIO_STACK_DEFAULT;
	struct uio_run *run = uio_port_alloc(sizeof(*run));

	if (!run)
		return NULL;
	memset(run, 0, sizeof(*run));
	run->thread = uio_port_thread_self();
	run->x = x;
	run->resident = r;
	run->owner = run;
	run->serial = ++serial;
	run->heap_limit = policy->memory_bytes;
	if (!uio_domain_take(r, &run->border.pkru)) {
		uio_port_free(run);
		return NULL;
	}
	if (stack_take(run, UIO_PAGES(stack + more_stack))) {
		uio_domain_give(r);
		uio_port_free(run);
		return NULL;
	}
	run->border.next = uio_runs;
	uio_runs = run;
	return run;
}

void uio_run_end(struct uio_run *run)
{
	struct uio_run **at = &uio_runs;

	if (!run->is_callback)
		uio_callback_stop(run);
	uio_api_close_all(run);
	uio_heap_free_all(run);
	stack_give(run);
	uio_domain_give(run->resident);
	while (*at != run)
		at = &(*at)->border.next;
	*at = run->border.next;
	uio_port_free(run);
}

/* ---- in and out ---- */

_Noreturn void uio_run_leave(struct uio_run *run, enum uio_run_end how)
{
	run->active = false;
	uio_run_unwind(run, (int)how);
}

_Noreturn void uio_run_abort(struct uio_run *run, enum uio_trap_kind kind, uint64_t ip,
			     uint64_t frame)
{
	memset(&run->fault, 0, sizeof(run->fault));
	run->fault.trap.kind = kind;
	run->fault.trap.ip = uio_gate_caller(run, ip);
	run->fault.trap.sp = frame;
	run->fault.trap.regs[6] = frame; /* rbp */
	uio_run_backtrace(run, &run->fault);
	uio_run_leave(run, UIO_RUN_FAULT);
}

enum uio_run_end uio_run_call(struct uio_run *run, struct uio_level *level, uintptr_t fn,
			      uintptr_t sp, const uint64_t arguments[4])
{
	enum uio_run_end how;

	run->in_core = 0;
	run->border.level = NULL;
	run->active = true;
	how = (enum uio_run_end)uio_domain_call(run, level, fn, sp, arguments);
	run->active = false;
	/* Callbacks of others that it was in, when it was stopped, are over with it. */
	while (uio_runs && uio_run_self() != run) {
		struct uio_run *inner = uio_run_self();

		inner->active = false;
		inner->resident->o.running--;
		uio_run_end(inner);
	}
	return how;
}

static void diverted(void *arg)
{
	uio_run_leave(arg, UIO_RUN_STOPPED);
}

int uio_run_stop(struct uio_run *run)
{
	run->stop = true;
	if (!run->active || run->in_core)
		return -EAGAIN;
	return uio_port_thread_divert(run->thread, diverted, run);
}
