/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Keeps the GNU build-id, which Unikraft's own script discards, in the image
 * and finds it. The host tells by it whether an overlay was linked for this
 * very kernel.
 */
SECTIONS
{
	.note.gnu.build-id :
	{
		uio_build_id_note = .;
		KEEP(*(.note.gnu.build-id))
		uio_build_id_note_end = .;
	}
}
INSERT AFTER .rodata;
