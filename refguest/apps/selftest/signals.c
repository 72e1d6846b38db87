/* SPDX-License-Identifier: BSD-3-Clause */
/* Signals that libuio delivers to the application. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

#include "selftest.h"

static volatile sig_atomic_t got, code;
static volatile bool handled, interrupted, finished;

static void handler(int sig)
{
	got = sig;
	handled = true;
}

static void send_after_ms(void *arg)
{
	uio_port_sleep(5000000);
	uio_port_signal((int)(intptr_t)arg);
}

/** Until it has come: the first may come before the sleep that it shall interrupt. */
static void send_often(void *arg)
{
	while (!interrupted) {
		uio_port_sleep(5000000);
		uio_port_signal((int)(intptr_t)arg);
	}
	finished = true;
}

static bool send(int sig)
{
	return uio_port_thread_create(NULL, "signal", send_after_ms, (void *)(intptr_t)sig,
				      32768) == 0;
}

bool test_signal_interrupts_sleep(void)
{
	struct sigaction action = {.sa_handler = handler};
	struct timespec request = {100, 0}, left;

	sigaction(SIGUSR1, &action, NULL);
	CHECK(uio_port_signal(0) == 0);
	CHECK(uio_port_signal(65) == -EINVAL && uio_port_signal(-1) == -EINVAL);
	got = 0;
	CHECK(uio_port_thread_create(NULL, "signals", send_often, (void *)SIGUSR1, 32768) == 0);
	errno = 0;
	CHECK(nanosleep(&request, &left) == -1 && errno == EINTR);
	interrupted = true;
	CHECK(got == SIGUSR1 && left.tv_sec < 100);
	while (!finished)
		uio_port_sleep(1000000);
	/* What nobody handles and is ignored by default does not disturb. */
	CHECK(send(SIGCHLD));
	request = (struct timespec){0, 20000000};
	CHECK(nanosleep(&request, &left) == 0);
	return true;
}

bool test_signal_preempts(void)
{
	struct sigaction action = {.sa_handler = handler};

	sigaction(SIGUSR2, &action, NULL);
	handled = false;
	CHECK(send(SIGUSR2));
	/* Never enters the kernel. */
	while (!handled)
		;
	CHECK(got == SIGUSR2);
	return true;
}

bool test_signal_mask(void)
{
	struct sigaction action = {.sa_handler = handler};
	sigset_t set, old, pending;
	struct timespec request = {0, 20000000};

	sigaction(SIGUSR1, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0);
	got = 0;
	CHECK(send(SIGUSR1));
	CHECK(nanosleep(&request, NULL) == 0);
	CHECK(got == 0);
	CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1));
	CHECK(sigsuspend(&old) == -1 && errno == EINTR && got == SIGUSR1);
	got = 0;
	CHECK(raise(SIGUSR1) == 0 && got == 0);
	CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
	CHECK(got == SIGUSR1);
	return true;
}

static void with_context(int sig, siginfo_t *info, void *arg)
{
	ucontext_t *context = arg;
	double half = 0.5;

	/* Spoil what the interrupted code has in vector registers. */
	__asm__ volatile("pxor %%xmm7, %%xmm7" : : : "xmm7");
	code = info->si_signo == sig && context->uc_mcontext.gregs[REG_RSP] != 0 && half * 2 == 1.0;
	handled = true;
}

bool test_signal_context(void)
{
	struct sigaction action = {.sa_sigaction = with_context,
				   .sa_flags = SA_SIGINFO | SA_ONSTACK};
	static char stack[32768];
	stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
	uint64_t value = 0x123456789abcdef, after;

	CHECK(sigaltstack(&alternate, NULL) == 0);
	sigaction(SIGUSR2, &action, NULL);
	handled = false;
	code = 0;
	CHECK(send(SIGUSR2));
	__asm__ volatile("movq %[value], %%xmm7\n"
			 "1: cmpb $0, %[handled]\n"
			 "je 1b\n"
			 "movq %%xmm7, %[after]"
			 : [after] "=r"(after)
			 : [value] "r"(value), [handled] "m"(handled)
			 : "xmm7", "cc", "memory");
	CHECK(after == value && code);
	return true;
}
