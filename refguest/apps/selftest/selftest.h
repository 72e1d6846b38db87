/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tests of the reference guest from the inside: the port's calls as libuio's core would make them,
 * and system calls as an application makes them. Each prints "ok NAME" or says what was wrong.
 */
#ifndef SELFTEST_H
#define SELFTEST_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <uio/port.h>

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			printf("selftest: %s:%d: not so: %s\n", __FILE__, __LINE__, #condition);   \
			return false;                                                              \
		}                                                                                  \
	} while (0)

typedef bool test_fn(void);

/* arena.c */
test_fn test_arena, test_arena_exhaustion, test_heap, test_image;
/* threads.c */
test_fn test_events, test_thread_list, test_pthreads, test_divert_waiting;
/* traps.c */
test_fn test_traps;
/* preempt.c */
test_fn test_preempt_application, test_preempt_overlay, test_divert_running, test_pkru_per_thread;
/* signals.c */
test_fn test_signal_interrupts_sleep, test_signal_preempts, test_signal_mask, test_signal_context;
/* files.c */
test_fn test_files, test_port_files, test_descriptors;
/* storm.c */
test_fn test_storm;
/* system.c */
test_fn test_clock, test_memory_calls, test_malloc;
/* console.c */
test_fn test_console;

/** Map a page of the arena that holds this code, readable and executable. */
void *map_code(const void *code, size_t len);
void unmap_code(void *code);
/** Run fn(arg) in a thread of libuio and wait until it is over. */
bool run_ours(void (*fn)(void *), void *arg);

#endif
