/* SPDX-License-Identifier: BSD-3-Clause */
/* PCI through the I/O ports 0xcf8 and 0xcfc, which pc and q35 both have. */
#include "pci.h"

#include "cpu.h"
#include "lapic.h"
#include "memory.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc

#define CLASS_BRIDGE 0x0604
#define CAP_MSIX     0x11

struct pci_device pci_devices[PCI_DEVICES];
unsigned int pci_device_count;

uint32_t pci_read32(const struct pci_device *dev, unsigned int reg)
{
	outl(CONFIG_ADDRESS, dev->address | (reg & 0xfc));
	return inl(CONFIG_DATA);
}

uint16_t pci_read16(const struct pci_device *dev, unsigned int reg)
{
	return (uint16_t)(pci_read32(dev, reg) >> (reg & 2) * 8);
}

uint8_t pci_read8(const struct pci_device *dev, unsigned int reg)
{
	return (uint8_t)(pci_read32(dev, reg) >> (reg & 3) * 8);
}

void pci_write32(const struct pci_device *dev, unsigned int reg, uint32_t value)
{
	outl(CONFIG_ADDRESS, dev->address | (reg & 0xfc));
	outl(CONFIG_DATA, value);
}

void pci_write16(const struct pci_device *dev, unsigned int reg, uint16_t value)
{
	outl(CONFIG_ADDRESS, dev->address | (reg & 0xfc));
	outw((uint16_t)(CONFIG_DATA + (reg & 2)), value);
}

uint8_t pci_capability(const struct pci_device *dev, uint8_t position, uint8_t id)
{
	if (position)
		position = pci_read8(dev, position + 1u);
	else if (pci_read16(dev, 6) & 0x10)
		position = pci_read8(dev, 0x34);
	for (int limit = 48; position && limit; limit--) {
		if (pci_read8(dev, position) == id)
			return position;
		position = pci_read8(dev, position + 1u);
	}
	return 0;
}

uint64_t pci_bar(const struct pci_device *dev, unsigned int index, bool *io)
{
	uint32_t low = pci_read32(dev, 0x10 + 4 * index);

	*io = low & 1;
	if (*io)
		return low & ~3u;
	if ((low & 6) == 4)
		return (low & ~15u) | (uint64_t)pci_read32(dev, 0x14 + 4 * index) << 32;
	return low & ~15u;
}

void pci_enable(const struct pci_device *dev)
{
	pci_write16(dev, 4, pci_read16(dev, 4) | 7);
}

bool pci_msix_enable(struct pci_device *dev)
{
	uint8_t cap = pci_capability(dev, 0, CAP_MSIX);
	uint16_t control;
	uint32_t table;
	uint64_t bar;
	bool io;

	if (!cap)
		return false;
	control = pci_read16(dev, cap + 2u);
	table = pci_read32(dev, cap + 4u);
	bar = pci_bar(dev, table & 7, &io);
	if (!bar || io)
		return false;
	dev->msix_count = (control & 0x7ffu) + 1;
	dev->msix = page_map_device(bar + (table & ~7u), dev->msix_count * 16);
	for (unsigned int i = 0; i < dev->msix_count; i++)
		dev->msix[4 * i + 3] = 1;
	pci_write16(dev, cap + 2u, (control | 0x8000) & ~0x4000);
	return true;
}

void pci_msix_set(const struct pci_device *dev, unsigned int entry, unsigned int vector)
{
	dev->msix[4 * entry] = MSI_ADDRESS;
	dev->msix[4 * entry + 1] = 0;
	dev->msix[4 * entry + 2] = vector;
	dev->msix[4 * entry + 3] = 0;
}

static void scan_bus(unsigned int bus)
{
	for (unsigned int slot = 0; slot < 256; slot++) { /* device and function */
		struct pci_device dev = {.address = 0x80000000u | bus << 16 | slot << 8};
		uint32_t id = pci_read32(&dev, 0);

		if (id == 0xffffffff) {
			if (slot % 8 == 0)
				slot += 7;
			continue;
		}
		if (pci_read32(&dev, 8) >> 16 == CLASS_BRIDGE) {
			unsigned int next = pci_read8(&dev, 0x19);

			if (next > bus)
				scan_bus(next);
		} else if (pci_device_count < PCI_DEVICES) {
			dev.vendor = (uint16_t)id;
			dev.device = (uint16_t)(id >> 16);
			dev.revision = (uint8_t)pci_read32(&dev, 8);
			dev.subsystem = pci_read16(&dev, 0x2e);
			pci_devices[pci_device_count++] = dev;
		}
		if (slot % 8 == 0 && !(pci_read32(&dev, 0xc) & 0x800000))
			slot += 7;
	}
}

void pci_init(void)
{
	scan_bus(0);
}
