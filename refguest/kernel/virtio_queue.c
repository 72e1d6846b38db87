/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Split virtqueue (virtio 1.1, section 2.6). With EVENT_IDX the device and we tell one another from
 * which index on we want to hear; without it, flags do. queue_get() does not ask for interrupts:
 * queue_irq_on() does.
 */
#include <errno.h>
#include <string.h>

#include "cpu.h"
#include "memory.h"
#include "virtio.h"

#define DESC_NEXT  1
#define DESC_WRITE 2

#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY     1

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct avail {
	uint16_t flags, index;
	uint16_t ring[]; /* then used_event */
};

struct used_entry {
	uint32_t id, len;
};

struct used {
	uint16_t flags, index;
	struct used_entry ring[]; /* then avail_event */
};

struct virtio_queue {
	unsigned int size;
	struct desc *desc;
	volatile struct avail *avail;
	volatile struct used *used;
	uint16_t free_head, free_count;
	uint16_t avail_index, kicked_index, used_index;
	uint16_t index;
	uint16_t io;
	bool events;
	volatile void *doorbell;
	void (*notify)(void *);
	void *arg;
	void *cookies[];
};

/*
 * What we stored is seen by the device before we load what it says: else both think that the other
 * has been told, and wait. QEMU before 8.1 leaves the fence out when it emulates one CPU ("Do not
 * elide memory barriers for !CF_PARALLEL"); `pause` makes its thread take a lock, which is one.
 */
static void barrier(void)
{
	__asm__ volatile("mfence; pause" : : : "memory");
}

static volatile uint16_t *used_event(struct virtio_queue *q)
{
	return &q->avail->ring[q->size];
}

static volatile uint16_t *avail_event(struct virtio_queue *q)
{
	return (volatile uint16_t *)&q->used->ring[q->size];
}

/* Legacy devices want the used ring on a page of its own. */
static size_t used_offset(unsigned int size, bool legacy)
{
	size_t end = sizeof(struct desc) * size + 6 + 2 * size;
	size_t mask = legacy ? PAGE_MASK : 3;

	return (end + mask) & ~mask;
}

static size_t used_end(unsigned int size, bool legacy)
{
	size_t end = used_offset(size, legacy) + 6 + sizeof(struct used_entry) * size;

	return (end + 15) & ~15ull;
}

size_t queue_bytes(unsigned int size, bool legacy)
{
	size_t bytes = used_end(size, legacy) + sizeof(struct virtio_queue) + size * sizeof(void *);
	size_t mask = legacy ? PAGE_MASK : 15;

	return (bytes + mask) & ~mask;
}

struct virtio_queue *queue_place(uint8_t *memory, unsigned int size, bool legacy)
{
	struct virtio_queue *q = (struct virtio_queue *)(memory + used_end(size, legacy));

	memset(memory, 0, queue_bytes(size, legacy));
	q->size = size;
	q->desc = (struct desc *)memory;
	q->avail = (volatile struct avail *)(memory + sizeof(struct desc) * size);
	q->used = (volatile struct used *)(memory + used_offset(size, legacy));
	for (unsigned int i = 0; i < size; i++)
		q->desc[i].next = (uint16_t)(i + 1);
	q->free_count = (uint16_t)size;
	return q;
}

void queue_addresses(const struct virtio_queue *q, uint64_t out[3])
{
	out[0] = (uint64_t)q->desc;
	out[1] = (uint64_t)q->avail;
	out[2] = (uint64_t)q->used;
}

void queue_attach(struct virtio_queue *q, volatile void *doorbell, uint16_t io, uint16_t index,
		  bool events, void (*notify)(void *), void *arg)
{
	q->doorbell = doorbell;
	q->io = io;
	q->index = index;
	q->events = events;
	q->notify = notify;
	q->arg = arg;
	if (!notify)
		q->avail->flags = AVAIL_NO_INTERRUPT;
}

void queue_interrupt(struct virtio_queue *q)
{
	if (q->notify && q->used->index != q->used_index)
		q->notify(q->arg);
}

/** Memory lies at its own address, but for the arena's. */
static uint64_t physical(const void *addr)
{
	uintptr_t va = (uintptr_t)addr;

	if (va < ARENA_BASE || va >= ARENA_END)
		return va;
	return (*page_entry(va, true) & PTE_FRAME) + va % PAGE_SIZE;
}

int queue_add(struct virtio_queue *q, const struct virtio_piece *pieces, unsigned int out,
	      unsigned int in, void *cookie)
{
	unsigned int n = out + in;
	uint16_t head = q->free_head, at = head, last = head;

	if (!n || n > q->size)
		return -EINVAL;
	if (n > q->free_count)
		return -ENOSPC;
	for (unsigned int i = 0; i < n; i++) {
		struct desc *d = &q->desc[at];

		d->addr = physical(pieces[i].addr);
		d->len = pieces[i].len;
		d->flags = (uint16_t)((i >= out ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0));
		last = at;
		at = d->next;
	}
	q->free_head = q->desc[last].next;
	q->free_count = (uint16_t)(q->free_count - n);
	q->cookies[head] = cookie;
	q->avail->ring[q->avail_index % q->size] = head;
	q->avail_index++;
	__asm__ volatile("" : : : "memory");
	q->avail->index = q->avail_index;
	return 0;
}

void queue_kick(struct virtio_queue *q)
{
	uint16_t before = q->kicked_index, now = q->avail_index;
	bool wanted;

	if (before == now)
		return;
	q->kicked_index = now;
	barrier();
	if (q->events)
		wanted = (uint16_t)(now - *avail_event(q) - 1) < (uint16_t)(now - before);
	else
		wanted = !(q->used->flags & USED_NO_NOTIFY);
	if (!wanted)
		return;
	if (q->doorbell)
		*(volatile uint16_t *)q->doorbell = q->index;
	else
		outw(q->io, q->index);
}

static void free_chain(struct virtio_queue *q, uint16_t head)
{
	uint16_t at = head;

	q->cookies[head] = NULL;
	for (; q->desc[at].flags & DESC_NEXT; at = q->desc[at].next)
		q->free_count++;
	q->free_count++;
	q->desc[at].next = q->free_head;
	q->free_head = head;
}

void *queue_get(struct virtio_queue *q, uint32_t *len)
{
	volatile struct used_entry *entry;
	uint32_t head;
	void *cookie;

	for (;;) {
		if (q->used_index == q->used->index)
			return NULL;
		__asm__ volatile("" : : : "memory");
		entry = &q->used->ring[q->used_index % q->size];
		head = entry->id;
		q->used_index++;
		/* What the device says is checked: an id that we did not hand out is passed over.
		 */
		if (head < q->size && q->cookies[head])
			break;
	}
	cookie = q->cookies[head];
	if (len)
		*len = entry->len;
	free_chain(q, (uint16_t)head);
	return cookie;
}

void queue_forget(struct virtio_queue *q, void *cookie)
{
	for (unsigned int head = 0; head < q->size; head++)
		if (q->cookies[head] == cookie) {
			free_chain(q, (uint16_t)head);
			return;
		}
}

bool queue_irq_on(struct virtio_queue *q)
{
	if (q->events)
		*used_event(q) = q->used_index;
	q->avail->flags = 0;
	barrier();
	return q->used_index == q->used->index;
}

unsigned int queue_size(const struct virtio_queue *q)
{
	return q->size;
}
