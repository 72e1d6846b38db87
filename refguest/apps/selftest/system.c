/* SPDX-License-Identifier: BSD-3-Clause */
/* Clocks, memory and odds and ends of the system-call interface. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "selftest.h"

bool test_clock(void)
{
	struct timespec start, end, pause = {0, 30000000};
	int64_t ns;

	CHECK(time(NULL) > 1600000000);
	CHECK(clock_gettime(CLOCK_MONOTONIC, &start) == 0);
	CHECK(nanosleep(&pause, NULL) == 0);
	CHECK(clock_gettime(CLOCK_MONOTONIC, &end) == 0);
	ns = (end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec;
	CHECK(ns >= 30000000);
	CHECK(clock_gettime(99, &end) == -1 && errno == EINVAL);
	pause.tv_nsec = 1000000000;
	CHECK(nanosleep(&pause, NULL) == -1 && errno == EINVAL);
	/* In the past: at once. */
	CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &start, NULL) == 0);
	return true;
}

bool test_memory_calls(void)
{
	size_t total, before, after;
	struct utsname name;
	char *p, bytes[16] = "";
	char *q;

	uio_port_meminfo(&total, &before);
	p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED && p[0] == 0 && p[(1 << 20) - 1] == 0);
	memset(p, 1, 1 << 20);
	CHECK(mprotect(p, 8192, PROT_NONE) == 0);
	CHECK(mprotect(p, 8192, PROT_READ | PROT_WRITE) == 0 && p[0] == 1);
	CHECK(mprotect(p, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == -1 && errno == EACCES);
	CHECK(munmap(p + (1 << 19), 1 << 19) == 0);
	q = mremap(p, 1 << 19, 1 << 20, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED && q[(1 << 19) - 1] == 1 && q[1 << 19] == 0);
	CHECK(munmap(q, 1 << 20) == 0);
	CHECK(mmap(NULL, 1ul << 40, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	CHECK(errno == ENOMEM);
	uio_port_meminfo(&total, &after);
	/* A large page that was split stays so: its table is the difference. */
	CHECK(before - after <= 4 * UIO_PAGE_SIZE);

	CHECK(uname(&name) == 0 && !strcmp(name.machine, "x86_64"));
	CHECK(getrandom(bytes, sizeof(bytes), 0) == sizeof(bytes));
	CHECK(syscall(SYS_socket, 2, 1, 0) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_gettid) == 1 && getpid() == 1);
	return true;
}

bool test_malloc(void)
{
	static void *pieces[500];
	unsigned int seed = 1;

	for (int round = 0; round < 20000; round++) {
		size_t i = (size_t)rand_r(&seed) % 500, size = (size_t)rand_r(&seed) % 9000;

		if (rand_r(&seed) % 50 == 0)
			size *= 40;
		if (pieces[i])
			CHECK(*(size_t *)pieces[i] == i);
		pieces[i] = realloc(pieces[i], size + sizeof(size_t));
		CHECK(pieces[i]);
		*(size_t *)pieces[i] = i;
	}
	for (size_t i = 0; i < 500; i++)
		free(pieces[i]);
	return true;
}
