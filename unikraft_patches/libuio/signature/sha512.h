/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef UIO_SIGNATURE_SHA512_H
#define UIO_SIGNATURE_SHA512_H

#include <stddef.h>
#include <stdint.h>

#define UIO_SHA512_SIZE 64

struct uio_sha512 {
	uint64_t state[8], size;
	size_t fill;
	uint8_t block[128];
};

void uio_sha512_begin(struct uio_sha512 *h);
void uio_sha512_add(struct uio_sha512 *h, const void *data, size_t size);
void uio_sha512_end(struct uio_sha512 *h, uint8_t digest[UIO_SHA512_SIZE]);

#endif /* UIO_SIGNATURE_SHA512_H */
