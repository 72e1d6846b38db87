/* SPDX-License-Identifier: BSD-3-Clause */
/* The hash kinds of maps, for bpf_map.c: the caller holds the lock. */
#ifndef UIO_BPF_HASH_H
#define UIO_BPF_HASH_H

#include "bpf.h"

/** Never 0. */
uint32_t uio_bpf_hash_bytes(const void *bytes, size_t len);

void uio_bpf_hash_clear(struct bpf_map *m);
void *uio_bpf_hash_lookup(struct bpf_map *m, const void *key);
/** Find or make the entry of a key; *value is where its value lies, old or not yet written. */
int uio_bpf_hash_insert(struct bpf_map *m, const void *key, uint64_t flags, uint8_t **value);
int uio_bpf_hash_delete(struct bpf_map *m, const void *key);

#endif /* UIO_BPF_HASH_H */
