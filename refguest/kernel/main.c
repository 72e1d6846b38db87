/* SPDX-License-Identifier: BSD-3-Clause */
/* The order in which the kernel comes up. */
#include <string.h>

#include "boot.h"
#include "cpu.h"
#include "lapic.h"
#include "memory.h"
#include "pci.h"
#include "print.h"
#include "process.h"
#include "ramfs.h"
#include "sched.h"

_Noreturn void kernel_main(const struct hvm_start_info *info);

static char command_line[4096];

void kernel_main(const struct hvm_start_info *info)
{
	serial_init();
	cpu_init();
	if (info->magic != HVM_START_MAGIC || info->version < 1 || !info->memmap)
		panic("no PVH start information with a memory map");
	if (info->cmdline)
		strncpy(command_line, (const char *)info->cmdline, sizeof(command_line) - 1);
	frames_init(info);
	paging_init(info);
	clock_init();
	kprintf("%s: %lu MiB, %s\n", REFGUEST_VERSION, frames_total() >> 8,
		cpu_has_pku ? "PKU" : "no PKU");
	boot_parse(command_line);
	sched_init();
	pci_init();
	ramfs_init();
	process_start();
	sched_run();
}
