/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The application of the hosted guest, as the reference guest's `count`: it
 * counts once a second and says so, and reloads on SIGHUP.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hosted.h"

void set_count(long value);
long get_count(void);

volatile long count;

/* For overlays: functions of the application that they call. */
__attribute__((used)) void set_count(long value)
{
	count = value;
}

__attribute__((used)) long get_count(void)
{
	return count;
}

static void reload(int sig)
{
	static const char text[] = "count: reloaded\n";

	(void)sig;
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		return;
}

void hosted_application_init(void)
{
	struct sigaction action = {.sa_handler = reload};

	sigaction(SIGHUP, &action, NULL);
}

void hosted_application(void)
{
	for (;;) {
		printf("count: %ld\n", count);
		fflush(stdout);
		struct timespec second = {.tv_sec = 1};
		while (nanosleep(&second, &second) < 0)
			; /* a signal came in between */
		count++;
	}
}
