/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of the functions that the compiler has left room in, as
 * core/bpf_attach.c and the host know it. Its parts come under the name that
 * Makefile.build has given them, as debugging information, so that they keep
 * no function alive; of functions that were dropped zeros remain. The zero at
 * the start makes the section one of the image.
 */
SECTIONS
{
	__patchable_function_entries : ALIGN(8)
	{
		__start___patchable_function_entries = .;
		QUAD(0)
		*(.debug_uio_entries)
		__stop___patchable_function_entries = .;
	}
}
INSERT AFTER .rodata;
