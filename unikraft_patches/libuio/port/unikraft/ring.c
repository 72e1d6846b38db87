/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The rings of virtqueues (virtio 1.2, section 2.7). The bus makes them and
 * handles their interrupts; descriptors are ours, since the bus' own functions
 * cannot forget a buffer, and since of a legacy device's rings, which are of
 * the device's size, this makes half as much memory: the used ring, at the
 * beginning of a page, lies over descriptors of the next queue that are left
 * unused. So n rings take n + 1 pages, and what remains of each page has room
 * for what we know of the queue.
 */
#include <errno.h>
#include <string.h>
#include <uk/alloc.h>
#include <uk/errptr.h>
#include <uk/plat/io.h>

#include "ring.h"

#define RING_ALIGN  UIO_PAGE_SIZE /* of legacy devices */
#define CHUNK_PAGES 8u            /* at most at once */
#define LEAST       48u           /* descriptors that a queue must have left, if it had them */
#define NONE        UINT16_MAX

#if CONFIG_LIBUKVMEM
#define BUS_MAKES_RINGS true /* of frames that it takes by itself */
#else
#define BUS_MAKES_RINGS false
#endif

/* Unikraft 0.17's struct virtqueue_vring, as far as it matters here. */
struct ring_record {
	struct virtqueue queue;
	struct vring ring;
	void *memory;
	uint16_t free, free_head;
	volatile uint16_t last_used; /* interrupts without news since then are dropped */
};

/* Pages in a row; the next ring begins at the last one that is in use. */
static struct {
	char *next;
	unsigned int left; /* pages from there on */
	size_t overlap;    /* bytes at the beginning of it that are another ring's */
} chunk;

static size_t descriptors_and_avail(size_t entries)
{
	return entries * sizeof(struct vring_desc) + sizeof(struct vring_avail) +
	       entries * sizeof(uint16_t) + sizeof(uint16_t);
}

static size_t used_size(size_t entries)
{
	return sizeof(struct vring_used) + entries * sizeof(struct vring_used_elem) +
	       sizeof(uint16_t);
}

/* ---- memory, in the form of an allocator that the bus is given ---- */

static char *place; /* for the ring that is being set up; NULL: of its own */
static struct ring_record *made;

static int ring_memalign(struct uk_alloc *a __unused, void **out, __sz align __unused, __sz size)
{
	*out = place ? place : uio_port_dma_alloc(size);
	return *out ? 0 : ENOMEM;
}

/* The bus asks for its record of the ring with room for cookies, which are in struct uio_vq. */
static void *ring_malloc(struct uk_alloc *a __unused, __sz size __unused)
{
	made = uio_port_alloc(sizeof(*made));
	if (made)
		memset(made, 0, sizeof(*made));
	return made;
}

static void ring_free(struct uk_alloc *a __unused, void *ptr)
{
	if (ptr == made)
		made = NULL;
	uio_port_free(ptr);
}

static struct uk_alloc ring_memory = {
	.malloc = ring_malloc,
	.posix_memalign = ring_memalign,
	.free = ring_free,
};

static size_t pages_of(unsigned int entries)
{
	return (vring_size(entries, RING_ALIGN) + UIO_PAGE_SIZE - 1) / UIO_PAGE_SIZE;
}

/** Descriptors that the next ring of the chunk cannot use; all: it does not fit in there. */
static unsigned int covered(unsigned int entries)
{
	size_t n = (chunk.overlap + sizeof(struct vring_desc) - 1) / sizeof(struct vring_desc);

	/* Only of small rings do all descriptors lie in one page. */
	if (pages_of(entries) != 2 || chunk.left < 2 ||
	    n + (entries < LEAST ? entries : LEAST) > entries)
		return entries;
	return (unsigned int)n;
}

/** Find a place for a ring; which descriptors lie under another one. */
static bool find_place(unsigned int entries, unsigned int more, unsigned int *first)
{
	size_t pages = pages_of(entries);

	*first = covered(entries);
	if (*first < entries) {
		place = chunk.next;
	} else {
		*first = 0;
		if (pages == 2 && chunk.left < 2)
			while (pages < CHUNK_PAGES && pages - 1 < more + 1)
				pages *= 2;
		place = uio_port_dma_alloc(pages * UIO_PAGE_SIZE);
		if (!place)
			return false;
		if (chunk.left >= 2 || pages_of(entries) != 2)
			return true; /* one that is out of the row */
		chunk.next = place;
		chunk.left = (unsigned int)pages;
	}
	chunk.next += UIO_PAGE_SIZE;
	chunk.left--;
	chunk.overlap = used_size(entries);
	return true;
}

/** Memory for a queue: behind its descriptors, if there is room in their page. */
static struct uio_vq *queue_memory(unsigned int entries)
{
	size_t at = (descriptors_and_avail(entries) + 15) & ~(size_t)15;
	size_t size = sizeof(struct uio_vq) + entries * sizeof(void *);
	struct uio_vq *q;

	if (place && at + size <= UIO_PAGE_SIZE)
		q = (struct uio_vq *)(place + at);
	else
		q = uio_port_alloc(size);
	if (q)
		memset(q, 0, size);
	return q;
}

static bool record_is_known(const struct ring_record *r, const struct virtqueue *queue,
			    unsigned int entries)
{
	return r && queue == &r->queue && r->ring.num == entries && r->memory == r->ring.desc &&
	       r->free == entries && r->free_head == 0 && r->last_used == 0;
}

struct uio_vq *uio_ring_new(struct virtio_dev *dev, uint16_t index, uint16_t entries,
			    unsigned int more, virtqueue_callback_t callback)
{
	unsigned int first = 0;
	struct virtqueue *queue;
	struct uio_vq *q;

	place = NULL;
	made = NULL;
	if (!BUS_MAKES_RINGS && !find_place(entries, more, &first))
		return NULL;
	queue = virtio_vqueue_setup(dev, index, entries, callback, &ring_memory);
	if (PTRISERR(queue) || !record_is_known(made, queue, entries))
		return NULL;
	q = queue_memory(entries);
	if (!q)
		return NULL;
	q->queue = queue;
	q->record = made;
	q->ring = made->ring;
	q->first = (uint16_t)first;
	q->size = q->free = (uint16_t)(entries - first);
	q->free_head = (uint16_t)first;
	for (unsigned int i = first; i < entries; i++)
		q->ring.desc[i].next = i + 1u < entries ? (uint16_t)(i + 1) : NONE;
	queue->priv = q;
	return q;
}

/* ---- buffers ---- */

static void free_chain(struct uio_vq *q, uint16_t head)
{
	uint16_t last = head;

	q->free++;
	while (q->ring.desc[last].flags & VRING_DESC_F_NEXT) {
		last = q->ring.desc[last].next;
		q->free++;
	}
	q->ring.desc[last].next = q->free_head;
	q->free_head = head;
	q->cookie[head] = NULL;
}

int uio_port_vq_add(struct uio_vq *q, const struct uio_sg *sg, unsigned int out, unsigned int in,
		    void *cookie)
{
	unsigned int n = out + in;
	uint16_t head = q->free_head;
	uint16_t at = head;

	if (n == 0 || n > q->size)
		return -EINVAL;
	if (n > q->free)
		return -ENOSPC;
	for (unsigned int i = 0; i < n; i++) {
		struct vring_desc *d = &q->ring.desc[at];

		d->addr = ukplat_virt_to_phys(sg[i].addr);
		d->len = sg[i].len;
		d->flags =
			(i >= out ? VRING_DESC_F_WRITE : 0) | (i + 1 < n ? VRING_DESC_F_NEXT : 0);
		at = d->next;
	}
	q->free_head = at;
	q->free = (uint16_t)(q->free - n);
	q->cookie[head] = cookie;
	q->ring.avail->ring[q->ring.avail->idx % q->ring.num] = head;
	wmb(); /* the device sees the buffer before it sees that there is one */
	q->ring.avail->idx++;
	return 0;
}

/*
 * QEMU before 8.1 leaves out memory barriers when it emulates one CPU, so that the device and we
 * may both miss what the other has just said; `pause` makes its thread take a lock, which is a
 * barrier. It costs next to nothing elsewhere.
 */
static void device_barrier(void)
{
	__asm__ volatile("pause" : : : "memory");
}

void uio_port_vq_kick(struct uio_vq *q)
{
	device_barrier();
	virtqueue_host_notify(q->queue);
}

void *uio_port_vq_get(struct uio_vq *q, uint32_t *len)
{
	while (q->last_used != *(volatile uint16_t *)&q->ring.used->idx) {
		const struct vring_used_elem *e;
		void *cookie = NULL;
		uint32_t id;

		rmb();
		e = &q->ring.used->ring[q->last_used % q->ring.num];
		id = e->id;
		*len = e->len;
		q->record->last_used = ++q->last_used;
		if (id >= q->first && id < q->ring.num)
			cookie = q->cookie[id];
		if (!cookie)
			continue; /* a buffer that we never offered, or have forgotten */
		free_chain(q, (uint16_t)id);
		return cookie;
	}
	return NULL;
}

void uio_port_vq_forget(struct uio_vq *q, void *cookie)
{
	for (uint16_t i = q->first; i < q->ring.num; i++) {
		if (q->cookie[i] == cookie) {
			free_chain(q, i);
			return;
		}
	}
}

bool uio_port_vq_irq_on(struct uio_vq *q)
{
	if (virtqueue_intr_enable(q->queue) != 0)
		return false;
	device_barrier();
	return !virtqueue_hasdata(q->queue);
}

unsigned int uio_port_vq_size(const struct uio_vq *q)
{
	return q->size;
}
