/* SPDX-License-Identifier: BSD-3-Clause */
/* SHA-256 (FIPS 180-4): overlays are known by the digest of their file. */
#ifndef UIO_CORE_SHA256_H
#define UIO_CORE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define UIO_SHA256_SIZE 32

struct uio_sha256 {
	uint32_t state[8];
	uint64_t size;
	size_t fill;
	uint8_t block[64];
};

void uio_sha256_begin(struct uio_sha256 *h);
void uio_sha256_add(struct uio_sha256 *h, const void *data, size_t size);
void uio_sha256_end(struct uio_sha256 *h, uint8_t digest[UIO_SHA256_SIZE]);

/** Of one piece of memory. */
void uio_sha256(const void *data, size_t size, uint8_t digest[UIO_SHA256_SIZE]);

#endif /* UIO_CORE_SHA256_H */
