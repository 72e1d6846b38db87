/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checking an Ed25519 signature (RFC 8032, section 5.1.7). The arithmetic on
 * the curve and modulo its order is Monocypher's, which is fetched and not
 * part of these sources; the hash is sha512.c.
 */

#include "ed25519.h"

#include <uio/port.h>

#include "monocypher.h"
#include "sha512.h"

#define AT_ONCE (128u * 1024) /* bytes hashed before others may run */

static void add(struct uio_sha512 *h, const struct uio_piece *piece)
{
	for (size_t at = 0; at < piece->size; at += AT_ONCE) {
		size_t n = piece->size - at;

		if (n > AT_ONCE) {
			n = AT_ONCE;
			uio_port_yield();
		}
		uio_sha512_add(h, (const uint8_t *)piece->data + at, n);
	}
}

bool uio_ed25519_check(const uint8_t signature[64], const uint8_t key[32],
		       const struct uio_piece *pieces, unsigned int n)
{
	uint8_t digest[UIO_SHA512_SIZE], reduced[32];
	struct uio_sha512 h;

	uio_sha512_begin(&h);
	uio_sha512_add(&h, signature, 32);
	uio_sha512_add(&h, key, 32);
	for (unsigned int i = 0; i < n; i++)
		add(&h, &pieces[i]);
	uio_sha512_end(&h, digest);
	crypto_eddsa_reduce(reduced, digest);
	return crypto_eddsa_check_equation(signature, key, reduced) == 0;
}
