/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which of an object's functions somebody else may be given to call: those
 * whose address it takes. References to them are made to lead to a stub, by
 * which the caller comes in with the overlay's rights (gate.c).
 */

#include "elf_file.h"
#include "loader_entries.h"
#include <uio/port.h>

enum { SYMBOL_NOTYPE = 0 };

static bool is_before(const struct uio_entry *a, const struct uio_entry *b)
{
	return a->section != b->section ? a->section < b->section : a->value < b->value;
}

static void sort(struct uio_entry *at, uint32_t n)
{
	for (uint32_t gap = n / 2; gap; gap /= 2)
		for (uint32_t i = gap; i < n; i++) {
			struct uio_entry e = at[i];
			uint32_t j = i;

			for (; j >= gap && is_before(&e, &at[j - gap]); j -= gap)
				at[j] = at[j - gap];
			at[j] = e;
		}
}

static bool is_function(const struct elf_file *elf, const struct elf_symbol *s)
{
	unsigned int type = uio_elf_symbol_type(s);

	if (!s->shndx || s->shndx >= SECTION_INDEX_RESERVE ||
	    !(elf->sections[s->shndx].flags & SECTION_EXEC) ||
	    !uio_elf_is_loaded(&elf->sections[s->shndx]))
		return false;
	/* Assembler code does not always say what is a function. */
	return type == SYMBOL_FUNC || (type == SYMBOL_NOTYPE && uio_elf_symbol_bind(s));
}

static struct uio_entry *find(const struct uio_entries *e, uint32_t section, uint64_t value)
{
	const struct uio_entry wanted = {.section = section, .value = value};
	uint32_t low = 0, high = e->n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (is_before(&e->at[middle], &wanted))
			low = middle + 1;
		else
			high = middle;
	}
	return low < e->n && e->at[low].section == section && e->at[low].value == value
		       ? &e->at[low]
		       : NULL;
}

/* lea symbol(%rip),%register: a call or a jump is not a taking of the address. */
static bool is_lea(const struct elf_file *elf, const struct elf_section *s, uint64_t offset)
{
	const uint8_t *code = elf->data + s->offset + offset;

	return s->flags & SECTION_EXEC && offset >= 2 && code[-2] == 0x8d &&
	       (code[-1] & 0xc7) == 0x05;
}

struct uio_entry *uio_entry_of(const struct uio_entries *e, const struct elf_file *elf,
			       const struct elf_section *place, const struct elf_rela *r)
{
	const struct elf_symbol *s = &elf->symbols[uio_elf_rela_symbol(r)];
	uint64_t value = s->value + (uint64_t)r->addend;

	if (!s->shndx || s->shndx >= SECTION_INDEX_RESERVE || place->type == SECTION_INIT_ARRAY ||
	    place->type == SECTION_FINI_ARRAY)
		return NULL;
	switch (uio_elf_rela_type(r)) {
	case R_64:
	case R_32:
	case R_32S:
		return find(e, s->shndx, value);
	case R_PC32:
		return is_lea(elf, place, r->offset) ? find(e, s->shndx, value + 4) : NULL;
	case R_GOTPCREL:
	case R_GOTPCRELX:
	case R_REX_GOTPCRELX:
		return find(e, s->shndx, s->value);
	default:
		return NULL;
	}
}

struct uio_entry *uio_entry_at(const struct uio_entries *e, const struct elf_symbol *s)
{
	return find(e, s->shndx, s->value);
}

bool uio_entries_find(struct uio_entries *e, const struct elf_file *elf)
{
	uint32_t n = 0, kept = 0;

	for (uint32_t i = 1; i < elf->nsymbols; i++)
		n += is_function(elf, &elf->symbols[i]);
	e->n = e->taken = 0;
	e->at = NULL;
	if (!n)
		return true;
	e->at = uio_port_alloc(n * sizeof(*e->at));
	if (!e->at)
		return false;
	for (uint32_t i = 1; i < elf->nsymbols; i++)
		if (is_function(elf, &elf->symbols[i]))
			e->at[e->n++] = (struct uio_entry){.section = elf->symbols[i].shndx,
							   .value = elf->symbols[i].value};
	sort(e->at, e->n);
	for (uint32_t i = 0; i < e->n; i++) /* several names of one function */
		if (!kept || is_before(&e->at[kept - 1], &e->at[i]))
			e->at[kept++] = e->at[i];
	e->n = kept;
	for (unsigned int i = 1; i < elf->nsections; i++) {
		const struct elf_section *s = &elf->sections[i];
		const struct elf_rela *relas;
		uint32_t count;

		if (!uio_elf_is_relocation(elf, s))
			continue;
		relas = uio_elf_relas(elf, s, &count);
		for (uint32_t j = 0; j < count; j++) {
			struct uio_entry *entry =
				uio_entry_of(e, elf, &elf->sections[s->info], &relas[j]);

			if (entry && !entry->is_taken) {
				entry->is_taken = true;
				entry->index = e->taken++;
			}
		}
	}
	return true;
}
