/* SPDX-License-Identifier: BSD-3-Clause */
/* The virtio bus: the kernel's, under the port's names. */
#include <stddef.h>

#include <uio/port.h>

#include "virtio.h"

_Static_assert(sizeof(struct uio_sg) == sizeof(struct virtio_piece) &&
		       offsetof(struct uio_sg, len) == offsetof(struct virtio_piece, len),
	       "the same but for the name");

static struct virtio_device *from_port(struct uio_vdev *dev)
{
	return (struct virtio_device *)dev;
}

int uio_port_virtio_open(unsigned int device_id, unsigned int index, uint64_t want, uint64_t *got,
			 struct uio_vdev **out)
{
	struct virtio_device *dev;
	int error = virtio_open(device_id, index, want, &dev);

	if (error)
		return error;
	*got = dev->features;
	*out = (struct uio_vdev *)dev;
	return 0;
}

int uio_port_virtio_config(struct uio_vdev *dev, size_t offset, void *buf, size_t len)
{
	return virtio_config(from_port(dev), offset, buf, len);
}

int uio_port_virtio_queues(struct uio_vdev *dev, unsigned int n, struct uio_vq *vq[],
			   void (*const notify[])(void *), void *const arg[])
{
	return virtio_queues(from_port(dev), n, (struct virtio_queue **)vq, notify, arg);
}

void uio_port_virtio_start(struct uio_vdev *dev)
{
	virtio_start(from_port(dev));
}

int uio_port_vq_add(struct uio_vq *vq, const struct uio_sg *sg, unsigned int out, unsigned int in,
		    void *cookie)
{
	return queue_add((struct virtio_queue *)vq, (const struct virtio_piece *)sg, out, in,
			 cookie);
}

void uio_port_vq_kick(struct uio_vq *vq)
{
	queue_kick((struct virtio_queue *)vq);
}

void *uio_port_vq_get(struct uio_vq *vq, uint32_t *len)
{
	return queue_get((struct virtio_queue *)vq, len);
}

void uio_port_vq_forget(struct uio_vq *vq, void *cookie)
{
	queue_forget((struct virtio_queue *)vq, cookie);
}

bool uio_port_vq_irq_on(struct uio_vq *vq)
{
	return queue_irq_on((struct virtio_queue *)vq);
}

unsigned int uio_port_vq_size(const struct uio_vq *vq)
{
	return queue_size((const struct virtio_queue *)vq);
}
