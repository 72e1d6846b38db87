/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Finding and setting up virtio devices on PCI (virtio 1.1, section 4.1): the modern interface
 * where the device has it, else the legacy one.
 */
#include <errno.h>
#include <string.h>

#include "cpu.h"
#include "memory.h"
#include "print.h"
#include "trap.h"
#include "virtio.h"

#define VENDOR    0x1af4
#define NO_VECTOR 0xffff

enum { STATUS_ACKNOWLEDGE = 1, STATUS_DRIVER = 2, STATUS_DRIVER_OK = 4, STATUS_FEATURES_OK = 8 };

enum { CAP_VENDOR = 9, CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_DEVICE = 4 };

enum { /* struct virtio_pci_common_cfg */
       COMMON_DEVICE_FEATURE_SELECT = 0,
       COMMON_DEVICE_FEATURE = 4,
       COMMON_DRIVER_FEATURE_SELECT = 8,
       COMMON_DRIVER_FEATURE = 12,
       COMMON_CONFIG_VECTOR = 16,
       COMMON_QUEUES = 18,
       COMMON_STATUS = 20,
       COMMON_QUEUE_SELECT = 22,
       COMMON_QUEUE_SIZE = 24,
       COMMON_QUEUE_VECTOR = 26,
       COMMON_QUEUE_ENABLE = 28,
       COMMON_QUEUE_NOTIFY = 30,
       COMMON_QUEUE_DESC = 32,
};

enum { /* legacy I/O ports */
       LEGACY_DEVICE_FEATURES = 0,
       LEGACY_DRIVER_FEATURES = 4,
       LEGACY_QUEUE_FRAME = 8,
       LEGACY_QUEUE_SIZE = 12,
       LEGACY_QUEUE_SELECT = 14,
       LEGACY_QUEUE_NOTIFY = 16,
       LEGACY_STATUS = 18,
       LEGACY_CONFIG_VECTOR = 20,
       LEGACY_QUEUE_VECTOR = 22,
       LEGACY_CONFIG = 24, /* with MSI-X */
};

/** One MSI-X vector, shared by the queues whose number modulo the count gives its index. */
struct virtio_vector {
	struct virtio_device *dev;
	unsigned int index, stride;
	unsigned int vector;
};

static uint8_t read8(const struct virtio_device *dev, unsigned int reg)
{
	return dev->common[reg];
}

static uint16_t read16(const struct virtio_device *dev, unsigned int reg)
{
	return *(volatile uint16_t *)(dev->common + reg);
}

static void write16(const struct virtio_device *dev, unsigned int reg, uint16_t value)
{
	*(volatile uint16_t *)(dev->common + reg) = value;
}

static uint32_t read32(const struct virtio_device *dev, unsigned int reg)
{
	return *(volatile uint32_t *)(dev->common + reg);
}

static void write32(const struct virtio_device *dev, unsigned int reg, uint32_t value)
{
	*(volatile uint32_t *)(dev->common + reg) = value;
}

static void set_status(const struct virtio_device *dev, uint8_t status)
{
	if (dev->modern)
		dev->common[COMMON_STATUS] = status;
	else
		outb(dev->io + LEGACY_STATUS, status);
}

static uint8_t get_status(const struct virtio_device *dev)
{
	return dev->modern ? read8(dev, COMMON_STATUS) : inb(dev->io + LEGACY_STATUS);
}

/** Find the modern interface's register areas. */
static void find_modern(struct virtio_device *dev)
{
	uint8_t cap = 0;

	while ((cap = pci_capability(dev->pci, cap, CAP_VENDOR))) {
		uint8_t type = pci_read8(dev->pci, cap + 3u);
		uint8_t bar = pci_read8(dev->pci, cap + 4u);
		uint32_t offset = pci_read32(dev->pci, cap + 8u);
		uint32_t length = pci_read32(dev->pci, cap + 12u);
		volatile uint8_t **area;
		uint64_t base;
		bool io;

		if (type == CAP_COMMON)
			area = &dev->common;
		else if (type == CAP_NOTIFY)
			area = &dev->notify;
		else if (type == CAP_DEVICE)
			area = &dev->config;
		else
			continue;
		base = bar < 6 ? pci_bar(dev->pci, bar, &io) : 0;
		if (!base || io || *area)
			continue;
		*area = page_map_device(base + offset, length);
		if (type == CAP_NOTIFY)
			dev->notify_multiplier = pci_read32(dev->pci, cap + 16u);
		if (type == CAP_DEVICE)
			dev->config_size = length;
	}
	dev->modern = dev->common && dev->notify;
}

static int negotiate(struct virtio_device *dev, uint64_t want)
{
	uint64_t offered;

	want |= VIRTIO_F_EVENT_IDX;
	if (!dev->modern) {
		offered = inl(dev->io + LEGACY_DEVICE_FEATURES);
		dev->features = offered & want;
		outl(dev->io + LEGACY_DRIVER_FEATURES, (uint32_t)dev->features);
		return 0;
	}
	want |= VIRTIO_F_VERSION_1;
	write32(dev, COMMON_DEVICE_FEATURE_SELECT, 0);
	offered = read32(dev, COMMON_DEVICE_FEATURE);
	write32(dev, COMMON_DEVICE_FEATURE_SELECT, 1);
	offered |= (uint64_t)read32(dev, COMMON_DEVICE_FEATURE) << 32;
	dev->features = offered & want;
	write32(dev, COMMON_DRIVER_FEATURE_SELECT, 0);
	write32(dev, COMMON_DRIVER_FEATURE, (uint32_t)dev->features);
	write32(dev, COMMON_DRIVER_FEATURE_SELECT, 1);
	write32(dev, COMMON_DRIVER_FEATURE, (uint32_t)(dev->features >> 32));
	set_status(dev, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	return get_status(dev) & STATUS_FEATURES_OK ? 0 : -ENODEV;
}

static bool is_kind(const struct pci_device *pci, unsigned int id)
{
	if (pci->vendor != VENDOR)
		return false;
	return pci->device == 0x1040 + id ||
	       (pci->device >= 0x1000 && pci->device < 0x1040 && pci->subsystem == id);
}

int virtio_open(unsigned int id, unsigned int index, uint64_t want, struct virtio_device **out)
{
	struct pci_device *pci = NULL;
	struct virtio_device *dev;
	bool io = false;
	int error;

	for (unsigned int i = 0; i < pci_device_count && !pci; i++) {
		if (is_kind(&pci_devices[i], id) && index-- == 0)
			pci = &pci_devices[i];
	}
	if (!pci)
		return -ENODEV;
	if (pci->claimed)
		return -EBUSY;
	dev = heap_zalloc(sizeof(*dev));
	if (!dev)
		return -ENOMEM;
	dev->pci = pci;
	pci_enable(pci);
	find_modern(dev);
	if (!dev->modern)
		dev->io = (uint16_t)pci_bar(pci, 0, &io);
	error = dev->modern || (dev->io && io) ? 0 : -ENODEV;
	if (!error && !pci_msix_enable(pci)) {
		kprintf("refguest: virtio device %x has no MSI-X, which is needed\n", pci->device);
		error = -ENODEV;
	}
	if (!error) {
		set_status(dev, 0);
		while (get_status(dev))
			;
		set_status(dev, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
		error = negotiate(dev, want);
	}
	if (error) {
		heap_free(dev);
		return error;
	}
	pci->claimed = true;
	*out = dev;
	return 0;
}

int virtio_config(struct virtio_device *dev, size_t offset, void *buf, size_t len)
{
	uint8_t *out = buf;

	if (dev->modern &&
	    (!dev->config || offset > dev->config_size || len > dev->config_size - offset))
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		if (dev->modern)
			out[i] = dev->config[offset + i];
		else
			out[i] = inb((uint16_t)(dev->io + LEGACY_CONFIG + offset + i));
	}
	return 0;
}

static void vector_interrupt(void *arg)
{
	const struct virtio_vector *v = arg;

	for (unsigned int i = v->index; i < v->dev->queue_count; i += v->stride)
		if (v->dev->queues[i])
			queue_interrupt(v->dev->queues[i]);
}

#define QUEUE_SIZE_MAX 32

static unsigned int device_queue_size(const struct virtio_device *dev, unsigned int i)
{
	if (dev->modern) {
		unsigned int size;

		write16(dev, COMMON_QUEUE_SELECT, (uint16_t)i);
		size = read16(dev, COMMON_QUEUE_SIZE);
		/* A device has many queues, and they are idle most of the time. */
		if (size > QUEUE_SIZE_MAX) {
			size = QUEUE_SIZE_MAX;
			write16(dev, COMMON_QUEUE_SIZE, (uint16_t)size);
		}
		return size;
	}
	outw(dev->io + LEGACY_QUEUE_SELECT, (uint16_t)i);
	return inw(dev->io + LEGACY_QUEUE_SIZE);
}

static void enable_modern(const struct virtio_device *dev, struct virtio_queue *q, uint16_t entry)
{
	uint64_t address[3];

	queue_addresses(q, address);
	for (unsigned int part = 0; part < 3; part++) {
		write32(dev, COMMON_QUEUE_DESC + 8 * part, (uint32_t)address[part]);
		write32(dev, COMMON_QUEUE_DESC + 8 * part + 4, (uint32_t)(address[part] >> 32));
	}
	write16(dev, COMMON_QUEUE_VECTOR, entry);
	write16(dev, COMMON_QUEUE_ENABLE, 1);
}

static void enable_legacy(const struct virtio_device *dev, struct virtio_queue *q, uint16_t entry)
{
	uint64_t address[3];

	queue_addresses(q, address);
	outl(dev->io + LEGACY_QUEUE_FRAME, (uint32_t)(address[0] / PAGE_SIZE));
	outw(dev->io + LEGACY_QUEUE_VECTOR, entry);
}

static void setup_queue(struct virtio_device *dev, unsigned int i, struct virtio_queue *q,
			uint16_t entry, void (*notify)(void *), void *arg)
{
	volatile uint8_t *doorbell = NULL;

	if (dev->modern)
		doorbell = dev->notify +
			   (size_t)read16(dev, COMMON_QUEUE_NOTIFY) * dev->notify_multiplier;
	queue_attach(q, doorbell, dev->io + LEGACY_QUEUE_NOTIFY, (uint16_t)i,
		     dev->features & VIRTIO_F_EVENT_IDX, notify, arg);
	if (dev->modern)
		enable_modern(dev, q, entry);
	else
		enable_legacy(dev, q, entry);
}

int virtio_queues(struct virtio_device *dev, unsigned int n, struct virtio_queue *queues[],
		  void (*const notify[])(void *), void *const arg[])
{
	unsigned int vectors = dev->pci->msix_count < n ? dev->pci->msix_count : n;
	size_t bytes = 0;
	uint8_t *memory;

	/* All in one piece: a queue is less than a page, and there are many. */
	for (unsigned int i = 0; i < n; i++) {
		unsigned int size = device_queue_size(dev, i);

		if (!notify[i] && !arg[i])
			continue;
		if (!size)
			return -ENODEV;
		bytes += queue_bytes(size, !dev->modern);
	}
	memory = (uint8_t *)frames_alloc(
		page_count(bytes + n * sizeof(*dev->queues) + vectors * sizeof(*dev->vectors)));
	if (!memory)
		return -ENOMEM;
	dev->queues = (struct virtio_queue **)(memory + bytes);
	dev->vectors = (struct virtio_vector *)(dev->queues + n);
	if (dev->modern)
		write16(dev, COMMON_CONFIG_VECTOR, NO_VECTOR);
	else
		outw(dev->io + LEGACY_CONFIG_VECTOR, NO_VECTOR);
	for (unsigned int i = 0; i < vectors; i++) {
		struct virtio_vector *v = &dev->vectors[i];

		*v = (struct virtio_vector){.dev = dev, .index = i, .stride = vectors};
		v->vector = interrupt_alloc(vector_interrupt, v);
		if (!v->vector)
			return -ENOSPC;
		pci_msix_set(dev->pci, i, v->vector);
	}
	for (unsigned int i = 0; i < n; i++) {
		uint16_t entry = notify[i] ? (uint16_t)(i % vectors) : NO_VECTOR;
		struct virtio_queue *q = NULL;
		unsigned int size;

		if (notify[i] || arg[i]) {
			size = device_queue_size(dev, i);
			q = queue_place(memory, size, !dev->modern);
			setup_queue(dev, i, q, entry, notify[i], arg[i]);
			memory += queue_bytes(size, !dev->modern);
		}
		queues[i] = dev->queues[i] = q;
	}
	dev->queue_count = n;
	return 0;
}

void virtio_start(struct virtio_device *dev)
{
	set_status(dev, get_status(dev) | STATUS_DRIVER_OK);
}
