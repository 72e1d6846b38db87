/* SPDX-License-Identifier: BSD-3-Clause */
/* Push: any bytes as an image, in pieces of any size. All memory must be back afterwards. */
#include <stdlib.h>
#include <string.h>

#include "fuzz_port.h"

int uio_channel_symq(const uint8_t hash[32], const char *const *names, unsigned int n,
		     struct uio_symbol *out)
{
	(void)hash, (void)names, (void)n, (void)out;
	abort(); /* the host has linked it */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct uio_overlay *o = NULL;
	struct uio_push *p;
	const char *why = NULL;
	size_t at = 0, step;
	int rc = 0;

	if (size < 1)
		return 0;
	step = data[--size] + 1u;
	p = uio_push_begin();
	while (at < size && !rc) {
		size_t n = size - at < step ? size - at : step;

		rc = uio_push_data(p, data + at, n);
		at += n;
		step = step * 3 % 4093 + 1;
	}
	if (rc && step & 1) {
		uio_push_abort(p);
		rc = -1;
	} else {
		rc = uio_push_finish(p, &o, &why);
		if (!rc != !why)
			abort(); /* refused without a word, or taken with one */
	}
	if (!rc) {
		if (!o || o->running || uio_overlay_find(o->hash) != o)
			abort();
		((struct uio_resident *)o)->state = UIO_RESIDENT_NEW;
		uio_overlay_unload(o->hash);
	}
	if (fuzz_pages || fuzz_blocks)
		abort();
	return 0;
}
