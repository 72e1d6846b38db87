/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Backtraces of all threads. Code without frame pointers, such as most C libraries, hides its
 * callers from a walk along them; so the stack is searched for addresses behind call instructions
 * as well, and what only that finds has a `?`. The guest has no names for addresses: `uioctl bt`
 * puts them into words.
 */
// uio: name = "bt"
// uio: version = "1.0"
// uio: description = "backtraces of the application's threads"
// uio: usage = "[-a] [-d DEPTH] [THREAD…]"
// uio: help = """
// uio: -a        uIO's threads too
// uio: -d DEPTH  at most so many addresses of each (24)
// uio: """
// uio: timeout = "10s"
#include "box.h"

static const char text[] =
	"usage: bt [-a] [-d DEPTH] [THREAD…]\n"
	"Where the threads are that do not run: address by address, the innermost first.\n"
	"  -a        uIO's threads too\n"
	"  -d DEPTH  at most so many addresses of each (24)\n"
	"? stands by an address that was found on the stack, but not by frame pointers: it may be\n"
	"left over from before. On the host, `uioctl bt VM` prints names and source lines.\n"
	"Status: 0, 1 there is no such thread, 2 wrong usage.\n";

#define SCAN_MAX 1024u /* words of the stack that are searched */

struct wanted {
	bool all;
	uint64_t depth;
	char **ids;
	int nids, found;
	uint64_t text_low, text_high;
};

static bool read_word(uint64_t address, uint64_t *out)
{
	return uio_peek(out, (const void *)address, sizeof(*out)) == (ssize_t)sizeof(*out);
}

/** Whether a call instruction ends in front of the address: relative, or through a register or
 * memory. */
static bool after_call(uint64_t address)
{
	uint8_t code[7];

	if (uio_peek(code, (const void *)(address - sizeof(code)), sizeof(code)) !=
	    (ssize_t)sizeof(code))
		return false;
	if (code[2] == 0xe8)
		return true;
	for (int length = 2; length <= 7; length++) {
		const uint8_t *p = code + sizeof(code) - length;

		if (length != 5 && p[0] == 0xff && (p[1] >> 3 & 7) == 2)
			return true;
	}
	return false;
}

/** An address of the kernel's text: the page it is on is not on the stack, and a call leads there.
 */
static bool is_code(const struct wanted *w, uint64_t value)
{
	return value >= w->text_low && value < w->text_high && after_call(value);
}

static void backtrace(const struct wanted *w, const struct uio_thread_entry *t)
{
	uint64_t frame = t->fp, value, shown = 1;

	printf("  %012" PRIx64 "\n", t->ip);
	for (uint64_t at = t->sp, i = 0; i < SCAN_MAX && shown < w->depth; i++, at += 8) {
		/* The chain ends where a frame is not above the one before. */
		bool chained = frame && at == frame + 8;

		if (!read_word(at, &value))
			break;
		if (chained) {
			uint64_t next;

			if (!read_word(frame, &next))
				break;
			if (!is_code(w, value))
				break;
			printf("  %012" PRIx64 "\n", value);
			shown++;
			if (next <= frame)
				break;
			frame = next;
		} else if (is_code(w, value)) {
			printf("  %012" PRIx64 " ?\n", value);
			shown++;
		}
	}
}

static bool is_wanted(const struct wanted *w, const struct uio_thread_entry *t)
{
	if (!w->nids)
		return w->all || !t->ours;
	for (int i = 0; i < w->nids; i++) {
		if (strtoul(w->ids[i], NULL, 10) == t->id)
			return true;
	}
	return false;
}

static int print_thread(const struct uio_thread_entry *t, void *arg)
{
	struct wanted *w = arg;

	if (!is_wanted(w, t))
		return 0;
	w->found++;
	printf("thread %u %c %s%s\n", t->id, t->state, *t->name ? t->name : "?",
	       t->ours ? " (uIO)" : "");
	if (t->ip)
		backtrace(w, t);
	else
		printf(t->state == 'R' ? "  it runs\n"
				       : "  this kernel does not tell where it is\n");
	return 0;
}

/** The first of these symbols that the kernel has. */
static uint64_t bound(const char *const names[])
{
	struct uio_symbol_info info;

	for (; *names; names++) {
		if (!uio_symbol(*names, &info))
			return info.address;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const low[] = {"__text_start", "_text", "_start", NULL};
	static const char *const high[] = {"__libc_text_end", "uio_app_etext", "_etext", "etext",
					   NULL};
	struct wanted w = {.depth = 24};
	int i = 1;

	if (box_help(argc, argv, text))
		return 0;
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "-a"))
			w.all = true;
		else if (strcmp(argv[i], "-d") != 0 || !box_number(argv[++i], &w.depth) || !w.depth)
			return box_usage(text);
	}
	w.ids = argv + i;
	w.nids = argc - i;
	for (uint64_t id; i < argc; i++) {
		if (!box_number(argv[i], &id))
			return box_usage(text);
	}
	w.text_low = bound(low);
	w.text_high = bound(high);
	uio_threads(print_thread, &w);
	if (w.found < (w.nids ? w.nids : 1)) {
		fprintf(stderr, "bt: there is no such thread\n");
		return 1;
	}
	return 0;
}
