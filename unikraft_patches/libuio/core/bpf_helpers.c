/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The helpers: one function each and one row in the table at the end. Where
 * Linux has a helper that does the same, its number and name are used. The
 * machine has checked the arguments against the row; maps are pointers here.
 * overlays/bpf/helpers.py holds the same table; a test compares the two.
 */
#include <errno.h>
#include <string.h>

#include "bpf.h"

#define TEXT_MAX 256u /* bytes that one print makes at most */

static struct bpf_map *as_map(uint64_t v)
{
	return (struct bpf_map *)(uintptr_t)v;
}

static void *as_ptr(uint64_t v)
{
	return (void *)(uintptr_t)v;
}

static uint64_t err(int64_t e)
{
	return (uint64_t)e;
}

/* ---- maps ---- */

static uint64_t map_lookup_elem(struct bpf_vm *vm, const uint64_t *a)
{
	struct bpf_map *map = as_map(a[1]);
	void *value = uio_bpf_map_lookup(map, as_ptr(a[2]));

	if (value != NULL) {
		vm->value.base = (uintptr_t)value;
		vm->value.size = map->def.value_size;
		vm->value.rights = BPF_READ | (map->def.flags & BPF_MAP_RDONLY ? 0 : BPF_WRITE);
	}
	return (uintptr_t)value;
}

static uint64_t map_update_elem(struct bpf_vm *vm, const uint64_t *a)
{
	struct bpf_map *map = as_map(a[1]);

	(void)vm;
	if (map->def.flags & BPF_MAP_RDONLY)
		return err(-EPERM);
	return err(uio_bpf_map_update(map, as_ptr(a[2]), as_ptr(a[3]), a[4]));
}

static uint64_t map_delete_elem(struct bpf_vm *vm, const uint64_t *a)
{
	struct bpf_map *map = as_map(a[1]);

	(void)vm;
	if (map->def.flags & BPF_MAP_RDONLY)
		return err(-EPERM);
	return err(uio_bpf_map_delete(map, as_ptr(a[2])));
}

static uint64_t map_add(struct bpf_vm *vm, const uint64_t *a)
{
	struct bpf_map *map = as_map(a[1]);

	(void)vm;
	if (map->def.flags & BPF_MAP_RDONLY)
		return err(-EPERM);
	return err(uio_bpf_map_add(map, as_ptr(a[2]), a[3]));
}

/* ---- time, threads, chance ---- */

static uint64_t ktime_get_ns(struct bpf_vm *vm, const uint64_t *a)
{
	(void)a;
	return vm->env->now();
}

static uint64_t get_prandom_u32(struct bpf_vm *vm, const uint64_t *a)
{
	uint32_t x = vm->random;

	(void)a;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	vm->random = x;
	return x;
}

static uint64_t thread_id(struct bpf_vm *vm, const uint64_t *a)
{
	(void)a;
	return vm->env->thread ? vm->env->thread() : 0;
}

static uint64_t get_current_comm(struct bpf_vm *vm, const uint64_t *a)
{
	memset(as_ptr(a[1]), 0, a[2]);
	if (!vm->env->thread_name)
		return err(-ENOSYS);
	vm->env->thread_name(as_ptr(a[1]), a[2]);
	return 0;
}

static uint64_t log2_of(struct bpf_vm *vm, const uint64_t *a)
{
	(void)vm;
	return a[1] == 0 ? 0 : 64 - (unsigned int)__builtin_clzll(a[1]);
}

/* ---- the traced function ---- */

static const struct bpf_ctx *ctx_of(uint64_t v)
{
	return (const struct bpf_ctx *)(uintptr_t)v;
}

static uint64_t get_stackid(struct bpf_vm *vm, const uint64_t *a)
{
	uint64_t pc[128], skip = a[3] & BPF_STACK_SKIP_MASK;
	size_t depth;

	if (a[3] & ~(uint64_t)(BPF_STACK_SKIP_MASK | BPF_STACK_REUSE))
		return err(-EINVAL);
	if (!vm->env->stack)
		return err(-ENOSYS);
	depth = vm->env->stack(ctx_of(a[1]), pc, sizeof(pc) / sizeof(pc[0]));
	if (skip >= depth)
		return err(-EFAULT);
	return err(uio_bpf_stack_id(as_map(a[2]), pc + skip, depth - skip, a[3]));
}

static uint64_t get_func_ip(struct bpf_vm *vm, const uint64_t *a)
{
	(void)vm;
	return ctx_of(a[1])->ip;
}

static uint64_t get_func_arg(struct bpf_vm *vm, const uint64_t *a)
{
	uint64_t v = 0;
	bool there = a[2] < 6;

	(void)vm;
	if (there)
		v = ctx_of(a[1])->args[a[2]];
	memcpy(as_ptr(a[3]), &v, sizeof(v));
	return there ? 0 : err(-EINVAL);
}

static uint64_t get_func_ret(struct bpf_vm *vm, const uint64_t *a)
{
	(void)vm;
	memcpy(as_ptr(a[2]), &ctx_of(a[1])->ret, sizeof(uint64_t));
	return 0;
}

static uint64_t get_func_arg_cnt(struct bpf_vm *vm, const uint64_t *a)
{
	(void)vm;
	(void)a;
	return 6;
}

/* ---- foreign memory ---- */

static uint64_t probe_read_kernel(struct bpf_vm *vm, const uint64_t *a)
{
	int status = -ENOSYS;

	if (a[2] == 0)
		return 0;
	if (vm->env->probe_read)
		status = vm->env->probe_read(as_ptr(a[1]), a[3], a[2]);
	/* The program may rely on bytes that are written in any case. */
	if (status != 0)
		memset(as_ptr(a[1]), 0, a[2]);
	return err(status);
}

/* Aligned pieces, which never cross into a page that the string may not reach. */
static int64_t read_string(const struct bpf_env *env, char *to, size_t len, uint64_t from)
{
	size_t done = 0;

	if (!env->probe_read)
		return -ENOSYS;
	while (done < len - 1) {
		size_t step = 64 - (from + done) % 64;
		const char *end;

		if (step > len - 1 - done)
			step = len - 1 - done;
		if (env->probe_read(to + done, from + done, step) != 0)
			return -EFAULT;
		end = memchr(to + done, '\0', step);
		if (end != NULL)
			return end - to + 1;
		done += step;
	}
	to[done] = '\0';
	return (int64_t)len;
}

static uint64_t probe_read_kernel_str(struct bpf_vm *vm, const uint64_t *a)
{
	char *to = as_ptr(a[1]);
	int64_t len;

	if (a[2] == 0)
		return err(-EINVAL);
	len = read_string(vm->env, to, a[2], a[3]);
	if (len < 0)
		memset(to, 0, a[2]);
	else
		memset(to + len, 0, a[2] - (uint64_t)len);
	return err(len);
}

/* Two strings in memory of the program, each ended by a NUL or its size. */
static uint64_t strings_compare(struct bpf_vm *vm, const uint64_t *a)
{
	const uint8_t *s = as_ptr(a[1]), *t = as_ptr(a[3]);

	(void)vm;
	for (uint64_t i = 0;; i++) {
		int x = i < a[2] ? s[i] : 0, y = i < a[4] ? t[i] : 0;

		if (x != y || x == 0)
			return err(x - y);
	}
}

/* ---- output ---- */

static uint64_t print(struct bpf_vm *vm, uint64_t fmt, uint64_t fmt_len, const uint64_t *args,
		      unsigned int nargs)
{
	char text[TEXT_MAX];
	size_t len;

	if (!vm->env->print)
		return err(-ENOSYS);
	len = uio_bpf_format(vm->env, text, sizeof(text), as_ptr(fmt), fmt_len, args, nargs);
	vm->env->print(vm->cookie, text, len);
	return len;
}

static uint64_t trace_printk(struct bpf_vm *vm, const uint64_t *a)
{
	return print(vm, a[1], a[2], &a[3], 3);
}

static uint64_t trace_vprintk(struct bpf_vm *vm, const uint64_t *a)
{
	uint64_t args[12];
	unsigned int n = (unsigned int)(a[4] / 8);

	if (a[4] % 8 != 0 || n > sizeof(args) / sizeof(args[0]))
		return err(-EINVAL);
	if (n > 0)
		memcpy(args, as_ptr(a[3]), a[4]);
	return print(vm, a[1], a[2], args, n);
}

static uint64_t ringbuf_output(struct bpf_vm *vm, const uint64_t *a)
{
	void *record;

	(void)vm;
	if (a[4] != 0)
		return err(-EINVAL);
	record = uio_bpf_ring_reserve(as_map(a[1]), a[3]);
	if (record == NULL)
		return err(-EAGAIN);
	memcpy(record, as_ptr(a[2]), a[3]);
	uio_bpf_ring_commit(as_map(a[1]), record, false);
	return 0;
}

static uint64_t ringbuf_reserve(struct bpf_vm *vm, const uint64_t *a)
{
	struct bpf_window *grant;
	void *record;

	if (a[3] != 0 || vm->grants == BPF_MAX_GRANTS)
		return 0;
	record = uio_bpf_ring_reserve(as_map(a[1]), a[2]);
	if (record == NULL)
		return 0;
	memset(record, 0, a[2]); /* what the last record held is not this program's business */
	vm->grant_map[vm->grants] = as_map(a[1]);
	grant = &vm->grant[vm->grants++];
	grant->base = (uintptr_t)record;
	grant->size = a[2];
	grant->rights = BPF_READ | BPF_WRITE;
	return (uintptr_t)record;
}

static void end_record(struct bpf_vm *vm, uint64_t record, bool discard)
{
	unsigned int i = 0;

	while (vm->grant[i].base != record)
		i++; /* the machine has seen that it is there */
	uio_bpf_ring_commit(vm->grant_map[i], as_ptr(record), discard);
	vm->grants--;
	vm->grant[i] = vm->grant[vm->grants];
	vm->grant_map[i] = vm->grant_map[vm->grants];
}

static uint64_t ringbuf_submit(struct bpf_vm *vm, const uint64_t *a)
{
	end_record(vm, a[1], false);
	return 0;
}

static uint64_t ringbuf_discard(struct bpf_vm *vm, const uint64_t *a)
{
	end_record(vm, a[1], true);
	return 0;
}

/* ---- the application, and programs that are commands ---- */

static uint64_t send_signal(struct bpf_vm *vm, const uint64_t *a)
{
	if (a[1] < 1 || a[1] > 64)
		return err(-EINVAL);
	return vm->env->signal ? err(vm->env->signal((int)a[1])) : err(-ENOSYS);
}

static uint64_t exec_arg(struct bpf_vm *vm, const uint64_t *a)
{
	int len = -ENOSYS;

	memset(as_ptr(a[2]), 0, a[3]);
	if (vm->env->exec_arg)
		len = vm->env->exec_arg(vm->cookie, (unsigned int)a[1], as_ptr(a[2]), a[3]);
	return err(len);
}

/* ---- the table ---- */

#define K(kind)  (1u << BPF_KIND_##kind)
#define K_FUNC   (K(ENTRY) | K(RETURN))
#define K_ALL    (K_FUNC | K(TIMER) | K(EXEC))
#define M(type)  (1u << BPF_MAP_##type)
#define M_HASHES (M(HASH) | M(LRU_HASH))
#define M_KEYED  (M_HASHES | M(ARRAY) | M(THREAD_ARRAY))
#define ARGS(...)                                                                                  \
	{                                                                                          \
		__VA_ARGS__                                                                        \
	}

#define ANY    BPF_ARG_ANY
#define CTX    BPF_ARG_CTX
#define MAP    BPF_ARG_MAP
#define KEY    BPF_ARG_KEY
#define VALUE  BPF_ARG_VALUE
#define READ   BPF_ARG_READ
#define WRITE  BPF_ARG_WRITE
#define SIZE   BPF_ARG_SIZE
#define SIZE0  BPF_ARG_SIZE0
#define U64    BPF_ARG_U64
#define RECORD BPF_ARG_RECORD

/* clang-format off */
const struct bpf_helper uio_bpf_helpers[] = {
	{1, "map_lookup_elem", map_lookup_elem, BPF_RET_VALUE, ARGS(MAP, KEY), K_ALL, M_KEYED},
	{2, "map_update_elem", map_update_elem, BPF_RET_NUMBER, ARGS(MAP, KEY, VALUE, ANY), K_ALL, M_KEYED},
	{3, "map_delete_elem", map_delete_elem, BPF_RET_NUMBER, ARGS(MAP, KEY), K_ALL, M_HASHES},
	{5, "ktime_get_ns", ktime_get_ns, BPF_RET_NUMBER, ARGS(0), K_ALL, 0},
	{6, "trace_printk", trace_printk, BPF_RET_NUMBER, ARGS(READ, SIZE, ANY, ANY, ANY), K_ALL, 0},
	{7, "get_prandom_u32", get_prandom_u32, BPF_RET_NUMBER, ARGS(0), K_ALL, 0},
	{16, "get_current_comm", get_current_comm, BPF_RET_NUMBER, ARGS(WRITE, SIZE), K_ALL, 0},
	{27, "get_stackid", get_stackid, BPF_RET_NUMBER, ARGS(CTX, MAP, ANY), K_FUNC, M(STACK)},
	{109, "send_signal", send_signal, BPF_RET_NUMBER, ARGS(ANY), K_ALL, 0},
	{113, "probe_read_kernel", probe_read_kernel, BPF_RET_NUMBER, ARGS(WRITE, SIZE0, ANY), K_ALL, 0},
	{115, "probe_read_kernel_str", probe_read_kernel_str, BPF_RET_NUMBER, ARGS(WRITE, SIZE0, ANY), K_ALL, 0},
	{130, "ringbuf_output", ringbuf_output, BPF_RET_NUMBER, ARGS(MAP, READ, SIZE, ANY), K_ALL, M(RINGBUF)},
	{131, "ringbuf_reserve", ringbuf_reserve, BPF_RET_RECORD, ARGS(MAP, SIZE, ANY), K_ALL, M(RINGBUF)},
	{132, "ringbuf_submit", ringbuf_submit, BPF_RET_VOID, ARGS(RECORD, ANY), K_ALL, 0},
	{133, "ringbuf_discard", ringbuf_discard, BPF_RET_VOID, ARGS(RECORD, ANY), K_ALL, 0},
	{173, "get_func_ip", get_func_ip, BPF_RET_NUMBER, ARGS(CTX), K_FUNC, 0},
	{177, "trace_vprintk", trace_vprintk, BPF_RET_NUMBER, ARGS(READ, SIZE, READ, SIZE0), K_ALL, 0},
	{183, "get_func_arg", get_func_arg, BPF_RET_NUMBER, ARGS(CTX, ANY, U64), K_FUNC, 0},
	{184, "get_func_ret", get_func_ret, BPF_RET_NUMBER, ARGS(CTX, U64), K(RETURN), 0},
	{185, "get_func_arg_cnt", get_func_arg_cnt, BPF_RET_NUMBER, ARGS(CTX), K_FUNC, 0},
	{1000, "thread_id", thread_id, BPF_RET_NUMBER, ARGS(0), K_ALL, 0},
	{1001, "exec_arg", exec_arg, BPF_RET_NUMBER, ARGS(ANY, WRITE, SIZE), K(EXEC), 0},
	{1002, "log2", log2_of, BPF_RET_NUMBER, ARGS(ANY), K_ALL, 0},
	{1003, "map_add", map_add, BPF_RET_NUMBER, ARGS(MAP, KEY, ANY), K_ALL, M_KEYED},
	{1004, "strings_compare", strings_compare, BPF_RET_NUMBER, ARGS(READ, SIZE, READ, SIZE), K_ALL, 0},
};
/* clang-format on */
const uint32_t uio_bpf_nhelpers = sizeof(uio_bpf_helpers) / sizeof(uio_bpf_helpers[0]);

const struct bpf_helper *uio_bpf_helper(uint32_t id)
{
	for (uint32_t i = 0; i < uio_bpf_nhelpers; i++)
		if (uio_bpf_helpers[i].id == id)
			return &uio_bpf_helpers[i];
	return NULL;
}
