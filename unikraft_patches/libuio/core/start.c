/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uIO's context: one thread with one event. It sleeps until the host or a
 * command signals that, and with a deadline only while something has one.
 */
#include "context.h"

#include <errno.h>

#include "channel.h"
#include "exec.h"
#include "file.h"
#include "hostport.h"
#include "overlay.h"

#define CONTEXT_STACK (8u * 1024)

static struct uio_event context_event;
static struct uio_thread *context_thread;

void uio_context_wake(void)
{
	uio_port_event_signal(&context_event);
}

bool uio_context_self(void)
{
	return context_thread != NULL && uio_port_thread_self() == context_thread;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void context_main(void *arg)
{
	(void)arg;
	context_thread = uio_port_thread_self();
	for (;;) {
		uio_hostport_poll();
		uio_channel_poll();
		uio_ninep_poll();
		if (uio_mount_poll)
			uio_mount_poll();

		uint64_t now = uio_port_ns();
		uint64_t due = earlier(uio_console_poll(now), uio_exec_tick(now));

		if (uio_bpf_tick)
			due = earlier(due, uio_bpf_tick(now));

		now = uio_port_ns();
		if (due == UINT64_MAX) {
			if (uio_port_rest)
				uio_port_rest();
			uio_port_event_wait(&context_event, UINT64_MAX);
		} else if (due > now) {
			uio_port_event_wait(&context_event, due - now);
		} else {
			uio_port_yield();
		}
	}
}

/* What this build and this port have; domains add themselves. */
static void announce_features(void)
{
	struct uio_arena arena;

	uio_overlay_arena(&arena);
	if (arena.size != 0)
		uio_channel_feature(UIO_FEATURE_FAIL_STOP | UIO_FEATURE_WX);
	if (uio_builtins_bpf != NULL)
		uio_channel_feature(UIO_FEATURE_BPF);
	if (uio_push_refusal() != NULL)
		uio_channel_feature(UIO_FEATURE_SIGNATURE);
	if (uio_port_preempts != NULL && uio_port_preempts())
		uio_channel_feature(UIO_FEATURE_PREEMPT);
}

int uio_start(void)
{
	uio_port_event_init(&context_event);
	int err = uio_hostport_init(&context_event);
	if (err < 0) {
		if (err == -ENODEV)
			uio_log(4, "no virtio-console device with uIO's ports: the host cannot "
				   "reach us");
		else
			uio_log(3, "cannot drive the virtio-console device: error %d", -err);
		return err;
	}
	uio_fault_init();
	announce_features();

	struct uio_thread *t;
	err = uio_port_thread_create(&t, "uio", context_main, NULL, CONTEXT_STACK);
	if (err < 0)
		uio_log(3, "cannot start the uIO context: error %d", -err);
	else
		uio_log(6, "the uIO context is there; features 0x%llx",
			(unsigned long long)uio_channel_features());
	return err;
}
