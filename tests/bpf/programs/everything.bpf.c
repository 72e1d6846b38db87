/* SPDX-License-Identifier: BSD-3-Clause */
/* One program of each kind, every kind of map and global, functions, loops: what clang makes of
 * uio/bpf.h. */
#include <uio/bpf.h>

struct stat {
	uint64_t hits, total;
	uint32_t last, zero; /* no padding: the verifier wants every byte written */
};

struct event {
	uint64_t when;
	int64_t value;
	char who[16];
};

UIO_MAP(stats, UIO_MAP_HASH, uint64_t, struct stat, 64);
UIO_MAP(recent, UIO_MAP_LRU_HASH, uint32_t, uint64_t, 8);
UIO_MAP(slots, UIO_MAP_ARRAY, uint32_t, uint64_t, 65);
UIO_MAP(per_thread, UIO_MAP_THREAD_ARRAY, uint32_t, uint64_t, 2);
UIO_RINGBUF(events, 4096);
UIO_STACKS(stacks, 16, 64);

struct {
	__uint(type, UIO_MAP_HASH);
	__uint(max_entries, 16);
	__type(key, uint32_t);
	__type(value, struct stat);
} by_btf UIO_SEC(".maps");

uint64_t calls = 5;
const volatile uint64_t threshold = 3;
static uint64_t seen;

static __attribute__((noinline)) uint64_t weight(uint64_t x)
{
	seen++;
	return x > threshold ? x * 2 : 1;
}

UIO_ENTRY("set_count") int count_entries(struct uio_ctx *ctx)
{
	uint64_t key = UIO_ARG(ctx, 0, uint64_t);
	struct stat *s = uio_map_lookup(&stats, &key);
	struct stat first = {.hits = 1, .total = key, .last = ctx->thread};

	calls++;
	if (s) {
		s->hits++;
		s->total += weight(key);
		s->last = ctx->thread;
	} else {
		uio_map_update(&stats, &key, &first, UIO_ANY);
	}
	return 0;
}

UIO_ENTRY("set_count") int count_again(struct uio_ctx *ctx)
{
	uint32_t thread = ctx->thread, zero = 0;
	uint64_t one = 1;

	uio_map_update(&recent, &thread, &one, UIO_ANY);
	uio_map_add(&per_thread, &zero, 1);
	uio_stack_id(ctx, &stacks, 0);
	return (int)weight(ctx->args[1]);
}

UIO_RETURN("set_count") int measure(struct uio_ctx *ctx)
{
	uint32_t slot = (uint32_t)uio_log2(ctx->elapsed_ns);
	struct event *e;

	uio_map_add(&slots, &slot, 1);
	e = uio_ring_reserve(&events, struct event);
	if (!e)
		return 1;
	e->when = uio_ktime_ns();
	e->value = UIO_RET(ctx, int64_t);
	uio_thread_name(e->who, sizeof(e->who));
	if (e->value < 0)
		uio_ring_discard(e);
	else
		uio_ring_submit(e);
	return 0;
}

UIO_TIMER("10ms") int tick(struct uio_ctx *ctx)
{
	uint32_t key = 7;
	struct stat s = {0};
	uint64_t sum = 0;

	for (uint32_t i = 0; i < 65; i++) {
		uint64_t *v = uio_map_lookup(&slots, &i);

		if (v)
			sum += *v;
	}
	s.total = sum;
	s.hits = ctx->args[0];
	uio_map_update(&by_btf, &key, &s, UIO_ANY);
	return 0;
}

UIO_EXEC int report(struct uio_ctx *ctx)
{
	char name[16];

	if (uio_exec_arg(0, name, sizeof(name)) < 0)
		return 1;
	uio_printk("calls %lu of %s, %d arguments\n", calls, (uint64_t)name, ctx->args[0]);
	uio_printk("done\n");
	return (int)seen;
}
