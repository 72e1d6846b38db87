/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libuio's eBPF machine as a Linux program. Without --serve it is a plug-in of
 * the public bpf_conformance suite: instructions as hex on standard input, memory as
 * hex in the first argument, r0 as hex on standard output. With --serve it
 * reads commands, one a line, and answers each with one line of JSON; see
 * the table at the end.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <uio/port.h>

#include "bpf_object.h"

#define MAX_LINE (8u << 20)

/* ---- the world ---- */

static uint64_t fake_now;
static uint32_t fake_thread = 1;
static int last_signal;
static char printed[1 << 16];
static size_t nprinted;
static unsigned int wakes;

void *uio_port_alloc(size_t size)
{
	void *p = NULL;

	return posix_memalign(&p, 16, size) == 0 ? p : NULL;
}

void uio_port_free(void *ptr)
{
	free(ptr);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now(void)
{
	return fake_now ? fake_now : clock_ns(CLOCK_MONOTONIC);
}

static void print(void *cookie, const char *text, size_t len)
{
	(void)cookie;
	if (len > sizeof(printed) - nprinted)
		len = sizeof(printed) - nprinted;
	memcpy(printed + nprinted, text, len);
	nprinted += len;
}

static int probe_read(void *dst, uint64_t src, size_t len)
{
	struct iovec to = {dst, len}, from = {(void *)(uintptr_t)src, len};

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)len ? 0 : -EFAULT;
}

static int signal_app(int sig)
{
	last_signal = sig;
	return 0;
}

static uint32_t thread(void)
{
	return fake_thread;
}

static void thread_name(char *buf, size_t len)
{
	snprintf(buf, len, "thread-%u", fake_thread);
}

static size_t stack(const struct bpf_ctx *ctx, uint64_t *pc, size_t max)
{
	size_t n = 0;

	for (uint64_t v = ctx->ip; n < max && n < 1 + ctx->sp % 8; n++)
		pc[n] = v + 16 * n;
	return n;
}

static int exec_arg(void *cookie, unsigned int n, char *buf, size_t len)
{
	(void)cookie;
	return n < 3 ? snprintf(buf, len, "argument-%u", n) : -ENOENT;
}

static void wake(struct bpf_map *ring)
{
	(void)ring;
	wakes++;
}

static const struct bpf_env env = {
	.now = now,
	.print = print,
	.probe_read = probe_read,
	.signal = signal_app,
	.thread = thread,
	.thread_name = thread_name,
	.stack = stack,
	.exec_arg = exec_arg,
	.wake = wake,
};

static const struct bpf_object_limits limits = {
	.max_bytes = 64u << 20,
	.max_insns = 1u << 20,
	.max_ns = 2000000000,
};

/* ---- hex ---- */

static int digit(int c)
{
	return isdigit(c) ? c - '0' : tolower(c) - 'a' + 10;
}

/* Bytes from hex with any white space; memory of exactly that size, so that sanitizers see its end.
 */
static uint8_t *from_hex(const char *text, size_t *len)
{
	uint8_t *bytes = malloc(strlen(text) / 2 + 1), *exact;
	size_t n = 0;

	while (*text != '\0') {
		if (isspace((unsigned char)*text)) {
			text++;
			continue;
		}
		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]))
			break;
		bytes[n++] = (uint8_t)(digit(text[0]) << 4 | digit(text[1]));
		text += 2;
	}
	exact = malloc(n ? n : 1);
	memcpy(exact, bytes, n);
	free(bytes);
	*len = n;
	return exact;
}

static void put_hex(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	putchar('"');
	for (size_t i = 0; i < len; i++)
		printf("%02x", p[i]);
	putchar('"');
}

/* ---- plug-in of bpf_conformance ---- */

static int plugin(const char *memory)
{
	static char text[MAX_LINE];
	struct bpf_wire_header header = {.magic = BPF_OBJECT_MAGIC, .nprogs = 1, .name = "test"};
	struct bpf_wire_prog wire = {.kind = BPF_KIND_ENTRY, .name = "test", .target = "test"};
	struct bpf_object_error error;
	struct bpf_object *object;
	static struct bpf_vm vm;
	size_t mem_len = 0, code_len, n;
	uint8_t *mem = from_hex(memory, &mem_len), *code, *bytes;
	uint64_t r0;
	int status;

	n = fread(text, 1, sizeof(text) - 1, stdin);
	text[n] = '\0';
	code = from_hex(text, &code_len);
	wire.count = header.ninsns = (uint32_t)(code_len / sizeof(struct bpf_insn));
	header.size = (uint32_t)(sizeof(header) + sizeof(wire) + wire.count * 8);
	bytes = malloc(header.size);
	memcpy(bytes, &header, sizeof(header));
	memcpy(bytes + sizeof(header), &wire, sizeof(wire));
	memcpy(bytes + sizeof(header) + sizeof(wire), code, wire.count * 8u);
	status = uio_bpf_object_load(&object, bytes, header.size, &env, &limits, &error);
	free(bytes);
	free(code);
	if (status != 0) {
		fprintf(stderr, "%s\n", error.text);
		free(mem);
		return 1;
	}
	uio_bpf_vm_init(&vm, &env);
	status = uio_bpf_run(&vm, &object->prog[0], mem, mem_len, BPF_READ | BPF_WRITE, &r0);
	if (status == BPF_OK)
		printf("%" PRIx64 "\n", r0);
	else
		fprintf(stderr, "instruction %u: it %s\n", vm.fault.pc,
			uio_bpf_status_text(status));
	uio_bpf_object_destroy(object);
	free(mem);
	return status == BPF_OK ? 0 : 1;
}

/* ---- commands ---- */

static struct bpf_object *loaded;
static struct bpf_vm machine;

static void fail(const char *text)
{
	printf("{\"error\": \"%s\"}", text);
}

static struct bpf_map *map_arg(const char *text)
{
	unsigned long i = text ? strtoul(text, NULL, 0) : BPF_MAX_MAPS;

	return loaded && i < loaded->nmaps ? loaded->map[i] : NULL;
}

static void do_load(char *args[])
{
	struct bpf_object_error error;
	size_t len;
	uint8_t *bytes = from_hex(args[0] ? args[0] : "", &len);

	uio_bpf_object_destroy(loaded);
	loaded = NULL;
	if (uio_bpf_object_load(&loaded, bytes, len, &env, &limits, &error) != 0)
		fail(error.text);
	else
		printf("{\"maps\": %u, \"programs\": %u, \"bytes\": %zu}", loaded->nmaps,
		       loaded->nprogs, loaded->bytes);
	free(bytes);
}

/* run PROGRAM ro|rw CONTEXT [TIMES]; without a context a struct bpf_ctx of zeros */
static void do_run(char *args[])
{
	unsigned long i = args[0] ? strtoul(args[0], NULL, 0) : BPF_MAX_PROGS;
	unsigned long times = args[2] && args[3] ? strtoul(args[3], NULL, 0) : 1;
	unsigned int rights = BPF_READ;
	uint64_t r0 = 0, start;
	uint8_t *ctx;
	size_t len = 0;
	int status = 0;

	if (!loaded || i >= loaded->nprogs || !args[1]) {
		fail("no such program");
		return;
	}
	if (strcmp(args[1], "rw") == 0)
		rights |= BPF_WRITE;
	ctx = from_hex(args[2] ? args[2] : "", &len);
	if (args[2] == NULL || strcmp(args[2], "-") == 0) {
		free(ctx);
		len = sizeof(struct bpf_ctx);
		ctx = calloc(1, len);
	}
	nprinted = 0;
	wakes = 0;
	start = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	while (times-- > 0 && status == 0)
		status = uio_bpf_run(&machine, &loaded->prog[i], ctx, len, rights, &r0);
	printf("{\"status\": %d, \"ns\": %" PRIu64 ", \"used\": %" PRIu64 ", \"wakes\": %u", status,
	       clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start, machine.used, wakes);
	if (status == 0) {
		printf(", \"r0\": %" PRIu64, r0);
	} else {
		printf(", \"why\": \"%s\", \"pc\": %u", uio_bpf_status_text(status),
		       machine.fault.pc);
		printf(", \"address\": %" PRIu64 ", \"size\": %u, \"arg\": %u, \"helper\": %u",
		       machine.fault.address, machine.fault.size, machine.fault.arg,
		       machine.fault.helper);
	}
	printf(", \"text\": ");
	put_hex(printed, nprinted);
	printf(", \"context\": ");
	put_hex(ctx, len);
	putchar('}');
	free(ctx);
}

static void do_map(char *args[])
{
	struct bpf_map *map = map_arg(args[0]);
	uint8_t *key, *value;
	uint64_t cursor = 0;
	uint32_t id;

	if (!map) {
		fail("no such map");
		return;
	}
	key = malloc(map->def.key_size + 1u);
	value = malloc(map->def.value_size + 1u);
	printf("{\"count\": %u, \"drops\": %" PRIu64 ", \"bytes\": %zu, \"entries\": [", map->count,
	       map->drops, map->bytes);
	while (uio_bpf_map_next(map, &cursor, key, value, &id)) {
		putchar('[');
		put_hex(key, map->def.key_size);
		printf(", ");
		put_hex(value, map->def.value_size);
		printf(", %u], ", id);
	}
	printf("null]}");
	free(key);
	free(value);
}

static void put_result(int64_t n)
{
	printf("{\"result\": %" PRId64 "}", n);
}

static void do_update(char *args[])
{
	struct bpf_map *map = map_arg(args[0]);
	size_t klen = 0, vlen = 0;
	uint8_t *key = from_hex(args[0] && args[1] ? args[1] : "", &klen);
	uint8_t *value = from_hex(args[0] && args[1] && args[2] ? args[2] : "", &vlen);

	if (!map || klen != map->def.key_size || vlen != map->def.value_size)
		fail("no such map, or sizes that are not its own");
	else
		put_result(uio_bpf_map_update(map, key, value,
					      args[3] ? strtoul(args[3], NULL, 0) : BPF_ANY));
	free(key);
	free(value);
}

static void do_delete(char *args[])
{
	struct bpf_map *map = map_arg(args[0]);
	size_t len = 0;
	uint8_t *key = from_hex(args[0] && args[1] ? args[1] : "", &len);

	if (!map || len != map->def.key_size)
		fail("no such map, or a size that is not its own");
	else
		put_result(uio_bpf_map_delete(map, key));
	free(key);
}

static void do_lookup(char *args[])
{
	struct bpf_map *map = map_arg(args[0]);
	size_t len = 0;
	uint8_t *key = from_hex(args[0] && args[1] ? args[1] : "", &len);
	void *value = NULL;

	if (!map || len != map->def.key_size) {
		fail("no such map, or a size that is not its own");
	} else {
		value = uio_bpf_map_lookup(map, key);
		printf("{\"value\": ");
		if (value)
			put_hex(value, map->def.value_size);
		else
			printf("null");
		putchar('}');
	}
	free(key);
}

static void do_clear(char *args[])
{
	struct bpf_map *map = map_arg(args[0]);

	if (!map) {
		fail("no such map");
		return;
	}
	uio_bpf_map_clear(map);
	put_result(0);
}

/* ring MAP [MOST]: its records */
static void do_ring(char *args[])
{
	static uint8_t record[1 << 20];
	struct bpf_map *map = map_arg(args[0]);
	unsigned long most = args[0] && args[1] ? strtoul(args[1], NULL, 0) : ~0ul;
	int64_t n;

	if (!map || map->def.type != BPF_MAP_RINGBUF) {
		fail("no such ring buffer");
		return;
	}
	printf("{\"drops\": %" PRIu64 ", \"records\": [", map->drops);
	while (most-- > 0 && (n = uio_bpf_ring_read(map, record, sizeof(record))) > 0) {
		put_hex(record, (size_t)n);
		printf(", ");
	}
	printf("null]}");
}

static void do_set(char *args[])
{
	uint64_t n = args[0] && args[1] ? strtoull(args[1], NULL, 0) : 0;

	if (args[0] && strcmp(args[0], "now") == 0)
		fake_now = n;
	else if (args[0] && strcmp(args[0], "thread") == 0)
		fake_thread = (uint32_t)n;
	else if (args[0] && strcmp(args[0], "budget") == 0 && loaded)
		for (uint32_t i = 0; i < loaded->nprogs; i++)
			loaded->prog[i].max_insns = n;
	else if (args[0] && strcmp(args[0], "time") == 0 && loaded)
		for (uint32_t i = 0; i < loaded->nprogs; i++)
			loaded->prog[i].max_ns = n;
	put_result(last_signal);
}

/* memory HEX: put it where programs can read it by address */
static void do_memory(char *args[])
{
	static uint8_t *kept;
	size_t len;

	free(kept);
	kept = from_hex(args[0] ? args[0] : "", &len);
	printf("{\"address\": %" PRIu64 "}", (uint64_t)(uintptr_t)kept);
}

static void do_helpers(char *args[])
{
	(void)args;
	putchar('[');
	for (uint32_t i = 0; i < uio_bpf_nhelpers; i++) {
		const struct bpf_helper *h = &uio_bpf_helpers[i];

		printf("%s[%u, \"%s\", %u, [%u, %u, %u, %u, %u], %u, %u]", i ? ", " : "", h->id,
		       h->name, h->ret, h->arg[0], h->arg[1], h->arg[2], h->arg[3], h->arg[4],
		       h->kinds, h->maps);
	}
	putchar(']');
}

static const struct {
	const char *name;
	void (*run)(char *args[]);
} commands[] = {
	{"load", do_load},       {"run", do_run},       {"map", do_map},
	{"lookup", do_lookup},   {"update", do_update}, {"delete", do_delete},
	{"clear", do_clear},     {"ring", do_ring},     {"set", do_set},
	{"helpers", do_helpers}, {"memory", do_memory},
};

static int serve(void)
{
	static char line[MAX_LINE];

	uio_bpf_vm_init(&machine, &env);
	while (fgets(line, sizeof(line), stdin) != NULL) {
		char *args[6] = {NULL}, *word = strtok(line, " \n");
		size_t i = 0;

		for (int n = 0; n < 5; n++)
			args[n] = word ? strtok(NULL, " \n") : NULL;
		while (word && i < sizeof(commands) / sizeof(commands[0]) &&
		       strcmp(commands[i].name, word) != 0)
			i++;
		if (word && i < sizeof(commands) / sizeof(commands[0]))
			commands[i].run(args);
		else
			fail("no such command");
		putchar('\n');
		fflush(stdout);
	}
	uio_bpf_object_destroy(loaded);
	return 0;
}

int main(int argc, char *argv[])
{
	if (argc > 1 && strcmp(argv[1], "--serve") == 0)
		return serve();
	return plugin(argc > 1 ? argv[1] : "");
}
