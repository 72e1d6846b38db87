/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The ends of the virtual machine. Off through ACPI's PM1a control register, which QEMU's pc and
 * q35 both have at 0x604 (S5 is sleep type 0). After a panic a pvpanic device is told first (QEMU
 * then reports GUEST_PANICKED), then isa-debug-exit. Writes to ports that are not there do nothing.
 * microvm, which has no PCI, has ACPI's sleep register in memory instead.
 */
#include "power.h"

#include "cpu.h"
#include "memory.h"
#include "pci.h"
#include "print.h"

#define PVPANIC      0x505
#define DEBUG_EXIT   0x501
#define PM1A_CONTROL 0x604
#define SLEEP_ENABLE 0x2000

#define MICROVM_SLEEP    0xfea00200
#define MICROVM_SLEEP_S5 0x34

static void sleep_s5(void)
{
	if (pci_device_count)
		outw(PM1A_CONTROL, SLEEP_ENABLE);
	else
		*(volatile uint8_t *)page_map_device(MICROVM_SLEEP, 1) = MICROVM_SLEEP_S5;
}

void power_off(void)
{
	__asm__ volatile("cli");
	sleep_s5();
	/* It takes effect when QEMU's main loop comes round to it. */
	for (uint64_t start = rdtsc(); rdtsc() - start < 4000000000u;)
		__asm__ volatile("pause");
	outb(DEBUG_EXIT, 0);
	kprintf("refguest: this machine cannot be switched off; halted\n");
	for (;;)
		__asm__ volatile("cli; hlt");
}

void power_panic(void)
{
	__asm__ volatile("cli");
	if (inb(PVPANIC) != 0xff)
		outb(PVPANIC, 1);
	outb(DEBUG_EXIT, 2);
	sleep_s5();
	for (;;)
		__asm__ volatile("cli; hlt");
}
