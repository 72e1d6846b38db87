/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The virtio bus of Unikraft under the names of uio/port.h. The bus finds
 * console devices while it is probed; they wait here until the core opens
 * them. Works over whatever transports the bus has: PCI (legacy and
 * transitional devices) and MMIO. Callbacks run in interrupt context.
 */
#include <errno.h>
#include <string.h>
#include <virtio/virtio_bus.h>
#include <virtio/virtio_ids.h>

#include "ring.h"

#define DEVICE_CONSOLE 3
#define MAX_QUEUES     64u /* 31 ports */

/* virtio-mmio offers all that QEMU has room for and lets the driver choose. A legacy PCI device's
 * queues are of its size, which for a console is never so large. */
#define QUEUE_SIZE_OFFERED 1024u
#define QUEUE_SIZE_CHOSEN  128u

/* Of the features the core asks for, the ones that the bus itself negotiates. */
#define FEATURE_VERSION_1 (1ull << 32)

struct uio_vdev {
	struct uio_vdev *next;
	struct virtio_dev *dev;
	unsigned int device_id;
	bool queues_found; /* the bus registers an interrupt handler each time it looks */
	uint16_t queue_size[MAX_QUEUES];
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
		for (unsigned int i = 0; i < n; i++) {
			if (dev->queue_size[i] >= QUEUE_SIZE_OFFERED)
				dev->queue_size[i] = QUEUE_SIZE_CHOSEN;
		}
	}
	for (unsigned int i = 0; i < n; i++) {
		struct uio_vq *q;

		vq[i] = NULL;
		if (!notify[i] && !arg[i])
			continue;
		q = uio_ring_new(dev->dev, (uint16_t)i, dev->queue_size[i], n - i - 1,
				 on_interrupt);
		if (!q)
			return -ENOMEM;
		q->notify = notify[i];
		q->arg = arg[i];
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
