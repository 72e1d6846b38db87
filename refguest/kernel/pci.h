/* SPDX-License-Identifier: BSD-3-Clause */
/* PCI: what is there, its registers, and MSI-X. */
#ifndef REFGUEST_PCI_H
#define REFGUEST_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCI_DEVICES 32

struct pci_device {
	uint32_t address; /* configuration address without register */
	uint16_t vendor, device, subsystem;
	uint8_t revision;
	volatile uint32_t *msix; /* table, four words per vector; NULL: none */
	unsigned int msix_count;
	bool claimed;
};

extern struct pci_device pci_devices[PCI_DEVICES];
extern unsigned int pci_device_count;

/** Find the devices that the firmware has set up. */
void pci_init(void);

uint32_t pci_read32(const struct pci_device *dev, unsigned int reg);
uint16_t pci_read16(const struct pci_device *dev, unsigned int reg);
uint8_t pci_read8(const struct pci_device *dev, unsigned int reg);
void pci_write32(const struct pci_device *dev, unsigned int reg, uint32_t value);
void pci_write16(const struct pci_device *dev, unsigned int reg, uint16_t value);
/** Next capability with this id after the one at position (0: first); 0: no more. */
uint8_t pci_capability(const struct pci_device *dev, uint8_t position, uint8_t id);
/** Address of a base address register; *io says which space. 0: not set. */
uint64_t pci_bar(const struct pci_device *dev, unsigned int index, bool *io);
/** Switch on memory and I/O decoding and bus mastering. */
void pci_enable(const struct pci_device *dev);
/** Switch MSI-X on with all vectors masked; false if the device has none. */
bool pci_msix_enable(struct pci_device *dev);
/** Let MSI-X entry raise an interrupt vector of the CPU. */
void pci_msix_set(const struct pci_device *dev, unsigned int entry, unsigned int vector);

#endif
