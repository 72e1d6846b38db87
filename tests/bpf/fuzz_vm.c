/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libFuzzer harness of the eBPF machine. The first byte chooses: 0, the rest
 * is an object as it comes from the host; else, it is instructions that are
 * mended so that most of them pass the check, and run against one map of each
 * type. A sanitizer's report is a way out of the machine.
 *
 * clang-14 -g -O1 -fsanitize=fuzzer,address,undefined, see docs/bpf.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <uio/port.h>

#include "bpf_object.h"

#define MAX_PROGRAM 200u

void *uio_port_alloc(size_t size)
{
	void *p = NULL;

	return posix_memalign(&p, 16, size) == 0 ? p : NULL;
}

void uio_port_free(void *ptr)
{
	free(ptr);
}

static uint64_t clock_ns;

static uint64_t now(void)
{
	return clock_ns += 1000;
}

static void print(void *cookie, const char *text, size_t len)
{
	(void)cookie;
	if (text[len] != '\0')
		abort();
}

static int probe_read(void *dst, uint64_t src, size_t len)
{
	struct iovec to = {dst, len}, from = {(void *)(uintptr_t)src, len};

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)len ? 0 : -EFAULT;
}

static int accept_signal(int sig)
{
	return sig == 9 ? -EPERM : 0;
}

static uint32_t thread(void)
{
	return (uint32_t)(clock_ns / 64000);
}

static void thread_name(char *buf, size_t len)
{
	memset(buf, 'n', len);
	buf[len - 1] = '\0';
}

static size_t stack(const struct bpf_ctx *ctx, uint64_t *pc, size_t max)
{
	size_t n = ctx->sp % (max + 1);

	for (size_t i = 0; i < n; i++)
		pc[i] = clock_ns / 4096 + i;
	return n;
}

static const struct bpf_env env = {
	.now = now,
	.print = print,
	.probe_read = probe_read,
	.signal = accept_signal,
	.thread = thread,
	.thread_name = thread_name,
	.stack = stack,
};

static const struct bpf_object_limits limits = {
	.max_bytes = 1u << 20,
	.max_insns = 5000,
	.max_ns = 50000000,
};

static const struct bpf_wire_map maps[] = {
	{BPF_MAP_ARRAY, 4, 64, 3, 0, 0, 8, 0, "array"},
	{BPF_MAP_ARRAY, 4, 24, 1, BPF_MAP_RDONLY, 0, 0, 0, "constants"},
	{BPF_MAP_HASH, 8, 16, 4, 0, 0, 0, 0, "hash"},
	{BPF_MAP_LRU_HASH, 3, 5, 3, 0, 0, 0, 0, "lru"},
	{BPF_MAP_THREAD_ARRAY, 4, 8, 2, 0, 0, 0, 0, "threads"},
	{BPF_MAP_RINGBUF, 0, 0, 256, 0, 0, 0, 0, "ring"},
	{BPF_MAP_STACK, 4, 40, 3, 0, 0, 0, 0, "stacks"},
};
#define NMAPS (sizeof(maps) / sizeof(maps[0]))

/* What a program of clang would have at hand; generated code finds pointers to play with. */
static const struct bpf_insn prologue[] = {
	{0xbf, 0x16, 0, 0},        /* r6 = ctx */
	{BPF_OP_LDDW, 0x67, 0, 0}, /* r7 = value of the array */
	{0, 0, 0, 0},
	{0xbf, 0xa8, 0, 0},   /* r8 = frame */
	{0x07, 0x08, 0, -64}, /* r8 -= 64 */
	{0x7a, 0x08, 0, 1},   /* two keys */
	{0x7a, 0x08, 8, 0},
	{BPF_OP_LDDW, 0x59, 0, 2}, /* r9 = hash */
	{0, 0, 0, 0},
};
#define NPROLOGUE (sizeof(prologue) / sizeof(prologue[0]))

/* Most random instructions fail for dull reasons: registers, targets and ids that do not exist. */
static void mend(struct bpf_insn *insns, uint32_t count)
{
	static const int32_t atomics[] = {BPF_ADD, BPF_OR | BPF_FETCH, BPF_XCHG, BPF_CMPXCHG};

	for (uint32_t pc = NPROLOGUE; pc < count; pc++) {
		struct bpf_insn *in = &insns[pc];
		uint32_t dst = BPF_DST(in) % 11, src = BPF_SRC(in) % 11;
		uint32_t cls = in->opcode & 7u;

		in->regs = (uint8_t)(dst | src << 4);
		if (cls >= BPF_LDX && cls <= BPF_STX)
			in->offset = (int16_t)(in->offset % 64);
		if (cls == BPF_STX && (in->opcode & 0xe0u) == BPF_ATOMIC)
			in->imm = atomics[(uint32_t)in->imm % 4];
		else if (cls == BPF_LDX || cls == BPF_STX)
			in->imm = 0;
		else if (cls == BPF_ST || (cls >= BPF_ALU && !(in->opcode & BPF_X)))
			in->regs &= 15u;
		if (cls == BPF_ALU || cls == BPF_ALU64)
			in->offset = (in->opcode & 0xf0u) == BPF_DIV ? in->offset & 1 : 0;
		if (cls >= BPF_ALU && (in->opcode & BPF_X))
			in->imm = 0;
		if (cls == BPF_JMP || cls == BPF_JMP32)
			in->offset = (int16_t)((uint16_t)in->offset % (count - pc));
		if (in->opcode == BPF_OP_CALL) {
			in->offset = 0;
			in->regs = 0;
			in->imm = (int32_t)uio_bpf_helpers[(uint32_t)in->imm % uio_bpf_nhelpers].id;
		} else if (in->opcode == BPF_OP_EXIT) {
			memset(in, 0, sizeof(*in));
			in->opcode = BPF_OP_EXIT;
		} else if (in->opcode == BPF_OP_LDDW && pc + 2 < count) {
			in->regs = (uint8_t)(dst % 10 | BPF_IMM64_MAP << 4);
			in->imm = (int32_t)((uint32_t)in->imm % NMAPS);
			memset(&insns[++pc], 0, sizeof(*in));
		}
	}
	memset(&insns[count], 0, sizeof(*insns));
	insns[count].opcode = BPF_OP_EXIT;
}

static void run(struct bpf_object *object, const uint8_t *data, size_t size)
{
	static struct bpf_vm vm;
	struct bpf_ctx *ctx = malloc(sizeof(*ctx));
	uint8_t record[256];
	uint64_t r0;

	memset(ctx, 0, sizeof(*ctx));
	memcpy(ctx, data, size < sizeof(*ctx) ? size : sizeof(*ctx));
	uio_bpf_vm_init(&vm, &env);
	for (uint32_t i = 0; i < object->nprogs; i++)
		for (int times = 0; times < 2; times++)
			uio_bpf_run(&vm, &object->prog[i], ctx, sizeof(*ctx), BPF_READ, &r0);
	for (uint32_t i = 0; i < object->nmaps; i++) {
		struct bpf_map *map = object->map[i];
		uint64_t cursor = 0;
		uint32_t id;
		uint8_t *key = malloc(map->def.key_size + 1u);
		uint8_t *value = malloc(map->def.value_size + 1u);

		while (map->def.type == BPF_MAP_RINGBUF &&
		       uio_bpf_ring_read(map, record, sizeof(record)) > 0)
			;
		while (uio_bpf_map_next(map, &cursor, key, value, &id))
			if (!uio_bpf_map_lookup(map, key))
				abort();
		free(key);
		free(value);
	}
	free(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bpf_wire_header header = {.magic = BPF_OBJECT_MAGIC,
					 .nmaps = NMAPS,
					 .nprogs = 1,
					 .data_size = 8,
					 .name = "fuzz"};
	struct bpf_wire_prog prog = {.kind = BPF_KIND_RETURN, .name = "fuzz", .target = "fuzz"};
	struct bpf_insn insns[NPROLOGUE + MAX_PROGRAM + 1];
	struct bpf_object *object;
	struct bpf_object_error error;
	uint8_t *bytes, *at;

	if (size < 1)
		return 0;
	if (data[0] == 0) {
		bytes = malloc(size);
		memcpy(bytes, data + 1, size - 1);
		if (uio_bpf_object_load(&object, bytes, size - 1, &env, &limits, &error) == 0) {
			run(object, data, size);
			uio_bpf_object_destroy(object);
		}
		free(bytes);
		return 0;
	}
	prog.count = (uint32_t)((size - 1) / 8 < MAX_PROGRAM ? (size - 1) / 8 : MAX_PROGRAM);
	memcpy(insns, prologue, sizeof(prologue));
	memcpy(insns + NPROLOGUE, data + 1, prog.count * sizeof(insns[0]));
	prog.count += NPROLOGUE;
	mend(insns, prog.count);
	header.ninsns = ++prog.count;
	header.size = (uint32_t)(sizeof(header) + sizeof(maps) + sizeof(prog) + prog.count * 8 + 8);
	at = bytes = malloc(header.size);
	memcpy(at, &header, sizeof(header));
	memcpy(at += sizeof(header), maps, sizeof(maps));
	memcpy(at += sizeof(maps), &prog, sizeof(prog));
	memcpy(at += sizeof(prog), insns, prog.count * 8);
	memcpy(at + prog.count * 8, "initial", 8);
	if (uio_bpf_object_load(&object, bytes, header.size, &env, &limits, &error) == 0) {
		run(object, data, size);
		uio_bpf_object_destroy(object);
	}
	free(bytes);
	return 0;
}
