/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The virtio bus of Unikraft under the names of uio/port.h. The bus finds
 * console devices while it is probed; they wait here until the core opens
 * them. Works over whatever transports the bus has: PCI (legacy and
 * transitional devices) and MMIO. Callbacks run in interrupt context.
 */
#include <errno.h>
#include <string.h>
#include <uk/alloc.h>
#include <uk/errptr.h>
#include <uk/sglist.h>
#include <uk/plat/io.h>
#include <virtio/virtio_bus.h>
#include <virtio/virtio_ids.h>
#include <virtio/virtqueue.h>

#include "unikraft.h"

#define DEVICE_CONSOLE 3
#define MAX_QUEUES     64u /* 31 ports */
#define MAX_PIECES     64u

/* Of the features the core asks for, the ones that the bus itself negotiates. */
#define FEATURE_VERSION_1 (1ull << 32)

#if CONFIG_LIBUKVMEM
#define BUS_MAKES_RINGS true
#else
#define BUS_MAKES_RINGS false
#endif

struct uio_vdev {
	struct uio_vdev *next;
	struct virtio_dev *dev;
	unsigned int device_id;
	bool queues_found; /* the bus registers an interrupt handler each time it looks */
	uint16_t queue_size[MAX_QUEUES];
};

struct uio_vq {
	struct virtqueue *queue;
	void (*notify)(void *arg);
	void *arg;
};

static struct uio_vdev *devices;

static int add_device(struct virtio_dev *dev)
{
	struct uio_vdev *v = uio_port_alloc(sizeof(*v));
	struct uio_vdev **link = &devices;

	if (!v)
		return -ENOMEM;
	memset(v, 0, sizeof(*v));
	v->dev = dev;
	v->device_id = dev->id.virtio_device_id;
	while (*link)
		link = &(*link)->next;
	*link = v;
	return 0;
}

static const struct virtio_dev_id device_ids[] = {
	{DEVICE_CONSOLE},
	{VIRTIO_ID_INVALID},
};

static struct virtio_driver driver = {
	.dev_ids = device_ids,
	.add_dev = add_device,
};
VIRTIO_BUS_REGISTER_DRIVER(&driver);

int uio_port_virtio_open(unsigned int device_id, unsigned int index, uint64_t want, uint64_t *got,
			 struct uio_vdev **out)
{
	struct uio_vdev *v = devices;
	uint64_t offered;

	while (v && (v->device_id != device_id || index-- > 0))
		v = v->next;
	if (!v)
		return -ENODEV;
	virtio_dev_reset(v->dev);
	virtio_dev_status_update(v->dev, VIRTIO_CONFIG_STATUS_ACK);
	virtio_dev_status_update(v->dev, VIRTIO_CONFIG_STATUS_ACK | VIRTIO_CONFIG_STATUS_DRIVER);
	offered = virtio_feature_get(v->dev);
	v->dev->features = offered & (want | FEATURE_VERSION_1);
	virtio_feature_set(v->dev);
	*got = v->dev->features;
	*out = v;
	return 0;
}

int uio_port_virtio_config(struct uio_vdev *dev, size_t offset, void *buf, size_t len)
{
	uint8_t *bytes = buf;

	/* Byte by byte: the transports disagree about everything longer. */
	for (size_t i = 0; i < len; i++) {
		int rc = virtio_config_get(dev->dev, (__u16)(offset + i), bytes + i, 1, 1);

		if (rc != 0)
			return rc;
	}
	return 0;
}

static int on_interrupt(struct virtqueue *queue __unused, void *priv)
{
	struct uio_vq *vq = priv;

	if (vq->notify) {
		vq->notify(vq->arg);
		uio_preempt_soon();
	}
	return 1;
}

/*
 * Memory for one virtqueue, as an allocator in the form the bus wants: a ring
 * in whole pages, and the bus' own record of it in what is left of the last
 * one. The default allocator would take twice as much for each of them.
 */
#define RING_ALIGN UIO_PAGE_SIZE /* of legacy devices */

static char *ring, *ring_rest, *ring_end;

static bool ring_reserve(size_t entries)
{
	size_t size = vring_size((unsigned int)entries, RING_ALIGN);
	size_t pages = (size + UIO_PAGE_SIZE - 1) / UIO_PAGE_SIZE;

	ring = uio_port_dma_alloc(pages * UIO_PAGE_SIZE);
	if (!ring)
		return false;
	ring_rest = ring + ((size + 15) & ~(size_t)15);
	ring_end = ring + pages * UIO_PAGE_SIZE;
	return true;
}

static int ring_memalign(struct uk_alloc *a __unused, void **out, __sz align __unused, __sz size)
{
	*out = ring && size <= (size_t)(ring_end - ring) ? ring : uio_port_dma_alloc(size);
	ring = NULL;
	return *out ? 0 : ENOMEM;
}

static void *ring_malloc(struct uk_alloc *a __unused, __sz size)
{
	if (ring && size <= (size_t)(ring_end - ring_rest))
		return ring_rest;
	return uio_port_alloc(size);
}

/* The bus gives a record back when there is no ring for it, which is when we reserved none. */
static void ring_free(struct uk_alloc *a __unused, void *ptr)
{
	uio_port_free(ptr);
}

static struct uk_alloc ring_memory = {
	.malloc = ring_malloc,
	.posix_memalign = ring_memalign,
	.free = ring_free,
};

int uio_port_virtio_queues(struct uio_vdev *dev, unsigned int n, struct uio_vq *vq[],
			   void (*const notify[])(void *), void *const arg[])
{
	if (n > MAX_QUEUES)
		return -EINVAL;
	if (!dev->queues_found) {
		int found = virtio_find_vqs(dev->dev, (__u16)n, dev->queue_size);

		if (found < 0)
			return found;
		if ((unsigned int)found < n)
			return -ENODEV;
		dev->queues_found = true;
	}
	for (unsigned int i = 0; i < n; i++) {
		struct uio_vq *q = uio_port_alloc(sizeof(*q));

		if (!q)
			return -ENOMEM;
		/* With ukvmem the bus takes frames for the rings by itself. */
		if (!BUS_MAKES_RINGS && !ring_reserve(dev->queue_size[i])) {
			uio_port_free(q);
			return -ENOMEM;
		}
		q->notify = notify[i];
		q->arg = arg[i];
		q->queue = virtio_vqueue_setup(dev->dev, (__u16)i, dev->queue_size[i], on_interrupt,
					       &ring_memory);
		if (PTRISERR(q->queue)) {
			int rc = PTR2ERR(q->queue);

			uio_port_free(q);
			return rc;
		}
		q->queue->priv = q;
		if (q->notify)
			virtqueue_intr_enable(q->queue);
		else
			virtqueue_intr_disable(q->queue);
		vq[i] = q;
	}
	return 0;
}

void uio_port_virtio_start(struct uio_vdev *dev)
{
	virtio_dev_drv_up(dev->dev);
}

int uio_port_vq_add(struct uio_vq *vq, const struct uio_sg *sg, unsigned int out, unsigned int in,
		    void *cookie)
{
	struct uk_sglist_seg segments[MAX_PIECES];
	struct uk_sglist list = {
		.sg_segs = segments,
		.sg_nseg = (__u16)(out + in),
		.sg_maxseg = MAX_PIECES,
	};
	int rc;

	if (out + in == 0 || out + in > MAX_PIECES)
		return -EINVAL;
	for (unsigned int i = 0; i < out + in; i++) {
		segments[i].ss_paddr = ukplat_virt_to_phys(sg[i].addr);
		segments[i].ss_len = sg[i].len;
	}
	rc = virtqueue_buffer_enqueue(vq->queue, cookie, &list, (__u16)out, (__u16)in);
	return rc < 0 ? rc : 0;
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

void uio_port_vq_kick(struct uio_vq *vq)
{
	device_barrier();
	virtqueue_host_notify(vq->queue);
}

void *uio_port_vq_get(struct uio_vq *vq, uint32_t *len)
{
	void *cookie;

	return virtqueue_buffer_dequeue(vq->queue, &cookie, len) < 0 ? NULL : cookie;
}

bool uio_port_vq_irq_on(struct uio_vq *vq)
{
	if (virtqueue_intr_enable(vq->queue) != 0)
		return false;
	device_barrier();
	return !virtqueue_hasdata(vq->queue);
}

unsigned int uio_port_vq_size(const struct uio_vq *vq)
{
	return virtqueue_vring_get_num(vq->queue);
}
