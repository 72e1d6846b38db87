/* SPDX-License-Identifier: BSD-3-Clause */
/* What the boot loader hands over (Xen's PVH boot protocol), and where the image lies. */
#ifndef REFGUEST_BOOT_H
#define REFGUEST_BOOT_H

#include <stddef.h>
#include <stdint.h>

#define HVM_START_MAGIC 0x336ec578
#define HVM_MEMMAP_RAM  1

struct hvm_start_info {
	uint32_t magic, version, flags, modules;
	uint64_t modlist, cmdline, rsdp;
	uint64_t memmap; /* version 1 */
	uint32_t memmap_entries, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

/* From link.ld. */
extern uint8_t __image_start[], __text_start[], __text_end[], __data_start[], __image_end[];
extern uint8_t __app_text_start[], __app_text_end[], __libc_text_start[], __libc_text_end[];
extern uint8_t __build_id_start[], __build_id_end[];
extern uint8_t __cpu_tables[], __cpu_stacks[], __cpu_end[];

#define REFGUEST_VERSION "refguest 1"

/** The command line's kernel part: "NAME=VALUE" → VALUE, or NULL. */
const char *boot_option(const char *name);

/** Split the command line, in place, for boot_option() and the application. */
void boot_parse(char *line);

#endif
