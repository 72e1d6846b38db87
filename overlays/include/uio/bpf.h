/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For eBPF programs that run in a unikernel with uIO, compiled with
 * `uioctl bpf build` or clang -O2 -g -target bpf. A program is a function in a
 * section that says when it runs:
 *
 *	UIO_ENTRY("set_count") int hit(struct uio_ctx *ctx) { … }
 *
 * It calls only the helpers below, touches only its stack, its maps, its
 * globals and what a helper gave it, and ends within its budget. A map:
 *
 *	UIO_MAP(hits, UIO_MAP_HASH, uint64_t, struct stat, 1024);
 *	…
 *	struct stat *s = uio_map_lookup(&hits, &key);
 */
#ifndef UIO_OVERLAY_BPF_H
#define UIO_OVERLAY_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UIO_SEC(name) __attribute__((section(name), used))

/* When a program runs: at the entry or return of a function, … */
#define UIO_ENTRY(function)  UIO_SEC("uio/entry:" function)
#define UIO_RETURN(function) UIO_SEC("uio/return:" function)
/* … every so often ("10ms", "1s", "250us"), or as a command. */
#define UIO_TIMER(period) UIO_SEC("uio/timer:" period)
#define UIO_EXEC          UIO_SEC("uio/exec")

#define UIO_INLINE static inline __attribute__((always_inline, unused))

/** The context of every program; it cannot be written. */
struct uio_ctx {
	uint64_t ip;         /* entry, return: address of the function */
	uint64_t args[6];    /* entry, return: its arguments; timer: [0] ticks; exec: [0] argc */
	uint64_t ret;        /* return: what it returned */
	uint64_t elapsed_ns; /* return: time since its entry */
	uint64_t caller;     /* entry, return: where it returns to */
	uint64_t sp, fp;     /* entry, return: at the first instruction */
	uint32_t thread;     /* id of the running thread */
	uint32_t kind;       /* 1 entry, 2 return, 3 timer, 4 exec */
};

#define UIO_ARG(ctx, n, type) ((type)(ctx)->args[n])
#define UIO_RET(ctx, type)    ((type)(ctx)->ret)

/* ---- maps ---- */

enum uio_map_type {
	UIO_MAP_ARRAY = 1,
	UIO_MAP_HASH = 2,
	UIO_MAP_THREAD_ARRAY = 3, /* an array per thread */
	UIO_MAP_LRU_HASH = 4,
	UIO_MAP_RINGBUF = 5,
	UIO_MAP_STACK = 6,
};

struct uio_map_def {
	uint32_t type, key_size, value_size, max_entries, flags;
};

#define UIO_MAP(name, map_type, key_t, value_t, entries)                                           \
	struct {                                                                                   \
		struct uio_map_def def;                                                            \
		key_t *key;                                                                        \
		value_t *value;                                                                    \
	} name UIO_SEC(".maps") = {                                                                \
		.def = {map_type, sizeof(key_t), sizeof(value_t), entries, 0},                     \
	}

/** A ring buffer of that many bytes, a power of two. */
#define UIO_RINGBUF(name, bytes)                                                                   \
	struct {                                                                                   \
		struct uio_map_def def;                                                            \
	} name UIO_SEC(".maps") = {.def = {UIO_MAP_RINGBUF, 0, 0, bytes, 0}}

/** Stacks of up to depth return addresses. */
#define UIO_STACKS(name, depth, entries)                                                           \
	struct {                                                                                   \
		struct uio_map_def def;                                                            \
	} name UIO_SEC(".maps") = {.def = {UIO_MAP_STACK, 4, 8 * (depth), entries, 0}}

/* libbpf's notation works too, with the types of enum uio_map_type. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) __typeof__(val) *name

#define UIO_ANY     0
#define UIO_NOEXIST 1
#define UIO_EXIST   2

/* ---- helpers by number; the typed macros behind them are what programs use ---- */

#define UIO_HELPER(number, ret, name, ...) static ret (*const name)(__VA_ARGS__) = (void *)(number)

UIO_HELPER(1, void *, uio_bpf_map_lookup_elem, void *map, const void *key);
UIO_HELPER(2, long, uio_bpf_map_update_elem, void *map, const void *key, const void *value,
	   uint64_t flags);
UIO_HELPER(3, long, uio_bpf_map_delete_elem, void *map, const void *key);
UIO_HELPER(1003, long, uio_bpf_map_add, void *map, const void *key, uint64_t delta);
UIO_HELPER(130, long, uio_bpf_ringbuf_output, void *ring, const void *data, uint64_t size,
	   uint64_t flags);
UIO_HELPER(131, void *, uio_bpf_ringbuf_reserve, void *ring, uint64_t size, uint64_t flags);
UIO_HELPER(132, void, uio_bpf_ringbuf_submit, void *record, uint64_t flags);
UIO_HELPER(133, void, uio_bpf_ringbuf_discard, void *record, uint64_t flags);
UIO_HELPER(27, long, uio_bpf_get_stackid, void *ctx, void *map, uint64_t flags);
UIO_HELPER(6, long, uio_bpf_trace_printk, const char *format, uint32_t size, ...);
UIO_HELPER(177, long, uio_bpf_trace_vprintk, const char *format, uint32_t size, const void *args,
	   uint32_t args_size);

/** Monotonic nanoseconds since boot. */
UIO_HELPER(5, uint64_t, uio_ktime_ns, void);
UIO_HELPER(7, uint32_t, uio_random_u32, void);
/** Id of the running thread. */
UIO_HELPER(1000, uint64_t, uio_thread_id, void);
/** Its name, NUL-terminated. */
UIO_HELPER(16, long, uio_thread_name, char *buf, uint32_t size);
/** Copy size bytes from any address of the kernel; -14 (EFAULT) and zeros if it faults. */
UIO_HELPER(113, long, uio_probe_read, void *to, uint32_t size, const void *from);
/** Copy a string: its length with the NUL, or -14. */
UIO_HELPER(115, long, uio_probe_read_str, char *to, uint32_t size, const void *from);
/** Deliver a signal to the application. */
UIO_HELPER(109, long, uio_signal, uint32_t sig);
/** Address of the traced function; argument n (0 to 5) of it; what it returned. */
UIO_HELPER(173, uint64_t, uio_func_ip, struct uio_ctx *ctx);
UIO_HELPER(183, long, uio_func_arg, struct uio_ctx *ctx, uint32_t n, uint64_t *value);
UIO_HELPER(184, long, uio_func_ret, struct uio_ctx *ctx, uint64_t *value);
/** Argument n of a command as a string: its length, or negative. */
UIO_HELPER(1001, long, uio_exec_arg, uint32_t n, char *buf, uint32_t size);
/** 0 for 0, else 1 + floor(log2(x)): the slot of a histogram by powers of two. */
UIO_HELPER(1002, uint64_t, uio_log2, uint64_t x);
/** Compare two strings in memory of the program, as strcmp() does. */
UIO_HELPER(1004, long, uio_strings_compare, const char *s, uint32_t s_size, const char *t,
	   uint32_t t_size);

/* ---- typed ---- */

#define UIO_MAP_KEY(map, k)                                                                        \
	({                                                                                         \
		__typeof__((map)->key) uio_key = (k);                                              \
		(const void *)uio_key;                                                             \
	})

/** The value of a key, or NULL: test it before use. */
#define uio_map_lookup(map, k)                                                                     \
	((__typeof__((map)->value))uio_bpf_map_lookup_elem((map), UIO_MAP_KEY(map, k)))
/** 0 or a negative errno. */
#define uio_map_update(map, k, v, flags)                                                           \
	({                                                                                         \
		__typeof__((map)->value) uio_value = (v);                                          \
		uio_bpf_map_update_elem((map), UIO_MAP_KEY(map, k), uio_value, (flags));           \
	})
#define uio_map_delete(map, k) uio_bpf_map_delete_elem((map), UIO_MAP_KEY(map, k))
/** Add to the first 8 bytes of a value, which begins as zero. */
#define uio_map_add(map, k, delta) uio_bpf_map_add((map), UIO_MAP_KEY(map, k), (delta))

/** Send a copy of *record to the host. */
#define uio_ring_output(ring, record) uio_bpf_ringbuf_output((ring), (record), sizeof(*(record)), 0)
/** A record to be filled and then submitted or discarded; NULL when there is no room. */
#define uio_ring_reserve(ring, type) ((type *)uio_bpf_ringbuf_reserve((ring), sizeof(type), 0))
#define uio_ring_submit(record)      uio_bpf_ringbuf_submit((record), 0)
#define uio_ring_discard(record)     uio_bpf_ringbuf_discard((record), 0)

/** Id of the running stack in a map of stacks, without its skip innermost functions. */
#define uio_stack_id(ctx, stacks, skip) uio_bpf_get_stackid((ctx), (stacks), (skip))

/** printf with up to 12 arguments; needs a constant format. */
#define uio_printk(format, ...)                                                                    \
	({                                                                                         \
		static const char uio_format[] = (format);                                         \
		const uint64_t uio_args[] = {UIO_EACH_U64(__VA_ARGS__)};                           \
		uio_bpf_trace_vprintk(uio_format, sizeof(uio_format), uio_args, sizeof(uio_args)); \
	})

/* Each of up to 12 arguments, cast to uint64_t. */
#define UIO_EACH_U64(...)                                                                          \
	UIO_EACH_PICK(_, ##__VA_ARGS__, UIO_E12, UIO_E11, UIO_E10, UIO_E9, UIO_E8, UIO_E7, UIO_E6, \
		      UIO_E5, UIO_E4, UIO_E3, UIO_E2, UIO_E1, UIO_E0)                              \
	(__VA_ARGS__)
#define UIO_EACH_PICK(_, a, b, c, d, e, f, g, h, i, j, k, l, n, ...) n
#define UIO_E0()
#define UIO_E1(a)       (uint64_t)(a)
#define UIO_E2(a, ...)  (uint64_t)(a), UIO_E1(__VA_ARGS__)
#define UIO_E3(a, ...)  (uint64_t)(a), UIO_E2(__VA_ARGS__)
#define UIO_E4(a, ...)  (uint64_t)(a), UIO_E3(__VA_ARGS__)
#define UIO_E5(a, ...)  (uint64_t)(a), UIO_E4(__VA_ARGS__)
#define UIO_E6(a, ...)  (uint64_t)(a), UIO_E5(__VA_ARGS__)
#define UIO_E7(a, ...)  (uint64_t)(a), UIO_E6(__VA_ARGS__)
#define UIO_E8(a, ...)  (uint64_t)(a), UIO_E7(__VA_ARGS__)
#define UIO_E9(a, ...)  (uint64_t)(a), UIO_E8(__VA_ARGS__)
#define UIO_E10(a, ...) (uint64_t)(a), UIO_E9(__VA_ARGS__)
#define UIO_E11(a, ...) (uint64_t)(a), UIO_E10(__VA_ARGS__)
#define UIO_E12(a, ...) (uint64_t)(a), UIO_E11(__VA_ARGS__)

#endif /* UIO_OVERLAY_BPF_H */
