/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An overlay's file as it is shipped (docs/overlays.md): an ELF, and behind it
 * signature blocks of 128 bytes, the last one ending with the file. Here the
 * ELF is told from them, and here is the place of the guest's own check.
 */

#include <string.h>

#include "overlay_impl.h"

static const char magic[24] = {'~', 'u', 'I', 'O', ' ', 'o', 'v', 'e', 'r', 'l', 'a', 'y',
			       ' ', 's', 'i', 'g', 'n', 'a', 't', 'u', 'r', 'e', '~', '\n'};
_Static_assert(sizeof(struct uio_signature) == 128, "file format");

#define SIGNATURES_MAX 16u

const char *uio_overlay_file_check(const uint8_t *file, size_t size, size_t *elf_size)
{
	struct uio_signature s[SIGNATURES_MAX]; /* newest first */
	unsigned int n = 0;
	size_t end = size;

	while (end >= sizeof(magic) && !memcmp(file + end - sizeof(magic), magic, sizeof(magic))) {
		if (end < sizeof(s[0]))
			return "its signature block is cut off";
		if (n == SIGNATURES_MAX)
			return "it has too many signatures";
		memcpy(&s[n], file + end - sizeof(s[0]), sizeof(s[0]));
		if (s[n].version != 1 || s[n].block_size != sizeof(s[0]) || s[n].flags)
			return "its signature block is of a kind that this guest does not know";
		end -= sizeof(s[0]);
		n++;
	}
	for (unsigned int i = 0; i < n; i++) {
		if (s[i].elf_size != end)
			return "its signature block is of another file";
		for (unsigned int j = 0; j < i; j++)
			if (!memcmp(s[i].key_id, s[j].key_id, sizeof(s[i].key_id)))
				return "it is signed twice by the same key";
	}
	*elf_size = end;
	return uio_signature_refusal ? uio_signature_refusal(file, end, s, n) : NULL;
}
