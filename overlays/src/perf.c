/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the processor did in a time: cycles of the time stamp counter, how much of it was work,
 * switches between threads, interrupts; and instructions, if a counter for them is visible to the
 * guest and runs. It programs no counter: that takes privileged registers.
 */
// uio: name = "perf"
// uio: version = "1.0"
// uio: description = "cycles, load, switches, interrupts and CPU time by thread, over a time"
// uio: usage = "[-i INTERVAL] [-n TIMES] | -s"
// uio: help = """
// uio: -i INTERVAL  a line per interval, like 500ms, 2s, 1min (1s)
// uio: -n TIMES     so many of them; without it until Ctrl-C (on a terminal) or once
// uio: -s           pass standard input on and count until it ends
// uio: """
#include <errno.h>

#include "box.h"

static const char text[] =
	"usage: perf [-i INTERVAL] [-n TIMES] | -s\n"
	"Count over a time; then the sums, and CPU time and switches of each thread.\n"
	"  -i INTERVAL  a line per interval, like 500ms, 2s, 1min (1s)\n"
	"  -n TIMES     so many of them; without it until Ctrl-C on a terminal, else once\n"
	"  -s           count while another command runs: pass its output on until it ends, as in\n"
	"               uioctl exec VM CMD | uioctl exec -i VM perf -s (the sums: standard error)\n"
	"CYCLES are those of the time stamp counter, which runs at one speed, working or idle;\n"
	"INSTRUCTIONS are shown if the kernel has a counter for them running. - is: not known.\n"
	"Status: 0, 1 standard input cannot be passed on, 2 wrong usage.\n";

#define THREADS_MAX 256

struct thread {
	unsigned int id;
	char name[24];
	uint64_t cpu_ns, switches;
};

struct sample {
	uint64_t ns, cycles, instructions;
	struct uio_event_counts counts;
	bool counted;
	unsigned int n;
	struct thread threads[THREADS_MAX];
};

struct cpu {
	unsigned int version, general, fixed; /* of performance monitoring: leaf 0xA */
	bool invariant, instructions;
};

static struct sample first, before, now;

static void cpuid(uint32_t leaf, uint32_t out[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(leaf), "c"(0));
}

static uint64_t cycles(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/** Fixed counter 0: instructions retired. Only where CPUID says that there is one. */
static uint64_t instructions(void)
{
	uint32_t low, high;

	__asm__ volatile("rdpmc" : "=a"(low), "=d"(high) : "c"(1u << 30));
	return (uint64_t)high << 32 | low;
}

static void look_at_cpu(struct cpu *cpu)
{
	uint32_t r[4];

	*cpu = (struct cpu){0};
	cpuid(0, r);
	if (r[0] >= 0xa) {
		cpuid(0xa, r);
		cpu->version = r[0] & 255;
		cpu->general = r[0] >> 8 & 255;
		cpu->fixed = cpu->version > 1 ? r[3] & 31 : 0;
	}
	cpuid(0x80000000, r);
	if (r[0] >= 0x80000007) {
		cpuid(0x80000007, r);
		cpu->invariant = r[3] >> 8 & 1;
	}
	/* One that nobody has started stands still. */
	if (cpu->fixed) {
		uint64_t start = instructions();

		cpu->instructions = instructions() != start;
	}
}

static void print_cpu(FILE *out, const struct cpu *cpu)
{
	fprintf(out, "time stamp counter: %s\n",
		cpu->invariant ? "runs at one speed" : "the CPU does not promise one speed");
	if (!cpu->version)
		fprintf(out, "performance counters: none visible to this guest\n");
	else
		fprintf(out,
			"performance counters: version %u, %u general, %u fixed; instructions %s\n",
			cpu->version, cpu->general, cpu->fixed,
			cpu->instructions ? "are being counted"
					  : "are not: the kernel starts none");
}

static int add_thread(const struct uio_thread_entry *t, void *arg)
{
	struct sample *s = arg;
	struct thread *to = &s->threads[s->n];

	if (s->n == THREADS_MAX)
		return 0;
	s->n++;
	to->id = t->id;
	to->cpu_ns = t->cpu_ns;
	to->switches = t->switches;
	snprintf(to->name, sizeof(to->name), "%s", t->name);
	return 0;
}

static void take(struct sample *s, const struct cpu *cpu)
{
	s->n = 0;
	uio_threads(add_thread, s);
	s->counted = !uio_counts(&s->counts);
	s->instructions = cpu->instructions ? instructions() : 0;
	s->ns = uio_now_ns();
	s->cycles = cycles();
}

static void cell(FILE *out, bool known, uint64_t value)
{
	if (known)
		fprintf(out, " %14" PRIu64, value);
	else
		fprintf(out, " %14s", "-");
}

static void heading(FILE *out)
{
	fprintf(out, "%8s %14s %6s %14s %14s %14s\n", "SECONDS", "CYCLES", "BUSY", "SWITCHES",
		"INTERRUPTS", "INSTRUCTIONS");
}

static void line(FILE *out, const struct cpu *cpu, const struct sample *a, const struct sample *b)
{
	uint64_t ns = b->ns - a->ns, idle = b->counts.idle_ns - a->counts.idle_ns;
	uint64_t busy = ns && idle < ns ? (ns - idle) * 1000 / ns : 0;

	fprintf(out, "%4" PRIu64 ".%03" PRIu64 " %14" PRIu64, ns / NS, ns % NS / 1000000,
		b->cycles - a->cycles);
	if (b->counted)
		fprintf(out, " %3" PRIu64 ".%" PRIu64 "%%", busy / 10, busy % 10);
	else
		fprintf(out, " %6s", "-");
	cell(out, b->counted, b->counts.switches - a->counts.switches);
	cell(out, b->counted, b->counts.interrupts - a->counts.interrupts);
	cell(out, cpu->instructions, b->instructions - a->instructions);
	fputc('\n', out);
}

static void threads(FILE *out, const struct sample *a, const struct sample *b)
{
	uint64_t ns = b->ns - a->ns;

	fprintf(out, "%5s %12s %7s %10s  %s\n", "ID", "CPU ms", "CPU%", "SWITCHES", "NAME");
	for (unsigned int i = 0; i < b->n; i++) {
		struct thread t = b->threads[i];

		for (unsigned int j = 0; j < a->n; j++) {
			if (a->threads[j].id != t.id)
				continue;
			t.cpu_ns -= a->threads[j].cpu_ns;
			t.switches -= a->threads[j].switches;
		}
		fprintf(out, "%5u %8" PRIu64 ".%03" PRIu64 " %5" PRIu64 ".%" PRIu64, t.id,
			t.cpu_ns / 1000000, t.cpu_ns / 1000 % 1000, ns ? t.cpu_ns * 100 / ns : 0,
			ns ? t.cpu_ns * 1000 / ns % 10 : 0);
		if (b->counted)
			fprintf(out, " %10" PRIu64, t.switches);
		else
			fprintf(out, " %10s", "-");
		fprintf(out, "  %s\n", t.name);
	}
}

static void sums(FILE *out, const struct cpu *cpu)
{
	uint64_t ns = now.ns - first.ns;

	fprintf(out, "in all:\n");
	line(out, cpu, &first, &now);
	if (ns >= 1000)
		fprintf(out, "%" PRIu64 " MHz by the time stamp counter\n",
			(now.cycles - first.cycles) / (ns / 1000));
	threads(out, &first, &now);
}

/** Standard input to standard output, until it ends. */
static int pass(void)
{
	static char buffer[16384];

	for (;;) {
		ssize_t n = uio_read(0, buffer, sizeof(buffer));

		if (n <= 0)
			return n < 0;
		if (uio_write(1, buffer, (size_t)n) < 0)
			return 1;
		uio_flush();
	}
}

int main(int argc, char **argv)
{
	uint64_t interval = NS, times = uio_terminal(NULL, NULL) ? 0 : 1; /* 0: until Ctrl-C */
	struct cpu cpu;
	int status = 0;

	if (box_help(argc, argv, text))
		return 0;
	look_at_cpu(&cpu);
	if (argc == 2 && !strcmp(argv[1], "-s")) {
		take(&first, &cpu);
		status = pass();
		take(&now, &cpu);
		print_cpu(stderr, &cpu);
		heading(stderr);
		sums(stderr, &cpu);
		return status;
	}
	for (int i = 1; i < argc; i += 2) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(argv[i], "-i") == 0
			    ? !box_time(value, &interval)
			    : strcmp(argv[i], "-n") != 0 || !box_number(value, &times) || !times)
			return box_usage(text);
	}
	print_cpu(stdout, &cpu);
	heading(stdout);
	take(&first, &cpu);
	now = first;
	for (uint64_t i = 0; !times || i < times; i++) {
		bool interrupted = uio_sleep_ns(interval) || uio_interrupted();

		before = now;
		take(&now, &cpu);
		line(stdout, &cpu, &before, &now);
		uio_flush();
		if (interrupted)
			break;
	}
	sums(stdout, &cpu);
	return 0;
}
