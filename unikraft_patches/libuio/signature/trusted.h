/* SPDX-License-Identifier: BSD-3-Clause */
/* The keys that this kernel trusts. keys.py writes the C file that defines them. */
#ifndef UIO_SIGNATURE_TRUSTED_H
#define UIO_SIGNATURE_TRUSTED_H

#include <stdint.h>

struct uio_trusted_key {
	char name[25];
	uint8_t id[16], raw[32];
};

extern const struct uio_trusted_key uio_trusted_keys[];
extern const unsigned int uio_trusted_key_count;

#endif /* UIO_SIGNATURE_TRUSTED_H */
