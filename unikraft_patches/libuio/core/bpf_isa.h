/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The instruction set of RFC 9669 as numbers: the layout of an instruction
 * and the fields of its opcode. Nothing here knows of the machine.
 */
#ifndef UIO_BPF_ISA_H
#define UIO_BPF_ISA_H

#include <stdint.h>

struct bpf_insn {
	uint8_t opcode;
	uint8_t regs; /* dst in the low half, src in the high half */
	int16_t offset;
	int32_t imm;
};
_Static_assert(sizeof(struct bpf_insn) == 8, "RFC 9669, section 3");

#define BPF_DST(insn) ((insn)->regs & 15u)
#define BPF_SRC(insn) ((insn)->regs >> 4)

#define BPF_NREGS 11u
#define BPF_FP    10u /* read-only frame pointer */

/* Instruction classes: the low three bits of the opcode. */
#define BPF_LD    0x00u
#define BPF_LDX   0x01u
#define BPF_ST    0x02u
#define BPF_STX   0x03u
#define BPF_ALU   0x04u
#define BPF_JMP   0x05u
#define BPF_JMP32 0x06u
#define BPF_ALU64 0x07u

/* Source of arithmetic and jumps. */
#define BPF_K 0x00u
#define BPF_X 0x08u

/* Arithmetic. */
#define BPF_ADD  0x00u
#define BPF_SUB  0x10u
#define BPF_MUL  0x20u
#define BPF_DIV  0x30u
#define BPF_OR   0x40u
#define BPF_AND  0x50u
#define BPF_LSH  0x60u
#define BPF_RSH  0x70u
#define BPF_NEG  0x80u
#define BPF_MOD  0x90u
#define BPF_XOR  0xa0u
#define BPF_MOV  0xb0u
#define BPF_ARSH 0xc0u
#define BPF_END  0xd0u

/* Jumps. */
#define BPF_JA   0x00u
#define BPF_JEQ  0x10u
#define BPF_JGT  0x20u
#define BPF_JGE  0x30u
#define BPF_JSET 0x40u
#define BPF_JNE  0x50u
#define BPF_JSGT 0x60u
#define BPF_JSGE 0x70u
#define BPF_CALL 0x80u
#define BPF_EXIT 0x90u
#define BPF_JLT  0xa0u
#define BPF_JLE  0xb0u
#define BPF_JSLT 0xc0u
#define BPF_JSLE 0xd0u

/* Sizes and modes of loads and stores. */
#define BPF_W      0x00u
#define BPF_H      0x08u
#define BPF_B      0x10u
#define BPF_DW     0x18u
#define BPF_IMM    0x00u
#define BPF_MEM    0x60u
#define BPF_MEMSX  0x80u
#define BPF_ATOMIC 0xc0u

/* Atomic operations, in imm; BPF_ADD, BPF_OR, BPF_AND, BPF_XOR and these. */
#define BPF_FETCH   0x01
#define BPF_XCHG    0xe1
#define BPF_CMPXCHG 0xf1

/* What src says in CALL and in the 64-bit load. */
#define BPF_CALL_HELPER     0u
#define BPF_CALL_LOCAL      1u
#define BPF_IMM64_VALUE     0u
#define BPF_IMM64_MAP       5u /* map by index */
#define BPF_IMM64_MAP_VALUE 6u /* address in the first value of a map by index */
#define BPF_OP_LDDW         (BPF_LD | BPF_IMM | BPF_DW)
#define BPF_OP_EXIT         (BPF_JMP | BPF_EXIT)
#define BPF_OP_CALL         (BPF_JMP | BPF_CALL)
#define BPF_OP_CALLX        (BPF_JMP | BPF_CALL | BPF_X)
#define BPF_OP_JA           (BPF_JMP | BPF_JA)
#define BPF_OP_JA32         (BPF_JMP32 | BPF_JA)

/*
 * Opcodes as the interpreter has them, after uio_bpf_link(): in the low seven bits what is done,
 * in the highest whether arithmetic and jumps take a register.
 */
#define BPF_CODE_X 0x80u
#define BPF_CODE(op)                                                                               \
	((op)&4u ? ((op)&BPF_X) << 4 | ((op)&3u) << 4 | (op) >> 4                                  \
		 : 64u | ((op)&3u) << 4 | ((op) >> 3 & 3u) << 2 | (op) >> 6)

#endif /* UIO_BPF_ISA_H */
