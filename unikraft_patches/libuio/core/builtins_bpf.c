/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The command `bpf`: the session that the host talks to, and for people what
 * is attached, what is in the maps, and an end to it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bpf_session.h"
#include "hits.h"

#define DETACH_STEP_NS 1000000u
#define DETACH_STEPS   2000u

static const char *const kinds[BPF_KIND_NKINDS] = {
	[BPF_KIND_ENTRY] = "entry",
	[BPF_KIND_RETURN] = "return",
	[BPF_KIND_TIMER] = "timer",
	[BPF_KIND_EXEC] = "exec",
};
static const char *const types[BPF_MAP_NTYPES] = {
	[BPF_MAP_ARRAY] = "array",
	[BPF_MAP_HASH] = "hash",
	[BPF_MAP_THREAD_ARRAY] = "thread_array",
	[BPF_MAP_LRU_HASH] = "lru_hash",
	[BPF_MAP_RINGBUF] = "ringbuf",
	[BPF_MAP_STACK] = "stacks",
};

typedef unsigned long long ull;

/* The n-th session, program or map: looked up again after each line, which may have blocked. */
static struct bpf_session *session_at(unsigned int n)
{
	struct bpf_session *s = uio_bpf_sessions();

	while (s && n-- > 0)
		s = s->next;
	return s;
}

static void list_session(struct uio_exec *x, unsigned int number)
{
	struct bpf_session *s = uio_bpf_session_find(number);

	for (uint32_t i = 0; s && s->object && i < s->object->nprogs; i++) {
		const struct bpf_prog *p = &s->object->prog[i];
		const struct bpf_attached *a = s->attached;

		while (a && a->link.prog != p)
			a = a->next;
		uio_exec_printf(x, "%u %s program %s %s %s 0x%llx %llu %llu\n", number,
				s->object->name, p->name, kinds[p->kind],
				p->target[0] ? p->target : "-", a ? (ull)a->link.function : 0ull,
				(ull)p->runs, (ull)p->faults);
		s = uio_bpf_session_find(number);
	}
	for (uint32_t i = 0; s && s->object && i < s->object->nmaps; i++) {
		const struct bpf_map *m = s->object->map[i];

		uio_exec_printf(x, "%u %s map %s %s %u %u %u %u %llu\n", number, s->object->name,
				m->def.name, types[m->def.type], m->def.key_size, m->def.value_size,
				m->def.max_entries, m->count, (ull)m->drops);
		s = uio_bpf_session_find(number);
	}
}

static int run_ls(struct uio_exec *x)
{
	for (unsigned int n = 0; session_at(n) && !uio_exec_stopping(x); n++)
		list_session(x, session_at(n)->x->number);
	uio_exec_printf(x, "missed %llu\n", (ull)uio_hit_missed);
	return 0;
}

static unsigned int find_number(struct uio_exec *x, const char *text)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*text != '\0' && *end == '\0' && number <= UINT32_MAX &&
	    uio_bpf_session_find((unsigned int)number))
		return (unsigned int)number;
	uio_exec_error(x, "bpf: no session %s\n", text);
	return 0;
}

static void print_hex(struct uio_exec *x, const uint8_t *bytes, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	char text[129];

	for (size_t done = 0; done < len;) {
		size_t n = 0;

		for (; n < 64 && done < len; n++, done++) {
			text[2 * n] = digits[bytes[done] >> 4];
			text[2 * n + 1] = digits[bytes[done] & 15];
		}
		text[2 * n] = '\0';
		uio_exec_printf(x, "%s", text);
	}
}

/* MAP KEY VALUE [THREAD] in hexadecimal */
static int print_map(struct uio_exec *x, unsigned int number, uint32_t index)
{
	uint64_t cursor = 0;
	uint8_t *row = NULL;
	size_t key = 0, value = 0;
	int status = 0;

	for (;;) {
		struct bpf_session *s = uio_bpf_session_find(number);
		struct bpf_map *m =
			s && s->object && index < s->object->nmaps ? s->object->map[index] : NULL;
		char name[BPF_NAME_MAX];
		uint32_t thread;
		bool per_thread;

		if (!m || uio_exec_stopping(x))
			break;
		if (!row) {
			key = m->def.key_size;
			value = m->def.value_size;
			row = uio_port_alloc(key + value + 1);
		}
		if (!row) {
			status = 1;
			break;
		}
		if (!uio_bpf_next_row(m, &cursor, row, row + key, &thread))
			break;
		memcpy(name, m->def.name, sizeof(name));
		per_thread = m->def.type == BPF_MAP_THREAD_ARRAY;
		uio_exec_printf(x, "%s ", name);
		print_hex(x, row, key);
		uio_exec_printf(x, " ");
		print_hex(x, row + key, value);
		if (per_thread)
			uio_exec_printf(x, " %u", thread);
		uio_exec_printf(x, "\n");
	}
	uio_port_free(row);
	return status;
}

static int run_maps(struct uio_exec *x, int argc, char **argv)
{
	unsigned int number = argc >= 3 ? find_number(x, argv[2]) : 0;
	struct bpf_session *s = number ? uio_bpf_session_find(number) : NULL;
	uint32_t nmaps = s && s->object ? s->object->nmaps : 0;
	bool found = false;
	int status = 0;

	if (argc < 3)
		return uio_builtin_usage(x);
	if (!s)
		return 1;
	for (uint32_t i = 0; i < nmaps && status == 0; i++) {
		s = uio_bpf_session_find(number);
		if (!s || (argc > 3 && strcmp(argv[3], s->object->map[i]->def.name) != 0))
			continue;
		found = true;
		status = print_map(x, number, i);
	}
	if (argc > 3 && !found) {
		uio_exec_error(x, "bpf: session %u has no map %s\n", number, argv[3]);
		return 1;
	}
	return status;
}

/* End a session and wait until all of it is gone. */
static int run_detach(struct uio_exec *x, int argc, char **argv)
{
	unsigned int number = argc == 3 ? find_number(x, argv[2]) : 0;

	if (argc != 3)
		return uio_builtin_usage(x);
	if (number == 0)
		return 1;
	uio_exec_cancel(uio_bpf_session_find(number)->x, 15);
	for (unsigned int i = 0; i < DETACH_STEPS && uio_bpf_session_find(number); i++) {
		if (uio_exec_stopping(x))
			return 1;
		uio_port_sleep(DETACH_STEP_NS);
	}
	return uio_bpf_session_find(number) ? 1 : 0;
}

static int run_bpf(struct uio_exec *x, int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "ls";

	if (strcmp(what, "ls") == 0 && argc <= 2)
		return run_ls(x);
	if (strcmp(what, "maps") == 0)
		return run_maps(x, argc, argv);
	if (strcmp(what, "detach") == 0)
		return run_detach(x, argc, argv);
	if (strcmp(what, "session") == 0 && argc <= 3 &&
	    (argc == 2 || strcmp(argv[2], "unverified") == 0)) {
		if (x->io->ready)
			return uio_bpf_session(x, argc == 3);
		uio_exec_error(x, "bpf: a session is for the host alone\n");
		return 1;
	}
	return uio_builtin_usage(x);
}

const struct uio_builtin uio_builtins_bpf[] = {
	{UIO_BUILTIN_BPF_USAGE, run_bpf, 0, UIO_BUILTIN_ANY},
	{NULL, NULL, 0, 0},
};
