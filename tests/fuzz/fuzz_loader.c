/* SPDX-License-Identifier: BSD-3-Clause */
/* Pull: any bytes as an overlay's file, any answer of the host. All memory must be back afterwards.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz_port.h"

static uint32_t answers;

int uio_channel_symq(const uint8_t hash[32], const char *const *names, unsigned int n,
		     struct uio_symbol *out)
{
	(void)hash;
	for (unsigned int i = 0; i < n; i++) {
		uint32_t h = answers + 5381;

		for (const char *c = names[i]; *c; c++)
			h = h * 33 + (uint8_t)*c;
		/* Most are functions or objects of the kernel; a few are not there, or not in it.
		 */
		out[i] = (struct uio_symbol){
			.address = FUZZ_IMAGE + h % 0x80000,
			.type = (uint8_t)(h / 7 % 64 ? 1 + h / 512 % 2 : h / 512 % 5)};
		if (h / 11 % 64 == 0)
			out[i].address = h;
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct uio_exec x;
	uint8_t hash[UIO_HASH_SIZE], *file;
	struct uio_resident *r = NULL;
	size_t elf_size = 0;

	if (size < 4)
		return 0;
	memset(&x, 0, sizeof(x));
	memcpy(&answers, data + size - 4, 4);
	/* A block of its own and exact size: one byte too far is noticed. */
	file = malloc(size);
	memcpy(file, data, size);
	uio_sha256(file, size, hash);
	if (!uio_overlay_file_check(file, size, &elf_size))
		r = uio_loader_load(&x, "fuzz", hash, file, elf_size, NULL);
	if (!r && (!x.result.status || !x.result.message[0]) && elf_size)
		abort(); /* refused without a word */
	if (r) {
		if (!uio_resident_has(r, r->o.entry, UIO_PROT_EXEC))
			abort();
		uio_resident_free(r);
	}
	free(file);
	if (fuzz_pages || fuzz_blocks)
		abort();
	return 0;
}
