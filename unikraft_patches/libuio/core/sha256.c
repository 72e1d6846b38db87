/* SPDX-License-Identifier: BSD-3-Clause */
/* SHA-256 of memory, whole or piece by piece, after FIPS 180-4. */

#include <string.h>

#include "sha256.h"

static const uint32_t round_constant[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2,
};

static uint32_t rotate(uint32_t x, unsigned int n)
{
	return x >> n | x << (32 - n);
}

static uint32_t load_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Section 6.2.2 */
static void compress(uint32_t state[8], const uint8_t block[64])
{
	uint32_t w[64], v[8];

	for (unsigned int i = 0; i < 16; i++)
		w[i] = load_be32(block + 4 * i);
	for (unsigned int i = 16; i < 64; i++) {
		uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
		uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;

		w[i] = w[i - 16] + s0 + w[i - 7] + s1;
	}
	memcpy(v, state, sizeof(v));
	/* The eight variables stay where they are, and their names move on by one each time. */
	for (unsigned int i = 0; i < 64; i++) {
#define V(n) v[((n)-i) % 8]
		uint32_t s1 = rotate(V(4), 6) ^ rotate(V(4), 11) ^ rotate(V(4), 25);
		uint32_t choose = (V(4) & V(5)) ^ (~V(4) & V(6));
		uint32_t t1 = V(7) + s1 + choose + round_constant[i] + w[i];
		uint32_t s0 = rotate(V(0), 2) ^ rotate(V(0), 13) ^ rotate(V(0), 22);
		uint32_t majority = (V(0) & V(1)) ^ (V(0) & V(2)) ^ (V(1) & V(2));

		V(3) += t1;
		V(7) = t1 + s0 + majority;
#undef V
	}
	for (unsigned int i = 0; i < 8; i++)
		state[i] += v[i];
}

void uio_sha256_begin(struct uio_sha256 *h)
{
	*h = (struct uio_sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
					   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void uio_sha256_add(struct uio_sha256 *h, const void *data, size_t size)
{
	const uint8_t *p = data;

	h->size += size;
	while (size) {
		size_t n = sizeof(h->block) - h->fill;

		if (!h->fill && size >= sizeof(h->block)) {
			compress(h->state, p);
			p += sizeof(h->block);
			size -= sizeof(h->block);
			continue;
		}
		if (n > size)
			n = size;
		memcpy(h->block + h->fill, p, n);
		h->fill += n;
		p += n;
		size -= n;
		if (h->fill == sizeof(h->block)) {
			compress(h->state, h->block);
			h->fill = 0;
		}
	}
}

void uio_sha256_end(struct uio_sha256 *h, uint8_t digest[UIO_SHA256_SIZE])
{
	static const uint8_t padding[64] = {0x80};
	uint64_t bits = h->size * 8;
	uint8_t length[8];

	/* Section 5.1.1: a one bit, zeroes, the length in bits. */
	for (unsigned int i = 0; i < 8; i++)
		length[i] = (uint8_t)(bits >> (56 - 8 * i));
	uio_sha256_add(h, padding, (h->fill < 56 ? 56 : 120) - h->fill);
	uio_sha256_add(h, length, sizeof(length));
	for (unsigned int i = 0; i < UIO_SHA256_SIZE; i++)
		digest[i] = (uint8_t)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}

void uio_sha256(const void *data, size_t size, uint8_t digest[UIO_SHA256_SIZE])
{
	struct uio_sha256 h;

	uio_sha256_begin(&h);
	uio_sha256_add(&h, data, size);
	uio_sha256_end(&h, digest);
}
