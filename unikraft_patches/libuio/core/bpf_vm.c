/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The interpreter: RFC 9669 as one switch, in the order of the document. The
 * instructions have passed uio_bpf_check(), so registers and jump targets are
 * not looked at again; every memory access goes through uio_bpf_may().
 */
#include <errno.h>
#include <string.h>

#include "bpf.h"

#define TIME_CHECK_INSNS 4096 /* instructions between two looks at the clock */

struct frame {
	const struct bpf_insn *ret;
	uint64_t saved[4]; /* r6 to r9 */
};

static bool window_has(const struct bpf_window *w, uint64_t addr, uint64_t size,
		       unsigned int rights)
{
	uint64_t offset = addr - w->base;

	return offset < w->size && size <= w->size - offset && (w->rights & rights) == rights;
}

/* Not the value touched last: look at all maps. */
static bool find_value(struct bpf_vm *vm, uint64_t addr, uint64_t size, unsigned int rights)
{
	const struct bpf_object *object = vm->prog->object;

	for (uint32_t i = 0; i < object->nmaps; i++) {
		const struct bpf_map *map = object->map[i];
		uint64_t offset = addr - (uintptr_t)map->values;
		struct bpf_window value;

		if (offset >= map->span)
			continue;
		value.base = addr - offset % map->stride;
		value.size = map->def.value_size;
		value.rights = BPF_READ | (map->def.flags & BPF_MAP_RDONLY ? 0 : BPF_WRITE);
		if (!window_has(&value, addr, size, rights))
			return false;
		vm->value = value;
		return true;
	}
	return false;
}

static void complete(struct bpf_vm *vm)
{
	if (!vm->complete)
		return;
	vm->complete((void *)(uintptr_t)vm->ctx.base);
	vm->complete = NULL;
}

bool uio_bpf_may(struct bpf_vm *vm, uint64_t addr, uint64_t size, unsigned int rights)
{
	if (window_has(&vm->stack, addr, size, rights) ||
	    window_has(&vm->value, addr, size, rights))
		return true;
	if (window_has(&vm->ctx, addr, size, rights)) {
		complete(vm);
		return true;
	}
	for (unsigned int i = 0; i < vm->grants; i++)
		if (window_has(&vm->grant[i], addr, size, rights))
			return true;
	return find_value(vm, addr, size, rights);
}

/* The same, without a call for what most accesses are to. */
static inline bool may(struct bpf_vm *vm, uint64_t addr, uint64_t size, unsigned int rights)
{
	uint64_t offset = addr - vm->stack.base;

	if (offset < vm->stack.size && size <= vm->stack.size - offset)
		return true;
	return uio_bpf_may(vm, addr, size, rights);
}

static int64_t sdiv(int64_t a, int64_t b)
{
	if (b == 0)
		return 0;
	return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
}

static int64_t smod(int64_t a, int64_t b)
{
	if (b == 0)
		return a;
	return b == -1 ? 0 : a % b;
}

/* The low bits of x in the byte order of the instruction; bits is 16, 32 or 64. */
static uint64_t swapped(uint64_t x, int32_t bits)
{
	if (bits == 16)
		return __builtin_bswap16((uint16_t)x);
	if (bits == 32)
		return __builtin_bswap32((uint32_t)x);
	return __builtin_bswap64(x);
}

static uint64_t truncated(uint64_t x, int32_t bits)
{
	return bits == 64 ? x : x & ((UINT64_C(1) << bits) - 1);
}

static uint64_t sign_extended(uint64_t x, int16_t bits)
{
	if (bits == 8)
		return (uint64_t)(int64_t)(int8_t)x;
	if (bits == 16)
		return (uint64_t)(int64_t)(int16_t)x;
	return (uint64_t)(int64_t)(int32_t)x;
}

static uint64_t combined(int32_t op, uint64_t old, uint64_t v, uint64_t expected)
{
	switch (op & ~BPF_FETCH) {
	case BPF_ADD:
		return old + v;
	case BPF_OR:
		return old | v;
	case BPF_AND:
		return old & v;
	case BPF_XOR:
		return old ^ v;
	case BPF_XCHG & ~BPF_FETCH:
		return v;
	default: /* BPF_CMPXCHG */
		return old == expected ? v : old;
	}
}

/* All operations as what the last of them is: an exchange if nothing has come between. */
static void atomic(uint64_t addr, bool wide, int32_t op, uint64_t *src, uint64_t *r0)
{
	uint64_t *p64 = (uint64_t *)(uintptr_t)addr;
	uint32_t *p32 = (uint32_t *)(uintptr_t)addr, old32;
	uint64_t old = wide ? *p64 : *p32, expected = wide ? *r0 : (uint32_t)*r0, v;
	bool done;

	do {
		v = combined(op, old, *src, expected);
		if (wide) {
			done = __atomic_compare_exchange_n(p64, &old, v, false, __ATOMIC_SEQ_CST,
							   __ATOMIC_SEQ_CST);
			continue;
		}
		old32 = (uint32_t)old;
		done = __atomic_compare_exchange_n(p32, &old32, (uint32_t)v, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		old = old32;
	} while (!done);
	if (op == BPF_CMPXCHG)
		*r0 = old;
	else if (op & BPF_FETCH)
		*src = old;
}

static int stop_arg(struct bpf_vm *vm, const struct bpf_helper *h, unsigned int n, uint64_t value)
{
	vm->fault.helper = h->id;
	vm->fault.arg = (uint8_t)n;
	vm->fault.address = value;
	return BPF_STOP_ARG;
}

/* Check arguments against the helper's row; maps and contexts become pointers. */
static int check_args(struct bpf_vm *vm, const struct bpf_helper *h, uint64_t *arg)
{
	const struct bpf_object *object = vm->prog->object;
	const struct bpf_map *map = NULL;

	for (unsigned int n = 1; n <= 5 && h->arg[n - 1] != BPF_ARG_NONE; n++) {
		enum bpf_arg kind = (enum bpf_arg)h->arg[n - 1];
		unsigned int rights = BPF_READ;
		uint64_t size = 0, v = arg[n];
		bool ok = true;

		/* By how often they occur; a jump table would cost more than what is in it. */
		if (kind == BPF_ARG_MAP) {
			ok = (v & ~UINT64_C(0xffffffff)) == BPF_MAP_HANDLE(0) &&
			     (uint32_t)v < object->nmaps;
			if (ok) {
				map = object->map[(uint32_t)v];
				ok = (h->maps >> map->def.type & 1) != 0;
				arg[n] = (uintptr_t)map;
			}
		} else if (kind == BPF_ARG_KEY) {
			size = map->def.key_size;
		} else if (kind == BPF_ARG_ANY) {
			continue;
		} else if (kind == BPF_ARG_VALUE) {
			size = map->def.value_size;
		} else if (kind == BPF_ARG_READ || kind == BPF_ARG_WRITE) {
			rights = kind == BPF_ARG_READ ? BPF_READ : BPF_WRITE;
			size = arg[n + 1];
			ok = size <= BPF_MAX_SIZE;
		} else if (kind == BPF_ARG_SIZE) {
			ok = v >= 1 && v <= BPF_MAX_SIZE;
		} else if (kind == BPF_ARG_SIZE0) {
			ok = v <= BPF_MAX_SIZE;
		} else if (kind == BPF_ARG_CTX) {
			ok = v == vm->ctx.base && vm->ctx.size >= sizeof(struct bpf_ctx);
			complete(vm);
		} else if (kind == BPF_ARG_U64) {
			size = sizeof(uint64_t);
			rights = BPF_WRITE;
		} else { /* BPF_ARG_RECORD */
			ok = false;
			for (unsigned int i = 0; i < vm->grants; i++)
				ok = ok || vm->grant[i].base == v;
		}
		if (!ok)
			return stop_arg(vm, h, n, v);
		if (size > 0 && !may(vm, v, size, rights)) {
			vm->fault.size = (uint32_t)size;
			vm->fault.rights = (uint8_t)rights;
			return stop_arg(vm, h, n, v);
		}
	}
	return 0;
}

static int call_helper(struct bpf_vm *vm, const struct bpf_helper *h, uint64_t *r)
{
	uint64_t arg[6];
	int status;

	if (!(h->kinds >> vm->prog->kind & 1)) {
		vm->fault.helper = h->id;
		return BPF_STOP_CALL;
	}
	for (unsigned int i = 1; i <= 5; i++)
		arg[i] = r[i];
	status = check_args(vm, h, arg);
	if (status == 0)
		r[0] = h->call(vm, arg);
	return status;
}

/* The frame that the next function runs in, and what lies above it. */
static void enter_frame(struct bpf_vm *vm, unsigned int depth)
{
	uint64_t top = (uintptr_t)vm->frames + sizeof(vm->frames);

	vm->stack.size = (depth + 1) * BPF_FRAME_SIZE;
	vm->stack.base = top - vm->stack.size;
}

/* An operation on 32 and on 64 bits. */
#define ALU_APART(OP, expr32, expr64)                                                              \
	case BPF_CODE(BPF_ALU | BPF_##OP): {                                                       \
		uint32_t a = (uint32_t)*dst, b = (uint32_t)src;                                    \
		*dst = (uint32_t)(expr32);                                                         \
		continue;                                                                          \
	}                                                                                          \
	case BPF_CODE(BPF_ALU64 | BPF_##OP): {                                                     \
		uint64_t a = *dst, b = src;                                                        \
		*dst = (uint64_t)(expr64);                                                         \
		continue;                                                                          \
	}
#define ALU(OP, expr) ALU_APART(OP, expr, expr)

/* Both widths of a conditional jump; the types carry the signedness. */
#define JUMP(OP, T32, T64, expr)                                                                   \
	case BPF_CODE(BPF_JMP | BPF_##OP): {                                                       \
		T64 a = (T64)*dst, b = (T64)src;                                                   \
		if (expr)                                                                          \
			goto jump;                                                                 \
		continue;                                                                          \
	}                                                                                          \
	case BPF_CODE(BPF_JMP32 | BPF_##OP): {                                                     \
		T32 a = (T32)*dst, b = (T32)src;                                                   \
		if (expr)                                                                          \
			goto jump;                                                                 \
		continue;                                                                          \
	}

#define STOP(why)                                                                                  \
	do {                                                                                       \
		status = (why);                                                                    \
		goto stopped;                                                                      \
	} while (0)

#define STOP_MEMORY(bytes, want)                                                                   \
	do {                                                                                       \
		vm->fault.address = addr;                                                          \
		vm->fault.size = (bytes);                                                          \
		vm->fault.rights = (want);                                                         \
		STOP(BPF_STOP_MEMORY);                                                             \
	} while (0)

#define LOAD(MODE, SIZE, T, convert)                                                               \
	case BPF_CODE(BPF_LDX | BPF_##MODE | BPF_##SIZE): {                                        \
		uint64_t addr = r[BPF_SRC(in)] + (uint64_t)(int64_t)in->offset;                    \
		T v;                                                                               \
		if (!may(vm, addr, sizeof(v), BPF_READ))                                           \
			STOP_MEMORY(sizeof(v), BPF_READ);                                          \
		memcpy(&v, (const void *)(uintptr_t)addr, sizeof(v));                              \
		*dst = (uint64_t)(convert)v;                                                       \
		continue;                                                                          \
	}

#define STORE(CLASS, SIZE, T, value)                                                               \
	case BPF_CODE(BPF_##CLASS | BPF_MEM | BPF_##SIZE): {                                       \
		uint64_t addr = *dst + (uint64_t)(int64_t)in->offset;                              \
		T v = (T)(value);                                                                  \
		if (!may(vm, addr, sizeof(v), BPF_WRITE))                                          \
			STOP_MEMORY(sizeof(v), BPF_WRITE);                                         \
		memcpy((void *)(uintptr_t)addr, &v, sizeof(v));                                    \
		continue;                                                                          \
	}

/*
 * The budget is charged at jumps, calls and exits, for the instructions since the last
 * one: straight code costs nothing, and what is overdrawn is less than a
 * program is long.
 */
#define CHARGE()                                                                                   \
	do {                                                                                       \
		left -= in + 1 - block;                                                            \
		if (left < 0)                                                                      \
			goto budget;                                                               \
	} while (0)

static inline __attribute__((always_inline)) int
interpret(struct bpf_vm *vm, const struct bpf_prog *prog, uint64_t *result)
{
	uint64_t r[16]; /* so that no register number can leave it */
	struct frame frame[BPF_MAX_FRAMES];
	unsigned int depth = 0;
	const struct bpf_insn *pc = prog->insns, *block = pc, *in;
	/* What may be used until the next look at the clock, and what remains beyond that. */
	int64_t slice =
		prog->max_insns < TIME_CHECK_INSNS ? (int64_t)prog->max_insns : TIME_CHECK_INSNS;
	int64_t left = slice;
	uint64_t budget = prog->max_insns - (uint64_t)slice;
	uint64_t deadline = 0; /* a short run never reads the clock */
	int status;

	/* What an earlier run left must not be seen. The rest are no registers. */
	r[0] = r[3] = r[4] = r[5] = r[6] = r[7] = r[8] = r[9] = 0;
	r[1] = vm->ctx.base;
	r[2] = vm->ctx.size;
	enter_frame(vm, 0);
	r[BPF_FP] = vm->stack.base + BPF_FRAME_SIZE;
	for (;;) {
		uint64_t *dst, src;

		in = pc++;
		dst = &r[BPF_DST(in)];
		src = in->opcode & BPF_CODE_X ? r[BPF_SRC(in)] : (uint64_t)(int64_t)in->imm;
		/* clang-format off */
		switch (in->opcode & ~BPF_CODE_X) {
		/* 4.1 arithmetic */
		ALU(ADD, a + b)
		ALU(SUB, a - b)
		ALU(MUL, a * b)
		ALU_APART(DIV,
			  in->offset ? (uint32_t)sdiv((int32_t)a, (int32_t)b)
				     : (b ? a / b : 0),
			  in->offset ? (uint64_t)sdiv((int64_t)a, (int64_t)b)
				     : (b ? a / b : 0))
		ALU(OR, a | b)
		ALU(AND, a & b)
		ALU_APART(LSH, a << (b & 31), a << (b & 63))
		ALU_APART(RSH, a >> (b & 31), a >> (b & 63))
		case BPF_CODE(BPF_ALU | BPF_NEG):
			*dst = (uint32_t)(0 - (uint32_t)*dst);
			continue;
		case BPF_CODE(BPF_ALU64 | BPF_NEG):
			*dst = 0 - *dst;
			continue;
		ALU_APART(MOD,
			  in->offset ? (uint32_t)smod((int32_t)a, (int32_t)b)
				     : (b ? a % b : a),
			  in->offset ? (uint64_t)smod((int64_t)a, (int64_t)b)
				     : (b ? a % b : a))
		ALU(XOR, a ^ b)
		case BPF_CODE(BPF_ALU | BPF_MOV):
			*dst = (uint32_t)(in->offset ? sign_extended(src, in->offset) : src);
			continue;
		case BPF_CODE(BPF_ALU64 | BPF_MOV):
			*dst = in->offset ? sign_extended(src, in->offset) : src;
			if (pc->opcode != BPF_CODE(BPF_OP_EXIT)) /* how most programs end */
				continue;
			in = pc++;
			goto exit;
		ALU_APART(ARSH, (int32_t)a >> (b & 31), (int64_t)a >> (b & 63))

		/* 4.2 byte swaps */
		case BPF_CODE(BPF_ALU | BPF_END):
			if (!(in->opcode & BPF_CODE_X)) { /* to little-endian */
				*dst = truncated(*dst, in->imm);
				continue;
			}
			/* fall through */
		case BPF_CODE(BPF_ALU64 | BPF_END): /* to big-endian, or unconditional */
			*dst = swapped(*dst, in->imm);
			continue;

		/* 4.3 jumps */
		case BPF_CODE(BPF_OP_JA):
			goto jump;
		case BPF_CODE(BPF_OP_JA32):
			CHARGE();
			pc += in->imm;
			block = pc;
			continue;
		JUMP(JEQ, uint32_t, uint64_t, a == b)
		JUMP(JGT, uint32_t, uint64_t, a > b)
		JUMP(JGE, uint32_t, uint64_t, a >= b)
		JUMP(JSET, uint32_t, uint64_t, (a & b) != 0)
		JUMP(JNE, uint32_t, uint64_t, a != b)
		JUMP(JSGT, int32_t, int64_t, a > b)
		JUMP(JSGE, int32_t, int64_t, a >= b)
		case BPF_CODE(BPF_OP_CALL): {
			const struct bpf_helper *h;

			CHARGE();
			block = pc;
			if (in->opcode & BPF_CODE_X) {
				h = *dst <= UINT32_MAX ? uio_bpf_helper((uint32_t)*dst) : NULL;
				if (h == NULL) {
					vm->fault.helper = (uint32_t)*dst;
					STOP(BPF_STOP_CALL);
				}
			} else if (BPF_SRC(in) == BPF_CALL_LOCAL) {
				if (depth + 1 == BPF_MAX_FRAMES)
					STOP(BPF_STOP_DEPTH);
				frame[depth].ret = pc;
				memcpy(frame[depth].saved, &r[6], sizeof(frame[depth].saved));
				enter_frame(vm, ++depth);
				r[BPF_FP] = vm->stack.base + BPF_FRAME_SIZE;
				pc += in->imm;
				block = pc;
				continue;
			} else {
				h = &uio_bpf_helpers[in->imm];
			}
			status = call_helper(vm, h, r);
			if (status != 0)
				goto stopped;
			continue;
		}
		case BPF_CODE(BPF_OP_EXIT):
		exit:
			CHARGE();
			if (depth == 0) {
				vm->used = prog->max_insns - budget - (uint64_t)left;
				*result = r[0];
				return BPF_OK;
			}
			depth--;
			pc = block = frame[depth].ret;
			memcpy(&r[6], frame[depth].saved, sizeof(frame[depth].saved));
			enter_frame(vm, depth);
			r[BPF_FP] = vm->stack.base + BPF_FRAME_SIZE;
			continue;
		JUMP(JLT, uint32_t, uint64_t, a < b)
		JUMP(JLE, uint32_t, uint64_t, a <= b)
		JUMP(JSLT, int32_t, int64_t, a < b)
		JUMP(JSLE, int32_t, int64_t, a <= b)

			/* 5.1 loads and stores */
		STORE(ST, W, uint32_t, in->imm)
		STORE(ST, H, uint16_t, in->imm)
		STORE(ST, B, uint8_t, in->imm)
		STORE(ST, DW, uint64_t, (int64_t)in->imm)
		STORE(STX, W, uint32_t, r[BPF_SRC(in)])
		STORE(STX, H, uint16_t, r[BPF_SRC(in)])
		STORE(STX, B, uint8_t, r[BPF_SRC(in)])
		STORE(STX, DW, uint64_t, r[BPF_SRC(in)])
		LOAD(MEM, W, uint32_t, uint64_t)
		LOAD(MEM, H, uint16_t, uint64_t)
		LOAD(MEM, B, uint8_t, uint64_t)
		LOAD(MEM, DW, uint64_t, uint64_t)
			/* 5.2 sign-extending loads */
		LOAD(MEMSX, W, int32_t, int64_t)
		LOAD(MEMSX, H, int16_t, int64_t)
		LOAD(MEMSX, B, int8_t, int64_t)
			/* 5.3 atomic operations */
		case BPF_CODE(BPF_STX | BPF_ATOMIC | BPF_W):
		case BPF_CODE(BPF_STX | BPF_ATOMIC | BPF_DW): {
			uint64_t addr = *dst + (uint64_t)(int64_t)in->offset;
			bool wide = in->opcode == BPF_CODE(BPF_STX | BPF_ATOMIC | BPF_DW);
			uint8_t size = wide ? 8 : 4;

			if (!may(vm, addr, size, BPF_READ | BPF_WRITE))
				STOP_MEMORY(size, BPF_READ | BPF_WRITE);
			if (addr % size != 0) {
				vm->fault.address = addr;
				STOP(BPF_STOP_ALIGN);
			}
			atomic(addr, wide, in->imm, &r[BPF_SRC(in)], &r[0]);
			continue;
		}
		/* 5.4 64-bit immediate; maps have become numbers in uio_bpf_link() */
		case BPF_CODE(BPF_OP_LDDW):
			*dst = (uint32_t)in->imm | (uint64_t)(uint32_t)pc->imm << 32;
			pc++;
			continue;
		default:
			STOP(BPF_STOP_OPCODE);
		}
		/* clang-format on */
	jump:
		CHARGE();
		pc += in->offset;
		block = pc;
		continue;
	budget:
		/* Undo the charge; then either a new slice begins with this instruction, or all is
		 * over. */
		left += in + 1 - block;
		if (budget == 0)
			STOP(BPF_STOP_INSNS);
		if (prog->max_ns != 0) {
			uint64_t now = vm->env->now();

			if (deadline == 0)
				deadline = now + prog->max_ns;
			if (now >= deadline)
				STOP(BPF_STOP_TIME);
		}
		slice = budget < TIME_CHECK_INSNS ? (int64_t)budget : TIME_CHECK_INSNS;
		budget -= (uint64_t)slice;
		left += slice;
		pc = in;
	}
stopped:
	vm->used = prog->max_insns - budget - (uint64_t)left;
	vm->fault.status = (enum bpf_status)status;
	vm->fault.pc = (uint32_t)(in - prog->insns);
	return status;
}

void uio_bpf_vm_init(struct bpf_vm *vm, const struct bpf_env *env)
{
	memset(vm, 0, sizeof(*vm));
	vm->env = env;
	vm->stack.rights = BPF_READ | BPF_WRITE;
	vm->random = (uint32_t)env->now() | 1;
}

int uio_bpf_run(struct bpf_vm *vm, struct bpf_prog *prog, void *ctx, size_t ctx_size,
		unsigned int ctx_rights, uint64_t *r0)
{
	int status;

	vm->prog = prog;
	vm->ctx.base = (uintptr_t)ctx;
	vm->ctx.size = ctx_size;
	vm->ctx.rights = ctx_rights;
	vm->value.size = 0;
	vm->grants = 0;
	prog->runs++;
	status = prog->native ? prog->native(vm, prog, r0) : interpret(vm, prog, r0);
	if (status != BPF_OK)
		prog->faults++;
	/* Records that it kept would block their ring for ever. */
	while (vm->grants > 0) {
		vm->grants--;
		uio_bpf_ring_commit(vm->grant_map[vm->grants],
				    (void *)(uintptr_t)vm->grant[vm->grants].base, true);
	}
	return status;
}

const char *uio_bpf_status_text(int status)
{
	static const char *const text[] = {
		[BPF_OK] = "ended",
		[BPF_STOP_INSNS] = "used up its instructions",
		[BPF_STOP_TIME] = "used up its time",
		[BPF_STOP_MEMORY] = "touched memory that is not its own",
		[BPF_STOP_ALIGN] = "made an atomic access that is not aligned",
		[BPF_STOP_CALL] = "called a helper that it may not call",
		[BPF_STOP_ARG] = "gave a helper an argument that is not valid",
		[BPF_STOP_DEPTH] = "nested its calls too deep",
		[BPF_STOP_OPCODE] = "met an instruction that is none",
	};

	if (status < 0 || (size_t)status >= sizeof(text) / sizeof(text[0]))
		return "ended in an unknown way";
	return text[status];
}
