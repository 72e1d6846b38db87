/* SPDX-License-Identifier: BSD-3-Clause */
/* The list of tests. Arguments name those to run; without, all but the ones that need a device. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "selftest.h"

static const struct {
	const char *name;
	test_fn *run;
	bool device;
} tests[] = {
	{"image", test_image, false},
	{"heap", test_heap, false},
	{"arena", test_arena, false},
	{"arena-exhaustion", test_arena_exhaustion, false},
	{"clock", test_clock, false},
	{"memory-calls", test_memory_calls, false},
	{"malloc", test_malloc, false},
	{"files", test_files, false},
	{"port-files", test_port_files, false},
	{"descriptors", test_descriptors, false},
	{"events", test_events, false},
	{"thread-list", test_thread_list, false},
	{"pthreads", test_pthreads, false},
	{"divert-waiting", test_divert_waiting, false},
	{"traps", test_traps, false},
	{"preempt-application", test_preempt_application, false},
	{"preempt-overlay", test_preempt_overlay, false},
	{"divert-running", test_divert_running, false},
	{"pkru-per-thread", test_pkru_per_thread, false},
	{"signal-interrupts-sleep", test_signal_interrupts_sleep, false},
	{"signal-preempts", test_signal_preempts, false},
	{"signal-mask", test_signal_mask, false},
	{"signal-context", test_signal_context, false},
	{"storm", test_storm, false},
	{"console", test_console, true},
};
#define TESTS (sizeof(tests) / sizeof(tests[0]))

static bool is_wanted(size_t i, int argc, char **argv)
{
	for (int arg = 1; arg < argc; arg++) {
		if (!strcmp(argv[arg], tests[i].name))
			return true;
	}
	return argc < 2 && !tests[i].device;
}

/** Keep pages of the arena mapped, for a look at the page tables from outside. */
static int hold(void)
{
	uintptr_t base;
	size_t size;

	uio_port_arena(&base, &size);
	if (uio_port_map(base, 100, UIO_PROT_READ | UIO_PROT_EXEC) < 0)
		return 1;
	printf("selftest: holding\n");
	return pause();
}

int main(int argc, char **argv)
{
	int failed = 0, run = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1 && !strcmp(argv[1], "crash"))
		__asm__ volatile("movl $1, 8");
	if (argc > 1 && !strcmp(argv[1], "exit"))
		return atoi(argv[2]);
	if (argc > 1 && !strcmp(argv[1], "hold"))
		return hold();
	if (argc > 1 && !strcmp(argv[1], "die"))
		raise(SIGTERM);
	for (size_t i = 0; i < TESTS; i++) {
		bool good;

		if (!is_wanted(i, argc, argv))
			continue;
		good = tests[i].run();
		printf("%s %s\n", good ? "ok" : "not ok", tests[i].name);
		failed += !good;
		run++;
	}
	printf("selftest: %d run, %d failed\n", run, failed);
	return failed ? 1 : 0;
}
