/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Waits for events that a signal ends: epoll_wait() and its kin, poll() and
 * select(), which all come to uk_sys_epoll_pwait2(). That function returns for
 * an event or because its time is over, nothing else; so whoever delivers a
 * signal adds a file to the set that is always ready, and here it is taken out
 * again, together with its event. A wait that nobody interrupts costs no more
 * than being noted.
 *
 * Built only with posix-poll and LIBUIO_SIGNALS.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <uk/file.h>
#include <uk/file/nops.h>
#include <uk/posix-fd.h>
#include <uk/posix-fdtab.h>
#include <uk/posix-poll.h>
#include <uk/syscall.h>

#include "thread.h"

/* A thread in a wait; lives on its stack. Only touched by threads that kernel code is not taken
 * away from, so there are no locks. */
struct wait {
	struct wait *next;
	const struct uk_thread *thread;
	const struct uk_file *set;
	int fd; /* of the ready file in the set, or -1 */
};

static struct wait *waits;
static bool pending; /* a signal found nobody waiting: the next wait is interrupted */

static void keep(const struct uk_file *f __unused, int what __unused)
{
}

static const char VOLUME[] = "uio_signal";
static uk_file_refcnt ready_refcnt = UK_FILE_REFCNT_INITIALIZER(ready_refcnt);
static struct uk_file_state ready_state =
	UK_FILE_STATE_EVENTS_INITIALIZER(ready_state, UKFD_POLLIN);
static const struct uk_file ready = {
	.vol = VOLUME,
	.refcnt = &ready_refcnt,
	.state = &ready_state,
	.ops = &uk_file_nops,
	._release = keep,
};

int __real_uk_sys_epoll_pwait2(const struct uk_file *set, struct epoll_event *events, int n,
			       const struct timespec *timeout, const sigset_t *mask, size_t size);
int __wrap_uk_sys_epoll_pwait2(const struct uk_file *set, struct epoll_event *events, int n,
			       const struct timespec *timeout, const sigset_t *mask, size_t size);

/** As on Linux, it is the oldest of the threads that could take the signal. */
static struct wait *oldest_wait(void)
{
	struct wait *found = NULL, *w;

	for (w = waits; w; w = w->next) {
		if (w->fd < 0 &&
		    (!found || uio_thread_number(w->thread) < uio_thread_number(found->thread)))
			found = w;
	}
	return found;
}

void uio_wait_interrupt(void)
{
	struct wait *w = oldest_wait();
	struct epoll_event event = {.events = EPOLLIN};

	if (!w) {
		pending = uio_thread_of(uk_thread_current()) != NULL;
		return;
	}
	w->fd = uk_fdtab_open(&ready, UKFD_O_NOSEEK);
	if (w->fd < 0)
		return;
	event.data.ptr = w;
	if (uk_sys_epoll_ctl(w->set, EPOLL_CTL_ADD, w->fd, &event) < 0) {
		uk_sys_close(w->fd);
		w->fd = -1;
	}
}

/** Take the ready file out of the set and out of what the wait has found. */
static int end_interrupt(struct wait *w, struct epoll_event *events, int found)
{
	int i;

	(void)uk_sys_epoll_ctl(w->set, EPOLL_CTL_DEL, w->fd, NULL);
	(void)uk_sys_close(w->fd);
	for (i = 0; i < found; i++) {
		if (events[i].data.ptr == w) {
			memmove(&events[i], &events[i + 1],
				(size_t)(found - i - 1) * sizeof(*events));
			return found > 1 ? found - 1 : -EINTR;
		}
	}
	return found;
}

int __wrap_uk_sys_epoll_pwait2(const struct uk_file *set, struct epoll_event *events, int n,
			       const struct timespec *timeout, const sigset_t *mask, size_t size)
{
	static const struct timespec zero;
	struct wait self = {.next = waits, .thread = uk_thread_current(), .set = set, .fd = -1};
	struct wait **link = &waits;
	int found;

	if (!events || (timeout && timeout->tv_sec <= 0 && timeout->tv_nsec <= 0))
		return __real_uk_sys_epoll_pwait2(set, events, n, timeout, mask, size);
	if (pending) {
		pending = false;
		found = __real_uk_sys_epoll_pwait2(set, events, n, &zero, mask, size);
		return found ? found : -EINTR;
	}

	waits = &self;
	found = __real_uk_sys_epoll_pwait2(set, events, n, timeout, mask, size);
	while (*link != &self)
		link = &(*link)->next;
	*link = self.next;
	return self.fd < 0 ? found : end_interrupt(&self, events, found);
}

/* The system calls of epoll call within their own file, where no linker can lead them elsewhere. */

long __wrap_uk_syscall_r_epoll_pwait2(long fd, long events, long n, long timeout, long mask,
				      long size);
long __wrap_uk_syscall_r_epoll_pwait2(long fd, long events, long n, long timeout, long mask,
				      long size)
{
	struct uk_ofile *of = uk_fdtab_get((int)fd);
	int rc;

	if (!of)
		return -EBADF;
	rc = __wrap_uk_sys_epoll_pwait2(of->file, (struct epoll_event *)events, (int)n,
					(const struct timespec *)timeout, (const sigset_t *)mask,
					(size_t)size);
	uk_fdtab_ret(of);
	return rc;
}

long __wrap_uk_syscall_r_epoll_pwait(long fd, long events, long n, long ms, long mask, long size);
long __wrap_uk_syscall_r_epoll_pwait(long fd, long events, long n, long ms, long mask, long size)
{
	struct timespec timeout = {.tv_sec = (int)ms / 1000,
				   .tv_nsec = (long)((int)ms % 1000) * 1000000};

	return __wrap_uk_syscall_r_epoll_pwait2(fd, events, n, (int)ms < 0 ? 0 : (long)&timeout,
						mask, size);
}

long __wrap_uk_syscall_r_epoll_wait(long fd, long events, long n, long ms);
long __wrap_uk_syscall_r_epoll_wait(long fd, long events, long n, long ms)
{
	return __wrap_uk_syscall_r_epoll_pwait(fd, events, n, ms, 0, 0);
}
