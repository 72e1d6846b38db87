/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The module's object, in a section that is in the kernel's ELF and never in
 * memory (without the flag A), and its digest, which is. Of embed.py, by way of
 * build.mk or Makefile.build: MODULE_FILE, a path, and MODULE_HASH, 32 numbers.
 */
	.section .uio.module.bpf, "", @progbits
	.incbin MODULE_FILE

	.section .rodata.uio_module_hash, "a", @progbits
	.globl	uio_module_hash
	.type	uio_module_hash, @object
uio_module_hash:
	.byte	MODULE_HASH
	.size	uio_module_hash, . - uio_module_hash

	.section .note.GNU-stack, "", @progbits
