/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The eBPF machine of libuio: programs that touch only the memory they were
 * given, call only helpers and end within a budget, whatever their bytes are.
 * What the machine needs of the world is in struct bpf_env; who attaches
 * programs to what is not decided here. See docs/bpf.md.
 *
 * A struct bpf_vm runs one program at a time. Objects and maps may be used by
 * several machines at once if env->lock excludes them from each other.
 */
#ifndef UIO_BPF_H
#define UIO_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf_isa.h"

#define BPF_FRAME_SIZE 512u /* bytes of stack per function */
#define BPF_MAX_FRAMES 8u
#define BPF_MAX_GRANTS 4u     /* ring buffer records a run holds at once */
#define BPF_MAX_MAPS   64u    /* per object */
#define BPF_MAX_PROGS  64u    /* per object */
#define BPF_MAX_INSNS  65536u /* per object */
#define BPF_NAME_MAX   32u    /* with the NUL */
#define BPF_TARGET_MAX 128u   /* name of an attached function, with the NUL */

#define BPF_READ  1u
#define BPF_WRITE 2u

/* ---- what the machine asks of the world ---- */

struct bpf_map;
struct bpf_vm;

/* The context of every program, read-only for it. */
struct bpf_ctx {
	uint64_t ip; /* entry, return: address of the function */
	uint64_t
		args[6]; /* entry, return: its arguments; timer: [0] ticks so far; exec: [0] argc */
	uint64_t ret;    /* return: what it returned */
	uint64_t elapsed_ns; /* return: time since its entry */
	uint64_t caller;     /* entry, return: where it returns to */
	uint64_t sp, fp;     /* entry, return: at the first instruction */
	uint32_t thread;     /* id of the running thread */
	uint32_t kind;       /* enum bpf_kind */
};

/**
 * Calls may come in whatever context programs are run in. A call that is
 * NULL makes the helpers that need it return -ENOSYS; now is required.
 */
struct bpf_env {
	uint64_t (*now)(void); /* monotonic nanoseconds */
	/** Text of the print helpers; cookie is the run's. */
	void (*print)(void *cookie, const char *text, size_t len);
	/** Copy from any address; a fault ends it with -EFAULT. */
	int (*probe_read)(void *dst, uint64_t src, size_t len);
	int (*signal)(int sig); /* to the application */
	uint32_t (*thread)(void);
	/** Name of the running thread into buf, NUL-terminated. */
	void (*thread_name)(char *buf, size_t len);
	/** Return addresses, innermost first; how many. */
	size_t (*stack)(const struct bpf_ctx *ctx, uint64_t *pc, size_t max);
	/** Argument n of an exec program as a string: its length, or -ENOENT. */
	int (*exec_arg)(void *cookie, unsigned int n, char *buf, size_t len);
	/** A ring buffer has something to read. */
	void (*wake)(struct bpf_map *ring);
	/** Exclude all other users of maps for a short time. May both be NULL. */
	uintptr_t (*lock)(void);
	void (*unlock)(uintptr_t key);
};

/* ---- maps ---- */

enum bpf_map_type {
	BPF_MAP_ARRAY = 1,
	BPF_MAP_HASH,
	BPF_MAP_THREAD_ARRAY, /* an array per thread */
	BPF_MAP_LRU_HASH,
	BPF_MAP_RINGBUF,
	BPF_MAP_STACK, /* id -> return addresses */
	BPF_MAP_NTYPES,
};

#define BPF_MAP_RDONLY 1u /* programs cannot write its values */

struct bpf_map_def {
	uint32_t type, key_size, value_size, max_entries, flags;
	char name[BPF_NAME_MAX];
};

#define BPF_THREAD_SLOTS 32u /* threads that a per-thread array tells apart */

/* Update flags. */
#define BPF_ANY     0u
#define BPF_NOEXIST 1u
#define BPF_EXIST   2u

/* Read by the checks and helpers; changed by bpf_map.c alone. */
struct bpf_map {
	struct bpf_map_def def;
	const struct bpf_env *env;
	size_t bytes; /* of memory, this struct included */
	/* Values lie at values + i * stride; programs may touch value_size of each. */
	uint8_t *values;
	size_t span; /* bytes of all values */
	uint32_t stride;
	uint32_t count; /* entries in use */
	uint64_t drops; /* inserts or records refused for want of space */
	/* hash kinds, per entry and per bucket */
	uint8_t *keys;
	uint32_t key_stride;
	uint32_t *hash, *next, *newer, *older, *bucket;
	uint32_t buckets, free, newest, oldest;
	/* per-thread array */
	uint32_t thread[BPF_THREAD_SLOTS];
	uint32_t threads;
	/* ring buffer: positions count bytes for ever */
	uint64_t head, tail;
};

/** 0, -EINVAL, -ENOMEM, -E2BIG. Memory is taken once, here. */
int uio_bpf_map_create(struct bpf_map **out, const struct bpf_map_def *def,
		       const struct bpf_env *env, size_t max_bytes);
void uio_bpf_map_destroy(struct bpf_map *map);
/** Bytes of memory a map of this kind takes; 0: the definition is not valid. */
size_t uio_bpf_map_bytes(const struct bpf_map_def *def);

/** The value of a key or NULL. A value stays where it is as long as the map. */
void *uio_bpf_map_lookup(struct bpf_map *map, const void *key);
/** 0, -EEXIST, -ENOENT, -E2BIG when full, -EINVAL. */
int uio_bpf_map_update(struct bpf_map *map, const void *key, const void *value, uint64_t flags);
int uio_bpf_map_delete(struct bpf_map *map, const void *key);
/** Add to the first 8 bytes of a value, which comes into being as zero. */
int uio_bpf_map_add(struct bpf_map *map, const void *key, uint64_t delta);
/**
 * The entry at or after *cursor (start with 0), and *cursor behind it. Key
 * and value are copied; thread gets the thread id of a per-thread array's
 * entry. false: no more.
 */
bool uio_bpf_map_next(struct bpf_map *map, uint64_t *cursor, void *key, void *value,
		      uint32_t *thread);
/** Forget all entries. */
void uio_bpf_map_clear(struct bpf_map *map);

/** A record of a ring buffer for writing; NULL when it is full. */
void *uio_bpf_ring_reserve(struct bpf_map *ring, uint64_t size);
void uio_bpf_ring_commit(struct bpf_map *ring, void *record, bool discard);
/** The next record's bytes into buf: its length, 0 none, -EMSGSIZE if len is too small. */
int64_t uio_bpf_ring_read(struct bpf_map *ring, void *buf, size_t len);

/** Id of a stack in a stack map: 0 or more, -EEXIST on a collision, -EINVAL. */
int64_t uio_bpf_stack_id(struct bpf_map *map, const uint64_t *pc, size_t depth, uint64_t flags);
#define BPF_STACK_SKIP_MASK 0xffu
#define BPF_STACK_REUSE     0x400u /* on a collision forget the other one */

/* ---- programs and objects ---- */

enum bpf_kind {
	BPF_KIND_ENTRY = 1,
	BPF_KIND_RETURN,
	BPF_KIND_TIMER,
	BPF_KIND_EXEC,
	BPF_KIND_NKINDS,
};

struct bpf_object;

struct bpf_prog {
	struct bpf_object *object;
	struct bpf_insn *insns; /* checked and linked */
	uint32_t count;
	enum bpf_kind kind;
	uint64_t period_ns; /* timer */
	uint64_t max_insns; /* budget of one run */
	uint64_t max_ns;    /* likewise; 0: none */
	char name[BPF_NAME_MAX];
	char target[BPF_TARGET_MAX];
	/* Machine code for the same, or NULL. It keeps the contract of uio_bpf_run(). */
	int (*native)(struct bpf_vm *vm, const struct bpf_prog *prog, uint64_t *r0);
	uint64_t runs, faults; /* kept by uio_bpf_run() */
};

struct bpf_object {
	char name[BPF_NAME_MAX];
	const struct bpf_env *env;
	uint32_t nmaps, nprogs;
	size_t bytes; /* of memory, maps included */
	struct bpf_map *map[BPF_MAX_MAPS];
	struct bpf_prog *prog;
	struct bpf_insn *insns;
};

/* ---- running ---- */

enum bpf_status {
	BPF_OK = 0,
	BPF_STOP_INSNS,  /* the budget of instructions is used up */
	BPF_STOP_TIME,   /* the budget of time is used up */
	BPF_STOP_MEMORY, /* an access outside the program's memory, or without right */
	BPF_STOP_ALIGN,  /* an atomic access that is not aligned */
	BPF_STOP_CALL,   /* an unknown helper, or one this kind of program may not call */
	BPF_STOP_ARG,    /* a helper's argument is not what it must be */
	BPF_STOP_DEPTH,  /* too many nested calls */
	BPF_STOP_OPCODE, /* an instruction that is none (the check finds these before) */
};

/* A piece of memory with rights. */
struct bpf_window {
	uint64_t base, size;
	unsigned int rights;
};

/* Why and where a run was stopped. */
struct bpf_fault {
	enum bpf_status status;
	uint32_t pc;      /* index of the instruction */
	uint64_t address; /* MEMORY, ALIGN, ARG: the bad value */
	uint32_t size;    /* MEMORY: bytes wanted */
	uint8_t rights;   /* MEMORY: BPF_READ or BPF_WRITE */
	uint8_t arg;      /* ARG: which, 1-5 */
	uint32_t helper;  /* CALL, ARG: id */
};

struct bpf_vm {
	const struct bpf_env *env;
	const struct bpf_prog *prog;
	void *cookie; /* of this run, for env */
	/** Makes the context complete, before it is looked at for the first time. NULL: it is. */
	void (*complete)(void *ctx);
	struct bpf_window stack, ctx;
	struct bpf_window value; /* the map value touched last */
	struct bpf_window grant[BPF_MAX_GRANTS];
	struct bpf_map *grant_map[BPF_MAX_GRANTS];
	unsigned int grants;
	uint32_t random;
	uint64_t used; /* instructions of the last run */
	struct bpf_fault fault;
	/* Never cleared: what an earlier run left may be read by a program that is not verified. */
	_Alignas(16) uint8_t frames[BPF_MAX_FRAMES * BPF_FRAME_SIZE];
};

/** Prepare a machine; it needs no end. */
void uio_bpf_vm_init(struct bpf_vm *vm, const struct bpf_env *env);

/**
 * Run a program with r1 = ctx and r2 = its size. 0 with *r0, else an enum
 * bpf_status with details in vm->fault. Takes no memory, never blocks.
 * Memory of ctx may be read, and written if ctx_rights says so.
 */
int uio_bpf_run(struct bpf_vm *vm, struct bpf_prog *prog, void *ctx, size_t ctx_size,
		unsigned int ctx_rights, uint64_t *r0);

/** A status in words. */
const char *uio_bpf_status_text(int status);

/**
 * The one place that decides whether a program may touch [addr, addr + size):
 * its frames, its context, values of its object's maps, granted records.
 * size is at least 1.
 */
bool uio_bpf_may(struct bpf_vm *vm, uint64_t addr, uint64_t size, unsigned int rights);

/* ---- the check before the first run (bpf_check.c) ---- */

struct bpf_check_error {
	uint32_t pc;
	const char *what;
};

/**
 * Every instruction is one of the set with its unused fields zero, registers
 * exist, r10 is not written, jumps stay inside their function and never hit the second
 * half of a 64-bit load, no function runs off its end, maps and helpers
 * exist. 0, or -EINVAL with the reason. The machine relies on all of it.
 * scratch is memory of BPF_CHECK_SCRATCH(count) bytes.
 */
int uio_bpf_check(const struct bpf_insn *insns, uint32_t count, enum bpf_kind kind,
		  struct bpf_map *const maps[], uint32_t nmaps, uint8_t *scratch,
		  struct bpf_check_error *err);
#define BPF_CHECK_SCRATCH(count) ((count) / 4u + 1u)

/** Make checked instructions runnable: maps and helpers by number become what the machine wants. */
void uio_bpf_link(struct bpf_insn *insns, uint32_t count, struct bpf_map *const maps[]);

/* ---- helpers (bpf_helpers.c) ---- */

enum bpf_arg {
	BPF_ARG_NONE = 0,
	BPF_ARG_ANY,    /* a number */
	BPF_ARG_CTX,    /* the context */
	BPF_ARG_MAP,    /* a map of one of the helper's types */
	BPF_ARG_KEY,    /* key_size readable bytes */
	BPF_ARG_VALUE,  /* value_size readable bytes */
	BPF_ARG_READ,   /* readable bytes; the next argument is how many */
	BPF_ARG_WRITE,  /* writable bytes; the next argument is how many */
	BPF_ARG_SIZE,   /* 1 to BPF_MAX_SIZE */
	BPF_ARG_SIZE0,  /* 0 to BPF_MAX_SIZE; with 0 the pointer is not looked at */
	BPF_ARG_U64,    /* 8 writable bytes */
	BPF_ARG_RECORD, /* a record of a ring buffer that this run holds */
};

enum bpf_ret {
	BPF_RET_VOID = 0,
	BPF_RET_NUMBER,
	BPF_RET_VALUE,  /* a map's value or NULL */
	BPF_RET_RECORD, /* a record of arg 2 bytes or NULL */
};

#define BPF_MAX_SIZE 4096u /* bytes a helper reads or writes at most */

/* Only checked arguments reach call(): arg[1] to arg[5]. */
struct bpf_helper {
	uint32_t id;
	const char *name;
	uint64_t (*call)(struct bpf_vm *vm, const uint64_t *arg);
	uint8_t ret;
	uint8_t arg[5];
	uint8_t kinds; /* bit per enum bpf_kind */
	uint8_t maps;  /* bit per enum bpf_map_type */
};

extern const struct bpf_helper uio_bpf_helpers[];
extern const uint32_t uio_bpf_nhelpers;

/** NULL: no such helper. */
const struct bpf_helper *uio_bpf_helper(uint32_t id);

/**
 * Format printf-like: %d %i %u %x %X %o %c %p %s %%, with flags 0 and -,
 * width, and length letters, which are ignored for %s %c %p. %s is an address read with
 * env->probe_read. Returns the length, always NUL-terminated, cut to len.
 */
size_t uio_bpf_format(const struct bpf_env *env, char *buf, size_t len, const char *fmt,
		      size_t fmt_len, const uint64_t *args, unsigned int nargs);

/* Handle of map i as programs hold it: a number that is no address. */
#define BPF_MAP_HANDLE(i) (0xb9f0000000000000u | (i))

#endif /* UIO_BPF_H */
