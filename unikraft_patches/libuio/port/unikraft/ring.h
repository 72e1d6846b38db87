/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Virtqueues: virtio.c has the devices, ring.c what is in a queue.
 */
#ifndef UIO_PORT_UNIKRAFT_RING_H
#define UIO_PORT_UNIKRAFT_RING_H

#include <virtio/virtio_bus.h>
#include <virtio/virtio_ring.h>
#include <virtio/virtqueue.h>

#include "unikraft.h"

struct ring_record;

struct uio_vq {
	struct virtqueue *queue;    /* of the bus */
	struct ring_record *record; /* what the bus knows of the ring */
	void (*notify)(void *arg);
	void *arg;
	struct vring ring;
	uint16_t free_head, free; /* descriptors */
	uint16_t first, size;     /* those in front of the first one are not ours */
	uint16_t last_used;
	void *cookie[]; /* of the chain that begins there; NULL: none does */
};

/**
 * Set up one queue of a device; more is how many come after it, a hint for
 * how much memory to get at once. NULL when there is no memory, or the bus
 * does not lay out its rings as we know them.
 */
struct uio_vq *uio_ring_new(struct virtio_dev *dev, uint16_t index, uint16_t entries,
			    unsigned int more, virtqueue_callback_t callback);

#endif /* UIO_PORT_UNIKRAFT_RING_H */
