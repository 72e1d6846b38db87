/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio over PCI, transitional and modern, with split queues. Interrupts come by MSI-X only.
 */
#ifndef REFGUEST_VIRTIO_H
#define REFGUEST_VIRTIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pci.h"

#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

struct virtio_queue;

struct virtio_device {
	struct pci_device *pci;
	uint64_t features;
	bool modern;
	uint16_t io; /* legacy */
	volatile uint8_t *common, *notify, *config;
	size_t config_size;
	uint32_t notify_multiplier;
	struct virtio_queue **queues;
	unsigned int queue_count;
	struct virtio_vector *vectors;
};

struct virtio_piece {
	void *addr;
	uint32_t len;
};

/* virtio_pci.c */
int virtio_open(unsigned int id, unsigned int index, uint64_t want, struct virtio_device **out);
int virtio_config(struct virtio_device *dev, size_t offset, void *buf, size_t len);
int virtio_queues(struct virtio_device *dev, unsigned int n, struct virtio_queue *queues[],
		  void (*const notify[])(void *), void *const arg[]);
void virtio_start(struct virtio_device *dev);

/* virtio_queue.c */
/** What a queue takes: a multiple of 16, of legacy devices of the page size. */
size_t queue_bytes(unsigned int size, bool legacy);
/** Make one in such memory. */
struct virtio_queue *queue_place(uint8_t *memory, unsigned int size, bool legacy);
/** Addresses of descriptor table, available and used ring: in a row, as legacy devices want them.
 */
void queue_addresses(const struct virtio_queue *q, uint64_t out[3]);
void queue_attach(struct virtio_queue *q, volatile void *doorbell, uint16_t io, uint16_t index,
		  bool events, void (*notify)(void *), void *arg);
/** From the interrupt: call notify if there is something. */
void queue_interrupt(struct virtio_queue *q);
int queue_add(struct virtio_queue *q, const struct virtio_piece *pieces, unsigned int out,
	      unsigned int in, void *cookie);
void queue_kick(struct virtio_queue *q);
void *queue_get(struct virtio_queue *q, uint32_t *len);
/** Free a buffer's descriptors that the device will never give back. */
void queue_forget(struct virtio_queue *q, void *cookie);
bool queue_irq_on(struct virtio_queue *q);
unsigned int queue_size(const struct virtio_queue *q);

#endif
