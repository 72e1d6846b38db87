/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Hash maps, with and without eviction of the least recently used entry.
 * Entries are numbers into the map's arrays, chained per bucket; free ones
 * are chained too. A used entry's hash is never 0.
 */
#include <errno.h>
#include <string.h>

#include "bpf_hash.h"

#define NONE UINT32_MAX

uint32_t uio_bpf_hash_bytes(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	uint64_t h = len * UINT64_C(0x9e3779b97f4a7c15), w;

	for (; len >= 8; len -= 8, p += 8) {
		memcpy(&w, p, 8);
		h = (h ^ w) * UINT64_C(0xff51afd7ed558ccd);
		h ^= h >> 32;
	}
	if (len > 0) {
		w = 0;
		memcpy(&w, p, len);
		h = (h ^ w) * UINT64_C(0xff51afd7ed558ccd);
		h ^= h >> 32;
	}
	h *= UINT64_C(0xc4ceb9fe1a85ec53);
	return (uint32_t)(h >> 32) | 1;
}

/* Keys are short; the C library's memcmp() goes byte by byte. */
static bool same(const uint8_t *a, const uint8_t *b, size_t len)
{
	uint64_t x, y;

	for (; len >= 8; len -= 8, a += 8, b += 8) {
		memcpy(&x, a, 8);
		memcpy(&y, b, 8);
		if (x != y)
			return false;
	}
	for (; len > 0; len--)
		if (*a++ != *b++)
			return false;
	return true;
}

void uio_bpf_hash_clear(struct bpf_map *m)
{
	for (uint32_t i = 0; i < m->buckets; i++)
		m->bucket[i] = NONE;
	for (uint32_t i = 0; i < m->def.max_entries; i++)
		m->next[i] = i + 1 < m->def.max_entries ? i + 1 : NONE;
	m->free = 0;
	m->newest = m->oldest = NONE;
}

/* The lowest bit of a hash is always set, so it is no use here. */
static uint32_t *bucket_of(struct bpf_map *m, uint32_t hash)
{
	return &m->bucket[hash >> 1 & (m->buckets - 1)];
}

/* The link that points to the entry of a key, or the one that ends its chain. */
static uint32_t *find(struct bpf_map *m, const void *key, uint32_t hash)
{
	uint32_t *link = bucket_of(m, hash);

	while (*link != NONE &&
	       (m->hash[*link] != hash ||
		!same(m->keys + (size_t)*link * m->key_stride, key, m->def.key_size)))
		link = &m->next[*link];
	return link;
}

static void unlink_use(struct bpf_map *m, uint32_t i)
{
	if (m->newer[i] != NONE)
		m->older[m->newer[i]] = m->older[i];
	else
		m->newest = m->older[i];
	if (m->older[i] != NONE)
		m->newer[m->older[i]] = m->newer[i];
	else
		m->oldest = m->newer[i];
}

static void link_newest(struct bpf_map *m, uint32_t i)
{
	m->newer[i] = NONE;
	m->older[i] = m->newest;
	if (m->newest != NONE)
		m->newer[m->newest] = i;
	else
		m->oldest = i;
	m->newest = i;
}

static void touch(struct bpf_map *m, uint32_t i)
{
	if (m->def.type != BPF_MAP_LRU_HASH || m->newest == i)
		return;
	unlink_use(m, i);
	link_newest(m, i);
}

static void remove_entry(struct bpf_map *m, uint32_t *link)
{
	uint32_t i = *link;

	*link = m->next[i];
	if (m->def.type == BPF_MAP_LRU_HASH)
		unlink_use(m, i);
	m->hash[i] = 0;
	m->next[i] = m->free;
	m->free = i;
	m->count--;
}

void *uio_bpf_hash_lookup(struct bpf_map *m, const void *key)
{
	uint32_t i = *find(m, key, uio_bpf_hash_bytes(key, m->def.key_size));

	if (i == NONE)
		return NULL;
	touch(m, i);
	return m->values + (size_t)i * m->stride;
}

int uio_bpf_hash_insert(struct bpf_map *m, const void *key, uint64_t flags, uint8_t **value)
{
	uint32_t hash = uio_bpf_hash_bytes(key, m->def.key_size);
	uint32_t i = *find(m, key, hash), *bucket;

	if (i != NONE) {
		if (flags == BPF_NOEXIST)
			return -EEXIST;
		touch(m, i);
		*value = m->values + (size_t)i * m->stride;
		return 0;
	}
	if (flags == BPF_EXIST)
		return -ENOENT;
	if (m->free == NONE) {
		m->drops++;
		if (m->def.type != BPF_MAP_LRU_HASH)
			return -E2BIG;
		i = m->oldest;
		remove_entry(m, find(m, m->keys + (size_t)i * m->key_stride, m->hash[i]));
	}
	i = m->free;
	m->free = m->next[i];
	memcpy(m->keys + (size_t)i * m->key_stride, key, m->def.key_size);
	m->hash[i] = hash;
	bucket = bucket_of(m, hash);
	m->next[i] = *bucket;
	*bucket = i;
	if (m->def.type == BPF_MAP_LRU_HASH)
		link_newest(m, i);
	m->count++;
	*value = m->values + (size_t)i * m->stride;
	return 0;
}

int uio_bpf_hash_delete(struct bpf_map *m, const void *key)
{
	uint32_t *link = find(m, key, uio_bpf_hash_bytes(key, m->def.key_size));

	if (*link == NONE)
		return -ENOENT;
	remove_entry(m, link);
	return 0;
}
