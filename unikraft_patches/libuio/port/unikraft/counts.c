/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What has happened since boot: interrupts, by the event that Unikraft raises
 * for each; switches between threads, by standing between the scheduler and
 * ukarch_ctx_switch() (Makefile.uk wraps it). Interrupt and scheduler context:
 * no vector registers.
 */
#include <string.h>
#include <uk/arch/ctx.h>
#include <uk/event.h>
#include <uk/intctlr.h>
#include <uk/sched.h>
#include <uk/thread.h>

#include "thread.h"

static uint64_t switches, interrupts;

/* How often a thread got the CPU; it lives in the thread's own data. */
static __uk_tls uint64_t thread_switches;

static int count_interrupt(void *data __unused)
{
	interrupts++;
	return UK_EVENT_NOT_HANDLED;
}
UK_EVENT_HANDLER(UK_INTCTLR_EVENT_IRQ, count_interrupt);

void __real_ukarch_ctx_switch(struct ukarch_ctx *store, struct ukarch_ctx *load);
void __wrap_ukarch_ctx_switch(struct ukarch_ctx *store, struct ukarch_ctx *load);

void __wrap_ukarch_ctx_switch(struct ukarch_ctx *store, struct ukarch_ctx *load)
{
	struct uk_thread *next = uk_thread_current(); /* already */

	switches++;
	if (next->flags & UK_THREADF_UKTLS)
		uk_thread_uktls_var(next, thread_switches)++;
	__real_ukarch_ctx_switch(store, load);
}

uint64_t uio_thread_switches(struct uk_thread *t)
{
	return t->flags & UK_THREADF_UKTLS ? uk_thread_uktls_var(t, thread_switches) : 0;
}

void uio_port_counts(struct uio_counts *out)
{
	struct uk_sched *sched = uk_sched_current();
	const struct uk_thread *idle = uk_sched_idle_thread(sched, 0);

	memset(out, 0, sizeof(*out));
	out->switches = switches;
	out->interrupts = interrupts;
	out->idle_ns = idle ? idle->exec_time : 0;
}
