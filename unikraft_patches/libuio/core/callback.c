/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kernel calls a function of an overlay: a comparison function that the
 * application sorts with, a signal's handler, a thread's first function. In a
 * thread that is in this overlay already the call is nested in that run; else
 * it gets a run of its own for as long as it lasts. If the overlay is stopped
 * in it, the caller gets 0 and goes on.
 */

#include <errno.h>
#include <string.h>

#include "channel.h"
#include "overlay_impl.h"

#define RED_ZONE      128u
#define STOP_RETRY_NS 1000000u

extern int kernel_pthread_create(void *thread, const void *attr, void *(*fn)(void *),
				 void *arg) __asm__("pthread_create") __attribute__((weak));
extern _Noreturn void uio_exit(int status);

/* ---- runs without a command ---- */

/* The command whose memory a callback shares. */
static struct uio_run *command_in(const struct uio_resident *r)
{
	for (struct uio_run *run = uio_runs; run; run = run->border.next)
		if (run->resident == r && !run->is_callback && run->x)
			return run;
	return NULL;
}

/* Core code on a thread that may be the application's: not preempted meanwhile. */
static struct uio_run *begin(struct uio_resident *r, struct uio_run *owner)
{
	bool pinned = uio_port_pin(true);
	struct uio_run *run = NULL;

	if (r->state != UIO_RESIDENT_BROKEN) {
		r->o.running++;
		run = uio_run_begin(r, NULL, 0);
		if (!run)
			r->o.running--;
	}
	if (run) {
		run->is_callback = true;
		run->owner = owner ? owner : run;
		run->x = run->owner->x;
		run->active = true;
	} else {
		uio_log(4, "overlay %s cannot be called back", r->o.name);
	}
	uio_port_pin(pinned);
	return run;
}

/* What stops a part of an overlay stops the command. */
static void pass_fault(struct uio_run *run)
{
	struct uio_run *command = run->owner;

	uio_log(4, "overlay %s was stopped while it was called back", run->resident->o.name);
	run->resident->state = UIO_RESIDENT_BROKEN;
	if (command == run || command->has_fault)
		return;
	command->fault = run->fault;
	command->has_fault = true;
	uio_exec_cancel(command->x, 9);
}

static void end(struct uio_run *run, enum uio_run_end how)
{
	struct uio_resident *r = run->resident;
	bool pinned = uio_port_pin(true);

	if (how == UIO_RUN_FAULT)
		pass_fault(run);
	uio_run_end(run);
	r->o.running--;
	uio_resident_left(r);
	uio_port_pin(pinned);
}

static bool must_end(const struct uio_run *run, const struct uio_run *command)
{
	if (!run->is_callback || run->thread == command->thread)
		return false;
	if (run->resident == command->resident && run->resident->state == UIO_RESIDENT_BROKEN)
		return true;
	return run->owner == command && (run->is_thread || run->in_core);
}

void uio_callback_stop(struct uio_run *command)
{
	for (;;) {
		unsigned int left = 0;

		for (struct uio_run *run = uio_runs; run; run = run->border.next) {
			if (must_end(run, command)) {
				if (uio_run_stop(run) && run->x)
					uio_exec_cancel(run->x, 9);
				left++;
			} else if (run->is_callback && run->owner == command) {
				/* The application is in it, and will come back by itself. */
				run->owner = run;
				run->x = NULL;
			}
		}
		if (!left)
			return;
		uio_port_sleep(STOP_RETRY_NS);
	}
}

/* ---- called by uio_gate_back (gate.c) ---- */

__attribute__((used)) struct uio_run *uio_callback_begin(struct uio_level *level,
							 const struct uio_registers *r)
{
	struct uio_run *run = uio_run_self();
	struct uio_resident *resident;
	uint64_t sp;

	memset(level, 0, sizeof(*level));
	if (run && run->active && run->border.pkru &&
	    uio_resident_has(run->resident, r->r11, UIO_PROT_EXEC)) {
		sp = run->border.sp - RED_ZONE;
	} else {
		resident = uio_resident_at(r->r11);
		run = resident ? begin(resident, command_in(resident)) : NULL;
		if (!run)
			return NULL;
		sp = run->stack_high;
	}
	uio_level_begin(run, level, r->r11, sp, r, UIO_CALLBACK_WORDS);
	return run;
}

__attribute__((used)) void uio_callback_end(struct uio_run *run, struct uio_level *level, int how)
{
	if (level->outer)
		return; /* nested: it has returned */
	run->active = false;
	if (how != UIO_RUN_RETURNED)
		memset(level, 0, sizeof(*level));
	end(run, (enum uio_run_end)how);
}

/* ---- threads ---- */

struct beginning {
	struct uio_run *owner;
	uint64_t serial;
	void *(*fn)(void *arg);
	void *arg;
};

static bool is_alive(const struct beginning *b)
{
	for (struct uio_run *run = uio_runs; run; run = run->border.next)
		if (run == b->owner && run->serial == b->serial)
			return true;
	return false;
}

static void *thread_main(void *arg)
{
	struct beginning b = *(struct beginning *)arg;
	struct uio_level level = {0};
	struct uio_run *run;
	enum uio_run_end how;
	uint64_t value;

	uio_port_thread_adopt("uio-overlay");
	uio_port_free(arg);
	run = is_alive(&b) ? begin(b.owner->resident, b.owner) : NULL;
	if (!run)
		return NULL;
	run->is_thread = true;
	how = uio_run_call(run, &level, (uintptr_t)b.fn, run->stack_high,
			   (const uint64_t[4]){(uintptr_t)b.arg});
	value = run->value ? run->value : level.rax;
	end(run, how);
	return how == UIO_RUN_RETURNED ? (void *)(uintptr_t)value : NULL;
}

int uio_libc_pthread_create(void *thread, const void *attr, void *(*fn)(void *), void *arg)
{
	struct uio_run *run = uio_api_enter();
	struct beginning *b = NULL;
	int rc = ENOMEM;

	if (run)
		b = uio_port_alloc(sizeof(*b));
	if (b) {
		*b = (struct beginning){run->owner, run->owner->serial, fn, arg};
		rc = kernel_pthread_create ? kernel_pthread_create(thread, attr, thread_main, b)
					   : ENOSYS;
		if (rc)
			uio_port_free(b);
	}
	uio_api_leave(run);
	return rc;
}

_Noreturn void uio_libc_pthread_exit(void *value)
{
	struct uio_run *run = uio_run_self();

	if (!run || !run->is_thread)
		uio_exit(0);
	run->value = (uintptr_t)value;
	uio_run_leave(run, UIO_RUN_RETURNED);
}

const void *const uio_callback_symbols[] = {uio_libc_pthread_create, uio_libc_pthread_exit, NULL};
