/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads of the guest with the CPU time they took since the last look, and
 * what the heap has left. On a terminal it redraws until Ctrl-C.
 */
// uio: name = "top"
// uio: version = "1.0"
// uio: description = "threads, CPU time and memory of the guest"
// uio: usage = "[-n TIMES] [-d SECONDS]"
#include "box.h"

static const char text[] =
	"usage: top [-n TIMES] [-d SECONDS]\n"
	"Threads with the CPU time they took since the last look (at first: since boot), and "
	"memory.\n"
	"  -n TIMES    so many looks; without it until Ctrl-C on a terminal, else one\n"
	"  -d SECONDS  between looks (2)\n"
	"R runs, r would like to, S waits.\n"
	"Status: 0, 2 wrong usage.\n";

#define THREADS_MAX 256

struct seen {
	unsigned int id;
	uint64_t cpu_ns;
};

struct look {
	struct seen before[THREADS_MAX], now[THREADS_MAX];
	unsigned int nbefore, nnow;
	uint64_t elapsed_ns; /* since the last look; 0 at the first */
};

static uint64_t cpu_before(const struct look *look, unsigned int id)
{
	for (unsigned int i = 0; i < look->nbefore; i++) {
		if (look->before[i].id == id)
			return look->before[i].cpu_ns;
	}
	return 0;
}

static int print_thread(const struct uio_thread_entry *t, void *arg)
{
	struct look *look = arg;
	uint64_t before = cpu_before(look, t->id);
	uint64_t took = t->cpu_ns > before ? t->cpu_ns - before : 0;
	/* Tenths of a per cent: integers alone, for floating point is the application's. */
	uint64_t share = look->elapsed_ns ? took * 1000 / look->elapsed_ns : 0;

	if (look->nnow < THREADS_MAX)
		look->now[look->nnow++] = (struct seen){t->id, t->cpu_ns};
	printf("%5u %c %4" PRIu64 ".%" PRIu64 " %7" PRIu64 ".%03" PRIu64 " %6zuK  %s%s\n", t->id,
	       t->state, share / 10, share % 10, t->cpu_ns / NS, t->cpu_ns % NS / 1000000,
	       t->stack_size / 1024, t->name ? t->name : "?", t->ours ? " (uIO)" : "");
	return 0;
}

/** The number after an option, at least 1; 0 if it is none. */
static long number(const char *text)
{
	char *end;
	long value = text ? strtol(text, &end, 10) : 0;

	return text && *text && !*end && value > 0 && value < 1000000 ? value : 0;
}

int main(int argc, char **argv)
{
	static struct look look;
	bool terminal = uio_terminal(NULL, NULL);
	long times = terminal ? 0 : 1, delay = 2; /* 0: until Ctrl-C */
	uint64_t last = 0;

	if (box_help(argc, argv, text))
		return 0;
	for (int i = 1; i < argc; i += 2) {
		long value = number(i + 1 < argc ? argv[i + 1] : NULL);

		if (!value)
			return box_usage(text);
		if (!strcmp(argv[i], "-n"))
			times = value;
		else if (!strcmp(argv[i], "-d"))
			delay = value;
		else
			return box_usage(text);
	}
	memset(&look, 0, sizeof(look)); /* globals outlive a command */
	for (long round = 0; !times || round < times; round++) {
		uint64_t now;
		size_t total, left;

		if (round && (uio_sleep_ns((uint64_t)delay * NS) || uio_interrupted()))
			break;
		now = uio_now_ns();
		look.elapsed_ns = last ? now - last : now;
		last = now;
		uio_meminfo(&total, &left);
		if (terminal)
			printf("\033[H\033[J");
		printf("up %" PRIu64 ".%01" PRIu64 " s, heap %zu KiB, %zu KiB free\n", now / NS,
		       now % NS / 100000000, total / 1024, left / 1024);
		printf("   ID S  CPU%%      TIME   STACK  NAME\n");
		look.nnow = 0;
		uio_threads(print_thread, &look);
		memcpy(look.before, look.now, sizeof(look.now));
		look.nbefore = look.nnow;
		uio_flush();
	}
	return 0;
}
