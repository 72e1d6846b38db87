/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Signals to the application. Unikraft delivers none: with uksignal it has
 * the calls, which do nothing, without it not even those. Here is the table
 * of handlers behind signal(), sigaction() and kill(), and the delivery.
 *
 * A handler runs in the thread that sends the signal. The application is not
 * running then: its threads have blocked, yielded or been preempted in their
 * own code, which are the places where a signal might have found them. Of the
 * application's blocked calls, only waits for events are interrupted (wait.c).
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <uk/plat/bootstrap.h>
#include <uk/syscall.h>

#include "unikraft.h"

#if CONFIG_LIBUIO_SIGNALS

#define SIGNALS        64
#define INFO_SIZE      128 /* of Linux's siginfo_t, which begins with the signal's number */
#define FLAG_SIGINFO   0x00000004ul
#define FLAG_RESETHAND 0x80000000ul

/* As rt_sigaction(2) has it on x86-64. */
struct kernel_sigaction {
	union {
		void (*handler)(int sig);
		void (*action)(int sig, void *info, void *context);
	};
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

static struct kernel_sigaction actions[SIGNALS + 1];

static int set_action(int sig, const struct kernel_sigaction *act, struct kernel_sigaction *old)
{
	if (sig < 1 || sig > SIGNALS)
		return -EINVAL;
	if (old)
		*old = actions[sig];
	if (act) {
		if (sig == SIGKILL || sig == SIGSTOP)
			return -EINVAL;
		actions[sig] = *act;
	}
	return 0;
}

/** What happens to a signal for which there is no handler. */
static int default_action(int sig)
{
	switch (sig) {
	case SIGINT:
	case SIGQUIT:
	case SIGABRT:
	case SIGKILL:
	case SIGTERM:
		ukplat_terminate(UKPLAT_HALT);
	case SIGCHLD:
	case SIGCONT:
	case SIGURG:
	case SIGWINCH:
		return 0;
	default:
		/* Linux would end the process. A machine is not ended by a reload it does not know.
		 */
		return -ESRCH;
	}
}

int uio_port_signal(int sig)
{
	uint64_t info[INFO_SIZE / sizeof(uint64_t)] = {0};
	struct kernel_sigaction act;

	if (sig < 1 || sig > SIGNALS)
		return -EINVAL;
	act = actions[sig];
	if (act.handler == SIG_IGN)
		return 0;
	if (act.handler == SIG_DFL)
		return default_action(sig);
	if (act.flags & FLAG_RESETHAND)
		actions[sig].handler = SIG_DFL;
	if (act.flags & FLAG_SIGINFO) {
		info[0] = (uint64_t)sig;
		act.action(sig, info, NULL);
	} else {
		act.handler(sig);
	}
#if CONFIG_LIBPOSIX_POLL
	uio_wait_interrupt();
#endif
	return 0;
}

/* The system calls, as a C library on top of the system call shim reaches them. With uksignal they
 * exist and are wrapped by the linker. */
static long sys_rt_sigaction(long sig, long act, long old, long set_size)
{
	if (set_size != sizeof(uint64_t))
		return -EINVAL;
	return set_action((int)sig, (const struct kernel_sigaction *)act,
			  (struct kernel_sigaction *)old);
}

static long sys_kill(long pid __unused, long sig)
{
	return sig == 0 ? 0 : uio_port_signal((int)sig);
}

#if CONFIG_LIBUKSIGNAL

long __wrap_uk_syscall_r_rt_sigaction(long sig, long act, long old, long set_size);
long __wrap_uk_syscall_r_rt_sigaction(long sig, long act, long old, long set_size)
{
	return sys_rt_sigaction(sig, act, old, set_size);
}

long __wrap_uk_syscall_r_kill(long pid, long sig);
long __wrap_uk_syscall_r_kill(long pid, long sig)
{
	return sys_kill(pid, sig);
}

long __wrap_uk_syscall_r_tkill(long tid, long sig);
long __wrap_uk_syscall_r_tkill(long tid, long sig)
{
	return sys_kill(tid, sig);
}

#else /* !CONFIG_LIBUKSIGNAL */

UK_LLSYSCALL_R_DEFINE(int, rt_sigaction, int, sig, const struct kernel_sigaction *, act,
		      struct kernel_sigaction *, old, size_t, set_size)
{
	return (int)sys_rt_sigaction(sig, (long)act, (long)old, (long)set_size);
}

UK_LLSYSCALL_R_DEFINE(int, kill, int, pid, int, sig)
{
	return (int)sys_kill(pid, sig);
}

UK_LLSYSCALL_R_DEFINE(int, tkill, int, tid, int, sig)
{
	return (int)sys_kill(tid, sig);
}

#endif

#if CONFIG_LIBNOLIBC

/* nolibc declares these, and nobody else defines them. */
#if CONFIG_LIBUKSIGNAL
#define LIBC(name) __wrap_##name
#else
#define LIBC(name) name
#endif

static int result(int rc)
{
	if (rc < 0) {
		errno = -rc;
		return -1;
	}
	return rc;
}

int LIBC(sigaction)(int sig, const struct sigaction *act, struct sigaction *old);
int LIBC(sigaction)(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct kernel_sigaction k = {0}, before;
	int rc;

	if (act) {
		k.handler = act->sa_handler;
		k.flags = (unsigned int)act->sa_flags;
	}
	rc = set_action(sig, act ? &k : NULL, &before);
	if (rc == 0 && old) {
		memset(old, 0, sizeof(*old));
		old->sa_handler = before.handler;
		old->sa_flags = (int)before.flags;
	}
	return result(rc);
}

sighandler_t LIBC(signal)(int sig, sighandler_t handler);
sighandler_t LIBC(signal)(int sig, sighandler_t handler)
{
	struct kernel_sigaction k = {.handler = handler}, before;
	int rc = set_action(sig, &k, &before);

	return result(rc) < 0 ? SIG_ERR : before.handler;
}

int LIBC(kill)(pid_t pid, int sig);
int LIBC(kill)(pid_t pid, int sig)
{
	return result((int)sys_kill(pid, sig));
}

int LIBC(raise)(int sig);
int LIBC(raise)(int sig)
{
	return result((int)sys_kill(0, sig));
}

#endif /* CONFIG_LIBNOLIBC */

#else /* !CONFIG_LIBUIO_SIGNALS */

int uio_port_signal(int sig __unused)
{
	return -ENOSYS;
}

#endif
