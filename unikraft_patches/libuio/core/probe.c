/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The copy that survives a fault: two instructions whose addresses the trap
 * hook knows. Integer registers only: runs in traced functions and traps.
 */
#include "probe.h"

__asm__(".text\n"
	".type uio_probe_bytes, @function\n"
	"uio_probe_bytes:\n" /* (dst, src, len) */
	"	movq %rdx, %rcx\n"
	"	xorl %eax, %eax\n"
	".globl uio_probe_at_bytes\n"
	"uio_probe_at_bytes:\n"
	"	rep movsb\n"
	"	ret\n"
	".size uio_probe_bytes, .-uio_probe_bytes\n"
	".type uio_probe_word, @function\n"
	"uio_probe_word:\n" /* (dst, src) */
	"	xorl %eax, %eax\n"
	".globl uio_probe_at_word\n"
	"uio_probe_at_word:\n"
	"	movq (%rsi), %rcx\n"
	"	movq %rcx, (%rdi)\n"
	"	ret\n"
	".size uio_probe_word, .-uio_probe_word\n"
	".globl uio_probe_failed\n"
	".type uio_probe_failed, @function\n"
	"uio_probe_failed:\n"
	"	movl $-14, %eax\n" /* -EFAULT */
	"	ret\n"
	".size uio_probe_failed, .-uio_probe_failed\n");

extern int uio_probe_bytes(void *dst, uint64_t src, size_t len);
extern int uio_probe_word(void *dst, uint64_t src);
extern const char uio_probe_at_bytes[], uio_probe_at_word[], uio_probe_failed[];

int uio_probe_read(void *dst, uint64_t src, size_t len)
{
	return len == 8 ? uio_probe_word(dst, src) : uio_probe_bytes(dst, src, len);
}

bool uio_probe_trap(struct uio_trap *trap)
{
	if (trap->ip != (uintptr_t)uio_probe_at_bytes && trap->ip != (uintptr_t)uio_probe_at_word)
		return false;
	trap->ip = (uintptr_t)uio_probe_failed;
	return true;
}
