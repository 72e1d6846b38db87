/* SPDX-License-Identifier: BSD-3-Clause */
/* The functions of an object that it hands out, for loader.c. */
#ifndef UIO_CORE_LOADER_ENTRIES_H
#define UIO_CORE_LOADER_ENTRIES_H

#include <stdbool.h>
#include <stdint.h>

struct elf_file;
struct elf_rela;
struct elf_section;
struct elf_symbol;

struct uio_entry {
	uint32_t section;
	bool is_taken;  /* it has a stub */
	uint32_t index; /* of the stub */
	uint64_t value;
};

struct uio_entries {
	struct uio_entry *at; /* every function, in the order of their places; uio_port_free() */
	uint32_t n, taken;
};

/** False: no memory. */
bool uio_entries_find(struct uio_entries *e, const struct elf_file *elf);
/** The function whose address this relocation takes, in the section place; NULL: none. */
struct uio_entry *uio_entry_of(const struct uio_entries *e, const struct elf_file *elf,
			       const struct elf_section *place, const struct elf_rela *r);
/** The function that begins where the symbol is; NULL: none. */
struct uio_entry *uio_entry_at(const struct uio_entries *e, const struct elf_symbol *s);

#endif /* UIO_CORE_LOADER_ENTRIES_H */
