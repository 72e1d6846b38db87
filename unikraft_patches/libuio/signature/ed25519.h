/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef UIO_SIGNATURE_ED25519_H
#define UIO_SIGNATURE_ED25519_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A message is what its pieces are one after another. */
struct uio_piece {
	const void *data;
	size_t size;
};

/** Whether this is the signature of the message by the owner of this key. Lets others run. */
bool uio_ed25519_check(const uint8_t signature[64], const uint8_t key[32],
		       const struct uio_piece *pieces, unsigned int n);

#endif /* UIO_SIGNATURE_ED25519_H */
