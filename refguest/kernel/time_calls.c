/* SPDX-License-Identifier: BSD-3-Clause */
/* Clocks and sleeping. */
#include <errno.h>
#include <time.h>

#include "lapic.h"
#include "sched.h"
#include "syscall.h"

#define NS_PER_S 1000000000ull

struct kernel_timespec {
	int64_t s, ns;
};

static int64_t clock_read(uint64_t id)
{
	switch (id) {
	case CLOCK_REALTIME:
	case CLOCK_REALTIME_COARSE:
		return (int64_t)(clock_wall_base + clock_ns());
	case CLOCK_MONOTONIC:
	case CLOCK_MONOTONIC_RAW:
	case CLOCK_MONOTONIC_COARSE:
	case CLOCK_BOOTTIME:
		return (int64_t)clock_ns();
	case CLOCK_PROCESS_CPUTIME_ID:
	case CLOCK_THREAD_CPUTIME_ID:
		return (int64_t)thread_cpu_ns(current);
	default:
		return -1;
	}
}

long sys_clock_gettime(const uint64_t *a)
{
	struct kernel_timespec *out = (void *)a[1];
	int64_t ns = clock_read(a[0]);

	if (ns < 0)
		return -EINVAL;
	out->s = ns / (int64_t)NS_PER_S;
	out->ns = ns % (int64_t)NS_PER_S;
	return 0;
}

long sys_clock_getres(const uint64_t *a)
{
	struct kernel_timespec *out = (void *)a[1];

	if (clock_read(a[0]) < 0)
		return -EINVAL;
	if (out)
		*out = (struct kernel_timespec){0, 1};
	return 0;
}

long sys_gettimeofday(const uint64_t *a)
{
	struct kernel_timespec *out = (void *)a[0];
	uint64_t ns = clock_wall_base + clock_ns();

	if (out) {
		out->s = (int64_t)(ns / NS_PER_S);
		out->ns = (int64_t)(ns % NS_PER_S / 1000); /* a struct timeval: microseconds */
	}
	return 0;
}

long sys_time(const uint64_t *a)
{
	long seconds = (long)((clock_wall_base + clock_ns()) / NS_PER_S);

	if (a[0])
		*(long *)a[0] = seconds;
	return seconds;
}

/** Sleep until clock_ns() reaches deadline; what is left goes to *left if a signal comes first. */
static long sleep_until(uint64_t deadline, struct kernel_timespec *left)
{
	uint64_t flags = irq_save();
	int status = thread_wait(NULL, deadline, true);
	uint64_t now = clock_ns();

	irq_restore(flags);
	if (status != -EINTR)
		return 0;
	if (left) {
		uint64_t ns = deadline > now ? deadline - now : 0;

		*left = (struct kernel_timespec){(int64_t)(ns / NS_PER_S),
						 (int64_t)(ns % NS_PER_S)};
	}
	return -EINTR;
}

static long sleep_for(const struct kernel_timespec *request, uint64_t clock, bool absolute,
		      struct kernel_timespec *left)
{
	uint64_t ns, base = 0;

	if (request->s < 0 || request->ns < 0 || request->ns >= (int64_t)NS_PER_S)
		return -EINVAL;
	ns = request->s > 0x7fffffff ? NEVER / 2
				     : (uint64_t)request->s * NS_PER_S + (uint64_t)request->ns;
	if (!absolute)
		base = clock_ns();
	else if (clock == CLOCK_REALTIME)
		base = -clock_wall_base;
	if (absolute && (int64_t)(base + ns) <= 0)
		return 0;
	return sleep_until(base + ns, absolute ? NULL : left);
}

long sys_nanosleep(const uint64_t *a)
{
	return sleep_for((const void *)a[0], CLOCK_MONOTONIC, false, (void *)a[1]);
}

long sys_clock_nanosleep(const uint64_t *a)
{
	if (clock_read(a[0]) < 0)
		return -EINVAL;
	return sleep_for((const void *)a[2], a[0], a[1] & TIMER_ABSTIME, (void *)a[3]);
}
