/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ring buffers: records from programs to the host, in the order in which they
 * were reserved. A record is contiguous; where the end of the memory is too
 * near, a discarded record fills it. A record not yet committed holds back those
 * behind it.
 */
#include <errno.h>
#include <string.h>

#include "bpf.h"

#define BUSY    (UINT32_C(1) << 31)
#define DISCARD (UINT32_C(1) << 30)
#define LENGTH  (DISCARD - 1)

struct header {
	uint32_t state; /* length and the two bits above */
	uint32_t zero;
};

static struct header *header_at(struct bpf_map *ring, uint64_t position)
{
	return (void *)(ring->values + (position & (ring->def.max_entries - 1)));
}

static uint64_t record_bytes(uint64_t size)
{
	return sizeof(struct header) + ((size + 7) & ~UINT64_C(7));
}

static uintptr_t lock(const struct bpf_map *ring)
{
	return ring->env->lock ? ring->env->lock() : 0;
}

static void unlock(const struct bpf_map *ring, uintptr_t key)
{
	if (ring->env->unlock)
		ring->env->unlock(key);
}

void *uio_bpf_ring_reserve(struct bpf_map *ring, uint64_t size)
{
	uint64_t capacity = ring->def.max_entries, fill = 0, to_end;
	struct header *h = NULL;
	uintptr_t key;

	if (ring->def.type != BPF_MAP_RINGBUF)
		return NULL;
	key = lock(ring);
	to_end = capacity - (ring->head & (capacity - 1));
	if (size <= capacity && record_bytes(size) > to_end)
		fill = to_end;
	if (size > capacity || ring->head - ring->tail + fill + record_bytes(size) > capacity) {
		ring->drops++;
		unlock(ring, key);
		return NULL;
	}
	if (fill > 0) {
		h = header_at(ring, ring->head);
		h->state = DISCARD | (uint32_t)(fill - sizeof(*h));
		ring->head += fill;
	}
	h = header_at(ring, ring->head);
	h->state = BUSY | (uint32_t)size;
	ring->head += record_bytes(size);
	unlock(ring, key);
	return h + 1;
}

void uio_bpf_ring_commit(struct bpf_map *ring, void *record, bool discard)
{
	struct header *h = (struct header *)record - 1;
	uint32_t state = (h->state & LENGTH) | (discard ? DISCARD : 0);

	__atomic_store_n(&h->state, state, __ATOMIC_RELEASE);
	if (!discard && ring->env->wake)
		ring->env->wake(ring);
}

int64_t uio_bpf_ring_read(struct bpf_map *ring, void *buf, size_t len)
{
	uintptr_t key = lock(ring);
	int64_t got = 0;

	while (ring->tail != ring->head) {
		struct header *h = header_at(ring, ring->tail);
		uint32_t state = __atomic_load_n(&h->state, __ATOMIC_ACQUIRE);
		uint32_t size = state & LENGTH;

		if (state & BUSY)
			break;
		if (!(state & DISCARD)) {
			got = -EMSGSIZE;
			if (size > len)
				break;
			memcpy(buf, h + 1, size);
			got = (int64_t)size;
		}
		ring->tail += record_bytes(size);
		if (!(state & DISCARD))
			break;
	}
	unlock(ring, key);
	return got;
}
