/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Builtin commands about the running guest: signals to the application,
 * threads, memory, symbols, the log, time.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "context.h"
#include "exec.h"
#include "overlay.h"

/* ---- help, echo, true, false ---- */

static void print_summary(const struct uio_builtin *b, void *arg)
{
	uio_exec_printf(arg, "  %-10.*s %s\n", (int)uio_builtin_name(b), b->usage,
			uio_builtin_summary(b));
}

static int run_help(struct uio_exec *x, int argc, char **argv)
{
	int status = 0;

	if (argc < 2) {
		uio_exec_printf(
			x,
			"Commands (help NAME tells more); any other name is an overlay of /bin:\n");
		uio_builtin_foreach(print_summary, x);
		uio_exec_printf(
			x,
			"Also: 'quotes', \"quotes\", \\, a ; b, a | b, > FILE, >> FILE, < FILE.\n"
			"Files are uIO-fs' (/bin, /host, /vm); guest:/PATH is the guest's own.\n");
		return 0;
	}
	for (int i = 1; i < argc; i++) {
		const struct uio_builtin *b = uio_builtin_find(argv[i]);
		if (b != NULL) {
			uio_exec_printf(x, "%s: %s\nusage: %s\n", argv[i], uio_builtin_summary(b),
					b->usage);
		} else {
			uio_exec_error(x, "help: %s: no builtin command\n", argv[i]);
			status = 1;
		}
	}
	return status;
}

static int run_echo(struct uio_exec *x, int argc, char **argv)
{
	int first = argc > 1 && strcmp(argv[1], "-n") == 0 ? 2 : 1;

	for (int i = first; i < argc; i++)
		uio_exec_printf(x, "%s%s", i > first ? " " : "", argv[i]);
	if (first == 1)
		uio_exec_printf(x, "\n");
	return 0;
}

static int run_true(struct uio_exec *x, int argc, char **argv)
{
	(void)x;
	(void)argc;
	(void)argv;
	return 0;
}

static int run_false(struct uio_exec *x, int argc, char **argv)
{
	return run_true(x, argc, argv) + 1;
}

/* ---- kill ---- */

static const char signals[][7] = {
	[1] = "HUP",     [2] = "INT",   [3] = "QUIT",   [4] = "ILL",   [5] = "TRAP",
	[6] = "ABRT",    [7] = "BUS",   [8] = "FPE",    [9] = "KILL",  [10] = "USR1",
	[11] = "SEGV",   [12] = "USR2", [13] = "PIPE",  [14] = "ALRM", [15] = "TERM",
	[16] = "STKFLT", [17] = "CHLD", [18] = "CONT",  [19] = "STOP", [20] = "TSTP",
	[21] = "TTIN",   [22] = "TTOU", [23] = "URG",   [24] = "XCPU", [25] = "XFSZ",
	[26] = "VTALRM", [27] = "PROF", [28] = "WINCH", [29] = "IO",   [30] = "PWR",
	[31] = "SYS",
};

#define SIGNALS ((int)(sizeof(signals) / sizeof(signals[0])))

static int upper(int c)
{
	return c >= 'a' && c <= 'z' ? c - 32 : c;
}

static bool same_name(const char *a, const char *b)
{
	while (*a != '\0' && upper(*a) == *b) {
		a++;
		b++;
	}
	return *a == '\0' && *b == '\0';
}

/* "HUP", "SIGHUP", "1" -> 1; -1: none. */
static int signal_number(const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (end != text && *end == '\0')
		return n >= 1 && n <= 64 ? (int)n : -1;
	if (upper(text[0]) == 'S' && upper(text[1]) == 'I' && upper(text[2]) == 'G')
		text += 3;
	for (int i = 1; i < SIGNALS; i++)
		if (same_name(text, signals[i]))
			return i;
	return -1;
}

static int list_signals(struct uio_exec *x, int argc, char **argv)
{
	if (argc < 3) {
		for (int i = 1; i < SIGNALS; i++)
			uio_exec_printf(x, "%2d %-7s%s", i, signals[i],
					i % 6 == 0 || i == SIGNALS - 1 ? "\n" : "");
		return 0;
	}
	for (int i = 2; i < argc; i++) {
		int n = signal_number(argv[i]);
		if (n < 0) {
			uio_exec_error(x, "kill: %s: no such signal\n", argv[i]);
			return 1;
		}
		if (argv[i][0] >= '0' && argv[i][0] <= '9' && n < SIGNALS)
			uio_exec_printf(x, "%s\n", signals[n]);
		else
			uio_exec_printf(x, "%d\n", n);
	}
	return 0;
}

struct target {
	unsigned int number;
	int signal;
};

static int cancel_target(struct uio_exec *x, void *arg)
{
	struct target *t = arg;

	if (x->number != t->number)
		return 0;
	uio_exec_cancel(x, t->signal);
	return 1;
}

static int run_kill(struct uio_exec *x, int argc, char **argv)
{
	int i = 1, sig = 15, status = 0;

	if (argc > 1 && strcmp(argv[1], "-l") == 0)
		return list_signals(x, argc, argv);
	if (i < argc && argv[i][0] == '-') {
		const char *name = argv[i] + 1;
		if (strcmp(name, "s") == 0 && i + 1 < argc)
			name = argv[++i];
		sig = signal_number(name);
		if (sig < 0) {
			uio_exec_error(x, "kill: %s: no such signal; `kill -l` lists them\n", name);
			return 2;
		}
		i++;
	}
	if (i == argc) {
		int err = uio_port_signal(sig);
		if (err < 0)
			uio_exec_error(x, "kill: signal %d: %s\n", sig, uio_error_text(err));
		return err < 0;
	}
	for (; i < argc; i++) {
		char *end;
		struct target t = {(unsigned int)strtoul(argv[i], &end, 10), sig};
		if (*end != '\0' || end == argv[i])
			return uio_builtin_usage(x);
		if (uio_exec_foreach(cancel_target, &t) == 0) {
			uio_exec_error(x, "kill: %s: no such command; `ps` lists them\n", argv[i]);
			status = 1;
		}
	}
	return status;
}

/* ---- ps and mem ---- */

static int print_thread(const struct uio_thread_info *t, void *arg)
{
	uio_exec_printf(arg, "%4u  %c  %10llu.%03llu %7lluK  %s%s\n", t->id, t->state,
			(unsigned long long)(t->cpu_ns / 1000000000u),
			(unsigned long long)(t->cpu_ns / 1000000u % 1000),
			(unsigned long long)(t->stack_size / 1024), t->name,
			t->ours ? " (uIO)" : "");
	return 0;
}

static int print_exec(struct uio_exec *x, void *arg)
{
	uint64_t ms = (uio_port_ns() - x->start_ns) / 1000000u;

	uio_exec_printf(arg, "%7u  %8llu.%03llu  %-8s ", x->number, (unsigned long long)(ms / 1000),
			(unsigned long long)(ms % 1000), x->id != 0 ? "channel" : "console");
	for (int i = 0; i < x->argc && i < 8; i++)
		uio_exec_printf(arg, " %.64s", x->argv[i]);
	uio_exec_printf(arg, "\n");
	return 0;
}

static int count_overlay(struct uio_overlay *o, void *arg)
{
	size_t *sums = arg;

	sums[0]++;
	sums[1] += o->size;
	return 0;
}

static int print_overlay(struct uio_overlay *o, void *arg)
{
	uio_exec_printf(arg, "%-20s %7u %7u %7lluK\n", o->name, o->running, o->uses,
			(unsigned long long)(o->size / 1024));
	return 0;
}

static int run_ps(struct uio_exec *x, int argc, char **argv)
{
	size_t sums[2] = {0, 0};

	(void)argc, (void)argv;
	uio_exec_printf(x, "%4s  S  %14s %8s  %s\n", "id", "cpu s", "stack", "thread");
	uio_port_thread_foreach(print_thread, x);
	uio_exec_printf(x, "\n%7s  %12s  %-8s  %s\n", "number", "time s", "from", "command");
	uio_exec_foreach(print_exec, x);
	uio_overlay_foreach(count_overlay, sums);
	if (sums[0] != 0) {
		uio_exec_printf(x, "\n%-20s %7s %7s %8s\n", "overlay", "running", "uses", "memory");
		uio_overlay_foreach(print_overlay, x);
	}
	return 0;
}

/* Stacks, without that of the command that asks. */
static int count_stack(const struct uio_thread_info *t, void *arg)
{
	size_t *sum = arg;

	if (t->ours && t->state != 'R')
		*sum += t->stack_size;
	return 0;
}

static int run_mem(struct uio_exec *x, int argc, char **argv)
{
	size_t total, available, sums[2] = {0, 0};
	struct uio_image image;

	(void)argc, (void)argv;
	uio_port_meminfo(&total, &available);
	uio_port_image(&image);
	uio_overlay_foreach(count_overlay, sums);
	uio_exec_printf(x, "heap      %9llu KiB, %llu bytes used, %llu KiB free\n",
			(unsigned long long)(total / 1024), (unsigned long long)(total - available),
			(unsigned long long)(available / 1024));
	uio_exec_printf(x, "image     %9llu KiB at 0x%llx\n",
			(unsigned long long)((image.end - image.base) / 1024),
			(unsigned long long)image.base);
	uio_exec_printf(x, "overlays  %9llu KiB, %llu resident\n",
			(unsigned long long)(sums[1] / 1024), (unsigned long long)sums[0]);
	if (uio_port_held != NULL) {
		size_t held = uio_port_held(), stacks = 0;
		size_t module = uio_module_size != NULL ? uio_module_size() : 0;
		uio_port_thread_foreach(count_stack, &stacks);
		uio_exec_printf(x,
				"libuio    %9llu KiB: blocks %llu bytes, stacks %llu bytes, "
				"eBPF %llu bytes\n",
				(unsigned long long)((held + stacks + module) / 1024),
				(unsigned long long)held, (unsigned long long)stacks,
				(unsigned long long)module);
	}
	return 0;
}

/* ---- sym, dmesg, uptime, sleep ---- */

static int run_sym(struct uio_exec *x, int argc, char **argv)
{
	static const uint8_t no_overlay[32];
	int status = 0;

	unsigned int n = (unsigned int)argc - 1;
	struct uio_symbol *found = uio_port_alloc(n * sizeof(*found));
	int err = found == NULL
			  ? -ENOMEM
			  : uio_channel_symq(no_overlay, (const char *const *)argv + 1, n, found);
	if (err < 0) {
		uio_exec_error(x, "sym: %s\n", uio_error_text(err));
		uio_port_free(found);
		return 1;
	}
	for (unsigned int i = 0; i < n; i++) {
		if (found[i].type == 0) {
			uio_exec_error(x, "sym: %s: no such symbol\n", argv[i + 1]);
			status = 1;
			continue;
		}
		uio_exec_printf(x, "0x%016llx %8u %-8s %s\n", (unsigned long long)found[i].address,
				(unsigned int)found[i].size,
				found[i].type == 2 ? "object" : "function", argv[i + 1]);
	}
	uio_port_free(found);
	return status;
}

static void print_log(void *arg, const char *text, size_t len)
{
	uio_exec_write(arg, 1, text, len);
}

static int run_dmesg(struct uio_exec *x, int argc, char **argv)
{
	(void)argc, (void)argv;
	uio_log_read(print_log, x);
	return 0;
}

static int run_uptime(struct uio_exec *x, int argc, char **argv)
{
	uint64_t ms = uio_port_ns() / 1000000u, s = ms / 1000;

	(void)argc, (void)argv;
	uio_exec_printf(x, "up %llu.%03llu s (%llu days, %02llu:%02llu:%02llu)\n",
			(unsigned long long)s, (unsigned long long)(ms % 1000),
			(unsigned long long)(s / 86400), (unsigned long long)(s / 3600 % 24),
			(unsigned long long)(s / 60 % 60), (unsigned long long)(s % 60));
	return 0;
}

/* "1", "0.25" -> nanoseconds. */
static bool parse_seconds(const char *text, uint64_t *ns)
{
	uint64_t value = 0, unit = 1000000000u;
	const char *c = text;

	for (; *c >= '0' && *c <= '9'; c++) {
		value = value * 10 + (uint64_t)(*c - '0');
		if (value > 1000000000u)
			return false;
	}
	*ns = value * unit;
	if (*c == '.')
		for (c++; *c >= '0' && *c <= '9'; c++) {
			unit /= 10;
			*ns += (uint64_t)(*c - '0') * unit;
		}
	return *c == '\0' && c != text;
}

static int run_sleep(struct uio_exec *x, int argc, char **argv)
{
	uint64_t ns;

	(void)argc;
	if (!parse_seconds(argv[1], &ns))
		return uio_builtin_usage(x);
	uint64_t end = uio_port_ns() + ns;
	for (uint64_t now; !uio_exec_stopping(x) && (now = uio_port_ns()) < end;)
		uio_port_event_wait(&x->wake, end - now);
	return 0;
}

const struct uio_builtin uio_builtins_system[] = {
	{"help [NAME...]\0list commands, or tell about one", run_help, 0, UIO_BUILTIN_ANY},
	{"echo [-n] [TEXT...]\0print its arguments", run_echo, 0, UIO_BUILTIN_ANY},
	{"kill [-SIGNAL] [COMMAND...] | kill -l [SIGNAL...]\0send a signal to the application, or "
	 "end a command",
	 run_kill, 0, UIO_BUILTIN_ANY},
	{"ps\0show threads, commands and overlays", run_ps, 0, 0},
	{"mem\0show memory", run_mem, 0, 0},
	{"sym NAME...\0look up symbols of the kernel, by the host", run_sym, 1, UIO_BUILTIN_ANY},
	{"dmesg\0print libuio's log", run_dmesg, 0, 0},
	{"uptime\0show how long the guest runs", run_uptime, 0, 0},
	{"sleep SECONDS\0wait", run_sleep, 1, 1},
	{"true\0succeed", run_true, 0, UIO_BUILTIN_ANY},
	{"false\0fail", run_false, 0, UIO_BUILTIN_ANY},
	{NULL, NULL, 0, 0},
};
