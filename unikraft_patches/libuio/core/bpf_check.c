/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The check that every program passes before its first run, in one walk over
 * its instructions: what the interpreter takes for granted. It proves nothing
 * about memory or time; the machine checks those as it runs.
 */
#include <errno.h>
#include <string.h>

#include "bpf.h"

/* What a row says of an instruction's fields. */
#define F_SRC    0x01u /* src is a register, else it must be 0 */
#define F_WRITES 0x02u /* dst is written, so it is not r10 */
#define F_JUMP   0x04u /* offset is a jump */
#define F_OFFSET 0x08u /* offset is free, else it must be 0 */
#define F_IMM    0x10u /* imm is free, else it must be 0 */
#define F_NODST  0x20u /* dst must be 0 */
#define F_OWN    0x40u /* check_own() knows more */
#define F_VALID  0x80u

static uint8_t alu_fields(uint8_t opcode)
{
	uint8_t operand = opcode & BPF_X ? F_VALID | F_WRITES | F_SRC : F_VALID | F_WRITES | F_IMM;

	switch (opcode & 0xf0u) {
	case BPF_ADD:
	case BPF_SUB:
	case BPF_MUL:
	case BPF_OR:
	case BPF_AND:
	case BPF_LSH:
	case BPF_RSH:
	case BPF_XOR:
	case BPF_ARSH:
		return operand;
	case BPF_DIV:
	case BPF_MOD:
	case BPF_MOV:
		return operand | F_OFFSET | F_OWN;
	case BPF_NEG:
		return opcode & BPF_X ? 0 : F_VALID | F_WRITES;
	case BPF_END:
		if ((opcode & (7u | BPF_X)) == (BPF_ALU64 | BPF_X))
			return 0;
		return F_VALID | F_WRITES | F_IMM | F_OWN;
	default:
		return 0;
	}
}

static uint8_t jump_fields(uint8_t opcode)
{
	bool jmp32 = (opcode & 7u) == BPF_JMP32;

	switch (opcode & 0xf0u) {
	case BPF_JA:
		if (opcode & BPF_X)
			return 0;
		return F_VALID | F_NODST | (jmp32 ? F_IMM | F_OWN : F_OFFSET | F_JUMP);
	case BPF_CALL:
		if (jmp32)
			return 0;
		/* src is checked with the call's kind */
		return opcode & BPF_X ? F_VALID : F_VALID | F_NODST | F_SRC | F_IMM | F_OWN;
	case BPF_EXIT:
		return opcode == BPF_OP_EXIT ? F_VALID | F_NODST : 0;
	case 0xe0u:
	case 0xf0u:
		return 0;
	default:
		return F_VALID | F_OFFSET | F_JUMP | (opcode & BPF_X ? F_SRC : F_IMM);
	}
}

static uint8_t fields(uint8_t opcode)
{
	unsigned int mode = opcode & 0xe0u, size = opcode & 0x18u;

	switch (opcode & 7u) {
	case BPF_LD:
		return opcode == BPF_OP_LDDW ? F_VALID | F_WRITES | F_SRC | F_IMM | F_OWN : 0;
	case BPF_LDX:
		if (mode == BPF_MEM || (mode == BPF_MEMSX && size != BPF_DW))
			return F_VALID | F_WRITES | F_SRC | F_OFFSET;
		return 0;
	case BPF_ST:
		return mode == BPF_MEM ? F_VALID | F_OFFSET | F_IMM : 0;
	case BPF_STX:
		if (mode == BPF_MEM)
			return F_VALID | F_SRC | F_OFFSET;
		if (mode == BPF_ATOMIC && (size == BPF_W || size == BPF_DW))
			return F_VALID | F_SRC | F_OFFSET | F_IMM | F_OWN;
		return 0;
	case BPF_ALU:
	case BPF_ALU64:
		return alu_fields(opcode);
	default:
		return jump_fields(opcode);
	}
}

struct check {
	const struct bpf_insn *insns;
	uint32_t count;
	enum bpf_kind kind;
	struct bpf_map *const *maps;
	uint32_t nmaps;
};

static const char *check_lddw(const struct check *c, uint32_t pc)
{
	const struct bpf_insn *in = &c->insns[pc], *second = in + 1;

	if (pc + 1 == c->count)
		return "half of a 64-bit load";
	if (second->opcode != 0 || second->regs != 0 || second->offset != 0)
		return "the second half of a 64-bit load has fields that are not zero";
	switch (BPF_SRC(in)) {
	case BPF_IMM64_VALUE:
		return NULL;
	case BPF_IMM64_MAP:
		if ((uint32_t)in->imm >= c->nmaps)
			return "no such map";
		return second->imm == 0 ? NULL : "a map has no offset";
	case BPF_IMM64_MAP_VALUE:
		if ((uint32_t)in->imm >= c->nmaps)
			return "no such map";
		if (c->maps[in->imm]->def.type != BPF_MAP_ARRAY)
			return "only an array has values with fixed addresses";
		if ((uint32_t)second->imm >= c->maps[in->imm]->def.value_size)
			return "an offset outside the map's value";
		return NULL;
	default:
		return "a kind of 64-bit load that this machine does not have";
	}
}

static const char *check_call(const struct check *c, uint32_t pc)
{
	const struct bpf_insn *in = &c->insns[pc];
	const struct bpf_helper *helper;

	switch (BPF_SRC(in)) {
	case BPF_CALL_HELPER:
		helper = uio_bpf_helper((uint32_t)in->imm);
		if (helper == NULL)
			return "no such helper";
		return helper->kinds >> c->kind & 1
			       ? NULL
			       : "a helper that this kind of program may not call";
	case BPF_CALL_LOCAL:
		return NULL; /* check_jumps() */
	default:
		return "a kind of call that this machine does not have";
	}
}

static const char *check_atomic(int32_t op)
{
	switch (op) {
	case BPF_ADD:
	case BPF_OR:
	case BPF_AND:
	case BPF_XOR:
	case BPF_ADD | BPF_FETCH:
	case BPF_OR | BPF_FETCH:
	case BPF_AND | BPF_FETCH:
	case BPF_XOR | BPF_FETCH:
	case BPF_XCHG:
	case BPF_CMPXCHG:
		return NULL;
	default:
		return "an atomic operation that does not exist";
	}
}

/* What only this opcode asks of its fields. */
static const char *check_own(const struct check *c, uint32_t pc)
{
	const struct bpf_insn *in = &c->insns[pc];
	bool wide = (in->opcode & 7u) == BPF_ALU64;

	if (in->opcode == BPF_OP_LDDW)
		return check_lddw(c, pc);
	if (in->opcode == BPF_OP_CALL)
		return check_call(c, pc);
	if (in->opcode == BPF_OP_JA32)
		return NULL; /* check_jumps() */
	if ((in->opcode & 7u) == BPF_STX) {
		if ((in->imm & BPF_FETCH) && in->imm != BPF_CMPXCHG && BPF_SRC(in) == BPF_FP)
			return "r10 cannot be written";
		return check_atomic(in->imm);
	}
	switch (in->opcode & 0xf0u) {
	case BPF_END:
		return in->imm == 16 || in->imm == 32 || in->imm == 64
			       ? NULL
			       : "a byte swap of a width other than 16, 32 or 64";
	case BPF_MOV:
		if (in->offset == 0)
			return NULL;
		if (!(in->opcode & BPF_X))
			return "a sign-extending move of a constant";
		return in->offset == 8 || in->offset == 16 || (in->offset == 32 && wide)
			       ? NULL
			       : "a sign-extending move of a width that does not exist";
	default: /* division */
		return in->offset == 0 || in->offset == 1 ? NULL : "an offset that means nothing";
	}
}

static const char *check_fields(const struct check *c, uint32_t pc)
{
	const struct bpf_insn *in = &c->insns[pc];
	uint8_t f = fields(in->opcode);

	if (!(f & F_VALID))
		return "no such instruction";
	if (BPF_DST(in) >= BPF_NREGS)
		return "no such register";
	if ((f & F_NODST) && BPF_DST(in) != 0)
		return "a destination that means nothing";
	if ((f & F_WRITES) && BPF_DST(in) == BPF_FP)
		return "r10 cannot be written";
	if (f & F_SRC ? BPF_SRC(in) >= BPF_NREGS : BPF_SRC(in) != 0)
		return f & F_SRC ? "no such register" : "a source that means nothing";
	if (!(f & F_OFFSET) && in->offset != 0)
		return "an offset that means nothing";
	if (!(f & F_IMM) && in->imm != 0)
		return "a constant that means nothing";
	return f & F_OWN ? check_own(c, pc) : NULL;
}

/* Marks per instruction, two bits. */
#define MARK_SECOND 1u /* second half of a 64-bit load */
#define MARK_START  2u /* first instruction of a function */

static unsigned int mark(const uint8_t *marks, uint32_t pc)
{
	return marks[pc / 4] >> pc % 4 * 2 & 3u;
}

static void set_mark(uint8_t *marks, uint32_t pc, unsigned int m)
{
	marks[pc / 4] |= (uint8_t)(m << pc % 4 * 2);
}

static bool is_local_call(const struct bpf_insn *in)
{
	return in->opcode == BPF_OP_CALL && BPF_SRC(in) == BPF_CALL_LOCAL;
}

/* All targets exist, and jumps stay in [start, end), their function. */
static const char *check_jump(const struct check *c, const uint8_t *marks, uint32_t pc,
			      uint32_t start, uint32_t end)
{
	const struct bpf_insn *in = &c->insns[pc];
	int64_t target;

	if (in->opcode == BPF_OP_JA32)
		target = (int64_t)pc + 1 + in->imm;
	else if (fields(in->opcode) & F_JUMP)
		target = (int64_t)pc + 1 + in->offset;
	else
		return NULL;
	if (target < start || target >= end)
		return "a jump out of its function";
	if (mark(marks, (uint32_t)target) & MARK_SECOND)
		return "a jump into a 64-bit load";
	return NULL;
}

static bool ends_flow(const struct bpf_insn *in)
{
	return in->opcode == BPF_OP_EXIT || in->opcode == BPF_OP_JA || in->opcode == BPF_OP_JA32;
}

static const char *check_flow(const struct check *c, uint8_t *marks, uint32_t *where)
{
	uint32_t pc, start = 0, end;
	const char *what;

	for (pc = 0; pc < c->count; pc++) {
		int64_t target = (int64_t)pc + 1 + c->insns[pc].imm;

		*where = pc;
		if (mark(marks, pc) & MARK_SECOND || !is_local_call(&c->insns[pc]))
			continue;
		if (target < 0 || target >= c->count)
			return "a call out of the program";
		if (mark(marks, (uint32_t)target) & MARK_SECOND)
			return "a call into a 64-bit load";
		set_mark(marks, (uint32_t)target, MARK_START);
	}
	for (start = 0; start < c->count; start = end) {
		for (end = start + 1; end < c->count && !(mark(marks, end) & MARK_START);)
			end++;
		for (pc = start; pc < end; pc++) {
			*where = pc;
			if (mark(marks, pc) & MARK_SECOND)
				continue;
			what = check_jump(c, marks, pc, start, end);
			if (what != NULL)
				return what;
		}
		*where = end - 1;
		if (mark(marks, end - 1) & MARK_SECOND || !ends_flow(&c->insns[end - 1]))
			return "a function that runs off its end";
	}
	return NULL;
}

int uio_bpf_check(const struct bpf_insn *insns, uint32_t count, enum bpf_kind kind,
		  struct bpf_map *const maps[], uint32_t nmaps, uint8_t *marks,
		  struct bpf_check_error *err)
{
	struct check c = {insns, count, kind, maps, nmaps};
	uint32_t pc = 0;

	err->pc = 0;
	err->what = count == 0 ? "no instructions" : NULL;
	if (count > BPF_MAX_INSNS)
		err->what = "too many instructions";
	if (err->what != NULL)
		return -EINVAL;
	memset(marks, 0, BPF_CHECK_SCRATCH(count));
	for (pc = 0; pc < count && err->what == NULL; pc++) {
		err->pc = pc;
		err->what = check_fields(&c, pc);
		if (err->what == NULL && insns[pc].opcode == BPF_OP_LDDW)
			set_mark(marks, ++pc, MARK_SECOND);
	}
	if (err->what == NULL)
		err->what = check_flow(&c, marks, &err->pc);
	return err->what == NULL ? 0 : -EINVAL;
}

void uio_bpf_link(struct bpf_insn *insns, uint32_t count, struct bpf_map *const maps[])
{
	for (uint32_t pc = 0; pc < count; pc++) {
		struct bpf_insn *in = &insns[pc];

		if (in->opcode == BPF_OP_CALL && BPF_SRC(in) == BPF_CALL_HELPER) {
			in->imm = (int32_t)(uio_bpf_helper((uint32_t)in->imm) - uio_bpf_helpers);
		} else if (in->opcode == BPF_OP_LDDW) {
			uint64_t v = (uint32_t)in->imm | (uint64_t)(uint32_t)in[1].imm << 32;

			if (BPF_SRC(in) == BPF_IMM64_MAP)
				v = BPF_MAP_HANDLE((uint32_t)in->imm);
			else if (BPF_SRC(in) == BPF_IMM64_MAP_VALUE)
				v = (uintptr_t)maps[in->imm]->values + (uint32_t)in[1].imm;
			in->regs &= 15u;
			in->imm = (int32_t)(uint32_t)v;
			in[1].imm = (int32_t)(uint32_t)(v >> 32);
			pc++;
		}
		in->opcode = (uint8_t)BPF_CODE(in->opcode);
	}
}
