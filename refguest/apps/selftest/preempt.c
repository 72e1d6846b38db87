/* SPDX-License-Identifier: BSD-3-Clause */
/* Preemption: neither the application nor an overlay keeps the CPU from the other. */
#include <cpuid.h>
#include <setjmp.h>
#include <string.h>

#include "selftest.h"

#define STACK 32768

static volatile bool flag, stop;
static volatile int beats;

/** A loop that never enters the kernel, in registers an interrupt must not change. */
__attribute__((noinline)) static bool spin_until(volatile bool *condition)
{
	uint64_t pattern[4] = {0x1111111111111111, 0x2222222222222222, 0x3333333333333333,
			       0x4444444444444444};
	uint64_t low[2], high[2];
	uint64_t r8, r15;

	/* No call in between: the red zone is in use as well. */
	__asm__ volatile("movups (%[p]), %%xmm3\n"
			 "movups 16(%[p]), %%xmm15\n"
			 "movq $0x5a5a, %%r8\n"
			 "movq $0xa5a5, %%r15\n"
			 "movq $0x77, -120(%%rsp)\n"
			 "1: cmpb $0, %[c]\n"
			 "je 1b\n"
			 "movups %%xmm3, %[low]\n"
			 "movups %%xmm15, %[high]\n"
			 "movq %%r8, %[r8]\n"
			 "movq %%r15, %[r15]\n"
			 "xorq $0x77, -120(%%rsp)\n"
			 "xorq -120(%%rsp), %[r15]\n"
			 : [low] "=m"(low), [high] "=m"(high), [r8] "=&r"(r8), [r15] "=&r"(r15)
			 : [p] "r"(pattern), [c] "m"(*condition)
			 : "xmm3", "xmm15", "r8", "r15", "cc", "memory");
	return !memcmp(low, pattern, 16) && !memcmp(high, pattern + 2, 16) && r8 == 0x5a5a &&
	       r15 == 0xa5a5;
}

static void beat(void *arg)
{
	(void)arg;
	for (beats = 0; beats < 50; beats++) {
		/* Whatever the interrupted code keeps in vector registers, we use them too. */
		__asm__ volatile("pxor %%xmm3, %%xmm3; pxor %%xmm15, %%xmm15"
				 :
				 :
				 : "xmm3", "xmm15");
		uio_port_sleep(1000000);
	}
	flag = true;
}

bool test_preempt_application(void)
{
	flag = false;
	CHECK(uio_port_thread_create(NULL, "beat", beat, NULL, STACK) == 0);
	CHECK(spin_until(&flag));
	CHECK(beats == 50);
	return true;
}

/* ---- an overlay that does not end ---- */

static jmp_buf out;
static volatile int end;
static volatile bool begun;
static struct uio_event over;

/* 1: cmpb $0, (%rdi); je 1b; ret */
static const char loop_code[] = "\x80\x3f\x00\x74\xfb\xc3";

static void overlay(void *code)
{
	end = setjmp(out);
	if (!end) {
		begun = true;
		((void (*)(volatile bool *))(uintptr_t)code)(&stop);
		end = -1;
	}
	uio_port_event_signal(&over);
}

static void unwind(void *arg)
{
	longjmp(out, (int)(intptr_t)arg);
}

bool test_preempt_overlay(void)
{
	void *code = map_code(loop_code, sizeof(loop_code));

	CHECK(code);
	stop = false;
	uio_port_event_init(&over);
	CHECK(uio_port_thread_create(NULL, "loop", overlay, code, STACK) == 0);
	/* We are the application: our sleeps end although the overlay loops. */
	for (int i = 0; i < 20; i++)
		uio_port_sleep(1000000);
	CHECK(end == 0);
	stop = true;
	CHECK(uio_port_event_wait(&over, UINT64_MAX) == 0);
	CHECK(end == -1);
	unmap_code(code);
	return true;
}

bool test_divert_running(void)
{
	void *code = map_code(loop_code, sizeof(loop_code));
	struct uio_thread *thread;

	CHECK(code);
	for (int round = 1; round <= 20; round++) {
		stop = begun = false;
		uio_port_event_init(&over);
		CHECK(uio_port_thread_create(&thread, "loop", overlay, code, STACK) == 0);
		while (!begun)
			uio_port_sleep(1000000);
		CHECK(uio_port_thread_divert(thread, unwind, (void *)(intptr_t)round) == 0);
		CHECK(uio_port_event_wait(&over, UINT64_MAX) == 0);
		CHECK(end == round);
	}
	unmap_code(code);
	return true;
}

/* ---- PKRU ---- */

static uint32_t get_pkru(void)
{
	uint32_t low, high;

	__asm__ volatile("rdpkru" : "=a"(low), "=d"(high) : "c"(0));
	return low;
}

static void set_pkru(uint32_t value)
{
	__asm__ volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory");
}

static volatile uint32_t theirs;

static void other(void *arg)
{
	(void)arg;
	uint64_t end = uio_port_ns() + 1000000;

	theirs = get_pkru();
	set_pkru(0x30);
	while (uio_port_ns() < end)
		;
	theirs |= get_pkru() ^ 0x30;
	set_pkru(0); /* who calls the kernel has all rights: gates see to that */
	uio_port_sleep(1000000);
	theirs |= get_pkru();
	flag = true;
}

bool test_pkru_per_thread(void)
{
	unsigned int a, b, c, d;
	uint32_t spun;

	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(c & 1u << 4))
		return true; /* OSPKE is off: no such CPU */
	flag = false;
	CHECK(uio_port_thread_create(NULL, "other", other, NULL, STACK) == 0);
	set_pkru(0xc0); /* not key 1, which is what all that is written here has */
	CHECK(spin_until(&flag));
	spun = get_pkru();
	set_pkru(0);
	CHECK(spun == 0xc0);
	CHECK(theirs == 0);
	return true;
}
