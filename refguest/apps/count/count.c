/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The demonstration's application: counts once a second by the step in /etc/count.conf and reads
 * that file again on SIGHUP. It knows nothing of uIO; overlays may call set_count() or look at the
 * variables.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CONFIG "/etc/count.conf"

long count;
long step = 1;
static volatile sig_atomic_t reload;

void set_count(long value);

void set_count(long value)
{
	count = value;
}

static void on_hangup(int sig)
{
	(void)sig;
	reload = 1;
}

static void read_config(void)
{
	FILE *file = fopen(CONFIG, "r");
	char line[128];

	if (!file) {
		printf("count: %s: %s\n", CONFIG, strerror(errno));
		return;
	}
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, "step=", 5))
			step = strtol(line + 5, NULL, 10);
	}
	fclose(file);
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_hangup, .sa_flags = SA_RESTART};
	struct timespec next;
	long limit = argc > 1 ? strtol(argv[1], NULL, 10) : 0; /* 0: for ever */

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGHUP, &action, NULL);
	read_config();
	printf("count: started, step=%ld\n", step);
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (long round = 0; !limit || round < limit; round++) {
		printf("count: %ld\n", count);
		count += step;
		next.tv_sec++;
		do {
			if (reload) {
				reload = 0;
				read_config();
				printf("count: reloaded, step=%ld\n", step);
			}
		} while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR);
	}
	return 0;
}
