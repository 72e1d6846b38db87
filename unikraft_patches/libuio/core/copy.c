/* SPDX-License-Identifier: BSD-3-Clause */
/* Copying in words, several of them in a row. */
#include "copy.h"

#include <stdint.h>
#include <string.h>

#define WORDS 8

void uio_copy(void *to, const void *from, size_t len)
{
	uint8_t *out = to;
	const uint8_t *in = from;

	for (; len >= WORDS * 8; len -= WORDS * 8, in += WORDS * 8, out += WORDS * 8) {
		uint64_t w[WORDS];

#pragma GCC unroll 8
		for (int i = 0; i < WORDS; i++)
			__builtin_memcpy(&w[i], in + 8 * i, 8);
#pragma GCC unroll 8
		for (int i = 0; i < WORDS; i++)
			__builtin_memcpy(out + 8 * i, &w[i], 8);
	}
	memcpy(out, in, len);
}
