/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Maps: their creation, the operations on any of them, and the kinds that are
 * arrays (plain, per thread, of stacks). Hash maps are in bpf_hash.c, ring
 * buffers in bpf_ring.c. All memory of a map is one piece, taken at creation, so no
 * operation ever needs any.
 */
#include <errno.h>
#include <string.h>

#include <uio/port.h>

#include "bpf.h"
#include "bpf_hash.h"

#define MAX_KEY     256u
#define MAX_VALUE   (1u << 20)
#define MAX_ENTRIES (1u << 20)
#define MAX_RING    (1u << 26)
#define MAX_DEPTH   128u /* of a stack */

static uintptr_t lock(const struct bpf_map *map)
{
	return map->env->lock ? map->env->lock() : 0;
}

static void unlock(const struct bpf_map *map, uintptr_t key)
{
	if (map->env->unlock)
		map->env->unlock(key);
}

/* ---- creation ---- */

static bool is_hash(uint32_t type)
{
	return type == BPF_MAP_HASH || type == BPF_MAP_LRU_HASH;
}

static bool def_is_valid(const struct bpf_map_def *d)
{
	if (d->type == BPF_MAP_RINGBUF)
		return d->key_size == 0 && d->value_size == 0 && d->flags == 0 &&
		       d->max_entries >= 64 && d->max_entries <= MAX_RING &&
		       (d->max_entries & (d->max_entries - 1)) == 0;
	if (d->max_entries == 0 || d->max_entries > MAX_ENTRIES || d->value_size == 0 ||
	    d->value_size > MAX_VALUE || d->flags & ~BPF_MAP_RDONLY)
		return false;
	switch (d->type) {
	case BPF_MAP_ARRAY:
	case BPF_MAP_THREAD_ARRAY:
		return d->key_size == 4;
	case BPF_MAP_HASH:
	case BPF_MAP_LRU_HASH:
		return d->key_size >= 1 && d->key_size <= MAX_KEY;
	case BPF_MAP_STACK:
		return d->key_size == 4 && d->value_size % 8 == 0 && d->value_size <= MAX_DEPTH * 8;
	default:
		return false;
	}
}

static uint32_t power_of_two(uint32_t n)
{
	uint32_t p = 1;

	while (p < n)
		p *= 2;
	return p;
}

static uint64_t round8(uint64_t n)
{
	return (n + 7) & ~UINT64_C(7);
}

/* Lay the arrays out behind the struct, or (base NULL) only count the bytes. */
static uint64_t lay_out(struct bpf_map *m, uint8_t *base)
{
	const struct bpf_map_def *d = &m->def;
	uint64_t at = round8(sizeof(*m)), n = d->max_entries;
	struct {
		uint32_t **array;
		uint64_t count;
	} index[5] = {{NULL, 0}};
	unsigned int indexes = 0;

	m->stride = d->type == BPF_MAP_RINGBUF ? 1 : (uint32_t)round8(d->value_size);
	if (d->type == BPF_MAP_THREAD_ARRAY)
		n *= BPF_THREAD_SLOTS;
	if (base != NULL)
		m->values = base + at;
	at += round8(n * m->stride);
	if (is_hash(d->type)) {
		m->key_stride = (uint32_t)round8(d->key_size);
		if (base != NULL)
			m->keys = base + at;
		at += n * m->key_stride;
		m->buckets = power_of_two(d->max_entries);
		index[indexes].array = &m->next;
		index[indexes++].count = n;
		index[indexes].array = &m->bucket;
		index[indexes++].count = m->buckets;
	}
	if (d->type == BPF_MAP_LRU_HASH) {
		index[indexes].array = &m->newer;
		index[indexes++].count = n;
		index[indexes].array = &m->older;
		index[indexes++].count = n;
	}
	if (is_hash(d->type) || d->type == BPF_MAP_STACK) {
		index[indexes].array = &m->hash;
		index[indexes++].count = n;
	}
	for (unsigned int i = 0; i < indexes; i++) {
		if (base != NULL)
			*index[i].array = (uint32_t *)(void *)(base + at);
		at += round8(index[i].count * sizeof(uint32_t));
	}
	return at;
}

size_t uio_bpf_map_bytes(const struct bpf_map_def *def)
{
	struct bpf_map m = {.def = *def};

	return def_is_valid(def) ? lay_out(&m, NULL) : 0;
}

static void forget(struct bpf_map *m)
{
	m->count = m->threads = 0;
	m->head = m->tail = 0;
	if (m->hash != NULL)
		memset(m->hash, 0, m->def.max_entries * sizeof(uint32_t));
	if (is_hash(m->def.type))
		uio_bpf_hash_clear(m);
	else if (m->def.type != BPF_MAP_RINGBUF)
		memset(m->values, 0, m->span ? m->span : (size_t)m->def.max_entries * m->stride);
}

int uio_bpf_map_create(struct bpf_map **out, const struct bpf_map_def *def,
		       const struct bpf_env *env, size_t max_bytes)
{
	size_t bytes = uio_bpf_map_bytes(def);
	struct bpf_map *m;

	if (bytes == 0)
		return -EINVAL;
	if (bytes > max_bytes)
		return -E2BIG;
	m = uio_port_alloc(bytes);
	if (m == NULL)
		return -ENOMEM;
	memset(m, 0, bytes);
	m->def = *def;
	m->def.name[BPF_NAME_MAX - 1] = '\0';
	m->env = env;
	m->bytes = bytes;
	lay_out(m, (uint8_t *)m);
	/* Records and stacks are not reached by address. */
	if (def->type != BPF_MAP_RINGBUF && def->type != BPF_MAP_STACK)
		m->span = (size_t)m->stride * def->max_entries *
			  (def->type == BPF_MAP_THREAD_ARRAY ? BPF_THREAD_SLOTS : 1);
	forget(m);
	*out = m;
	return 0;
}

void uio_bpf_map_destroy(struct bpf_map *map)
{
	uio_port_free(map);
}

void uio_bpf_map_clear(struct bpf_map *map)
{
	uintptr_t key = lock(map);

	forget(map);
	unlock(map, key);
}

/* ---- one entry ---- */

static uint8_t *value_at(const struct bpf_map *m, uint64_t i)
{
	return m->values + i * m->stride;
}

/* Which of a per-thread array's arrays is the running thread's; -1: all are taken. */
static int thread_slot(struct bpf_map *m)
{
	uint32_t id = m->env->thread ? m->env->thread() : 0;
	int slot;

	for (uint32_t i = 0; i < m->threads; i++)
		if (m->thread[i] == id)
			return (int)i;
	if (m->threads == BPF_THREAD_SLOTS) {
		m->drops++;
		return -1;
	}
	slot = (int)m->threads++;
	m->thread[slot] = id;
	return slot;
}

static void *lookup(struct bpf_map *m, const void *key)
{
	uint32_t i;
	int slot;

	if (is_hash(m->def.type))
		return uio_bpf_hash_lookup(m, key);
	if (m->def.type == BPF_MAP_RINGBUF)
		return NULL;
	memcpy(&i, key, sizeof(i));
	if (i >= m->def.max_entries)
		return NULL;
	if (m->def.type == BPF_MAP_STACK)
		return m->hash[i] ? value_at(m, i) : NULL;
	if (m->def.type == BPF_MAP_ARRAY)
		return value_at(m, i);
	slot = thread_slot(m);
	return slot < 0 ? NULL : value_at(m, (uint64_t)slot * m->def.max_entries + i);
}

void *uio_bpf_map_lookup(struct bpf_map *map, const void *key)
{
	uintptr_t k;
	void *value;

	if (map->def.type == BPF_MAP_ARRAY)
		return lookup(map, key); /* nothing that could change below it */
	k = lock(map);
	value = lookup(map, key);
	unlock(map, k);
	return value;
}

int uio_bpf_map_update(struct bpf_map *map, const void *key, const void *value, uint64_t flags)
{
	uintptr_t k;
	uint8_t *to;
	int err = 0;

	if (flags > BPF_EXIST)
		return -EINVAL;
	k = lock(map);
	switch (map->def.type) {
	case BPF_MAP_HASH:
	case BPF_MAP_LRU_HASH:
		err = uio_bpf_hash_insert(map, key, flags, &to);
		break;
	case BPF_MAP_ARRAY:
	case BPF_MAP_THREAD_ARRAY:
		to = lookup(map, key);
		if (to == NULL)
			err = -E2BIG;
		else if (flags == BPF_NOEXIST)
			err = -EEXIST;
		break;
	default:
		err = -EINVAL;
	}
	/* The value may be that very entry. */
	if (err == 0)
		memmove(to, value, map->def.value_size);
	unlock(map, k);
	return err;
}

int uio_bpf_map_delete(struct bpf_map *map, const void *key)
{
	uintptr_t k = lock(map);
	uint8_t *value;
	int err = -EINVAL;

	if (is_hash(map->def.type)) {
		err = uio_bpf_hash_delete(map, key);
	} else if (map->def.type == BPF_MAP_STACK) {
		value = lookup(map, key);
		err = value == NULL ? -ENOENT : 0;
		if (value != NULL) {
			map->hash[(size_t)(value - map->values) / map->stride] = 0;
			map->count--;
		}
	}
	unlock(map, k);
	return err;
}

int uio_bpf_map_add(struct bpf_map *map, const void *key, uint64_t delta)
{
	uintptr_t k;
	uint8_t *to;
	uint64_t v;
	uint32_t i;
	int err = 0;

	if (map->def.value_size < sizeof(v))
		return -EINVAL;
	if (map->def.type == BPF_MAP_ARRAY && !map->env->lock) {
		memcpy(&i, key, sizeof(i));
		if (i >= map->def.max_entries)
			return -E2BIG;
		to = value_at(map, i);
		memcpy(&v, to, sizeof(v));
		v += delta;
		memcpy(to, &v, sizeof(v));
		return 0;
	}
	k = lock(map);
	to = lookup(map, key);
	if (to == NULL && is_hash(map->def.type)) {
		err = uio_bpf_hash_insert(map, key, BPF_NOEXIST, &to);
		if (err == 0)
			memset(to, 0, map->def.value_size);
	} else if (to == NULL) {
		err = -E2BIG;
	}
	if (err == 0) {
		memcpy(&v, to, sizeof(v));
		v += delta;
		memcpy(to, &v, sizeof(v));
	}
	unlock(map, k);
	return err;
}

/* ---- walking ---- */

static bool entry_exists(const struct bpf_map *m, uint64_t i)
{
	return m->hash == NULL || m->hash[i] != 0;
}

bool uio_bpf_map_next(struct bpf_map *map, uint64_t *cursor, void *key, void *value,
		      uint32_t *thread)
{
	uintptr_t k = lock(map);
	uint64_t n = map->def.max_entries, i = *cursor;
	uint32_t number;
	bool found;

	if (map->def.type == BPF_MAP_THREAD_ARRAY)
		n *= map->threads;
	if (map->def.type == BPF_MAP_RINGBUF)
		n = 0;
	while (i < n && !entry_exists(map, i))
		i++;
	found = i < n;
	if (found) {
		number = (uint32_t)(i % map->def.max_entries);
		if (is_hash(map->def.type))
			memcpy(key, map->keys + i * map->key_stride, map->def.key_size);
		else
			memcpy(key, &number, sizeof(number));
		memcpy(value, value_at(map, i), map->def.value_size);
		*thread = map->def.type == BPF_MAP_THREAD_ARRAY
				  ? map->thread[i / map->def.max_entries]
				  : 0;
		*cursor = i + 1;
	}
	unlock(map, k);
	return found;
}

/* ---- stacks ---- */

int64_t uio_bpf_stack_id(struct bpf_map *map, const uint64_t *pc, size_t depth, uint64_t flags)
{
	size_t max = map->def.value_size / sizeof(*pc);
	uint32_t hash, i;
	uintptr_t k;
	uint8_t *to;
	int64_t id;

	if (map->def.type != BPF_MAP_STACK)
		return -EINVAL;
	if (depth > max)
		depth = max;
	hash = uio_bpf_hash_bytes(pc, depth * sizeof(*pc));
	i = hash % map->def.max_entries;
	id = (int64_t)i;
	k = lock(map);
	to = value_at(map, i);
	if (map->hash[i] == hash && memcmp(to, pc, depth * sizeof(*pc)) == 0 &&
	    (depth == max || memcmp(to + depth * sizeof(*pc), &(uint64_t){0}, sizeof(*pc)) == 0)) {
		/* known */
	} else if (map->hash[i] != 0 && !(flags & BPF_STACK_REUSE)) {
		map->drops++;
		id = -EEXIST;
	} else {
		map->count += map->hash[i] == 0;
		map->hash[i] = hash;
		memset(to, 0, map->def.value_size);
		memcpy(to, pc, depth * sizeof(*pc));
	}
	unlock(map, k);
	return id;
}
