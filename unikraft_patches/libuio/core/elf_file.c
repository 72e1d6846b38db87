/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Validation of relocatable files. Whatever the loader later follows is
 * checked here, once and in the order of the file's own structure, so that a
 * hostile file yields a sentence and never an access outside of it.
 */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <uio/port.h>

#include "elf_file.h"

#define SECTION_SIZE_MAX (256u * 1024 * 1024)

static const struct {
	uint8_t type;
	struct elf_reloc how;
} relocs[] = {
	{R_NONE, {"NONE", 0, false, false, false}},
	{R_64, {"64", 8, false, false, false}},
	{R_PC32, {"PC32", 4, false, true, true}},
	{R_PLT32, {"PLT32", 4, false, true, true}},
	{R_GOTPCREL, {"GOTPCREL", 4, true, true, true}},
	{R_32, {"32", 4, false, false, false}},
	{R_32S, {"32S", 4, false, false, true}},
	{R_PC64, {"PC64", 8, false, true, false}},
	{R_GOTPCRELX, {"GOTPCRELX", 4, true, true, true}},
	{R_REX_GOTPCRELX, {"REX_GOTPCRELX", 4, true, true, true}},
};

const struct elf_reloc *uio_elf_reloc(uint32_t type)
{
	for (size_t i = 0; i < sizeof(relocs) / sizeof(relocs[0]); i++)
		if (relocs[i].type == type)
			return &relocs[i].how;
	return NULL;
}

__attribute__((format(printf, 2, 3))) static bool refuse(struct elf_file *elf, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(elf->why, ELF_WHY_SIZE, fmt, args);
	va_end(args);
	return false;
}

static bool in_file(const struct elf_file *elf, uint64_t offset, uint64_t size)
{
	return offset <= elf->size && size <= elf->size - offset;
}

static bool is_power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

const char *uio_elf_section_name(const struct elf_file *elf, const struct elf_section *s)
{
	if (!elf->section_names || s->name >= elf->section_names_size)
		return "?";
	return elf->section_names + s->name;
}

/* The file header: what kind of file it is, and where the section headers are. */
static bool header_is_valid(struct elf_file *elf)
{
	static const uint8_t ident[7] = {0x7f, 'E', 'L', 'F', 2 /* 64 bit */, 1 /* little */, 1};
	const struct elf_header *h = (const struct elf_header *)(const void *)elf->data;

	if (elf->size < sizeof(*h) || memcmp(h->ident, ident, 4))
		return refuse(elf, "the file is no ELF file");
	if (memcmp(h->ident, ident, sizeof(ident)))
		return refuse(elf, "the file is no 64-bit little-endian ELF file");
	if (h->machine != ELF_MACHINE_X86_64)
		return refuse(elf, "the file is for machine %u, not x86-64", h->machine);
	if (h->type != ELF_TYPE_REL)
		return refuse(elf, "the file is no relocatable object (type %u)", h->type);
	if (h->ehsize < sizeof(*h) || h->shentsize != sizeof(struct elf_section))
		return refuse(elf, "headers of an unknown size");
	if (!h->shnum || h->shnum >= SECTION_INDEX_RESERVE)
		return refuse(elf, "it has no section headers, or more than 65 279");
	if (h->shoff % 8 ||
	    !in_file(elf, h->shoff, (uint64_t)h->shnum * sizeof(struct elf_section)))
		return refuse(elf, "the section headers lie outside the file");
	elf->sections = (const struct elf_section *)(const void *)(elf->data + h->shoff);
	elf->nsections = h->shnum;
	return true;
}

static bool is_string_table(const struct elf_file *elf, const struct elf_section *s)
{
	return s->type == SECTION_STRTAB && s->size && in_file(elf, s->offset, s->size) &&
	       !elf->data[s->offset] && !elf->data[s->offset + s->size - 1];
}

static bool section_names_are_valid(struct elf_file *elf)
{
	const struct elf_header *h = (const struct elf_header *)(const void *)elf->data;
	const struct elf_section *s;

	if (!h->shstrndx)
		return true;
	if (h->shstrndx >= elf->nsections || !is_string_table(elf, &elf->sections[h->shstrndx]))
		return refuse(elf, "the section names are no string table");
	s = &elf->sections[h->shstrndx];
	elf->section_names = (const char *)elf->data + s->offset;
	elf->section_names_size = s->size;
	return true;
}

static bool section_is_valid(struct elf_file *elf, const struct elf_section *s)
{
	const char *name = uio_elf_section_name(elf, s);

	if (s->type != SECTION_NOBITS && !in_file(elf, s->offset, s->size))
		return refuse(elf, "section %.40s lies outside the file", name);
	if (!(s->flags & SECTION_ALLOC))
		return true;
	if (s->addralign && (!is_power_of_two(s->addralign) || s->addralign > UIO_PAGE_SIZE))
		return refuse(elf, "section %.40s is aligned to 0x%llx", name,
			      (unsigned long long)s->addralign);
	if (s->size > SECTION_SIZE_MAX)
		return refuse(elf, "section %.40s is larger than 256 MiB", name);
	if (s->flags & SECTION_TLS)
		return refuse(elf, "thread-local variables (section %.40s) are not supported",
			      name);
	if (s->flags & SECTION_COMPRESSED)
		return refuse(elf, "section %.40s is compressed", name);
	if (s->flags & SECTION_WRITE && s->flags & SECTION_EXEC)
		return refuse(elf, "section %.40s is writable and executable", name);
	switch (s->type) {
	case SECTION_SYMTAB:
	case SECTION_RELA:
	case SECTION_REL:
	case SECTION_PREINIT_ARRAY:
		return refuse(elf, "section %.40s of type %u cannot be loaded", name, s->type);
	case SECTION_INIT_ARRAY:
	case SECTION_FINI_ARRAY:
		if (s->size % 8 || s->flags & SECTION_EXEC)
			return refuse(elf, "section %.40s is no table of functions", name);
		break;
	default:
		break;
	}
	return true;
}

static bool symbol_is_valid(struct elf_file *elf, const struct elf_symbol *s, uint64_t strings_size)
{
	const char *name;

	if (s->name >= strings_size)
		return refuse(elf, "a symbol's name lies outside the string table");
	name = uio_elf_symbol_name(elf, s);
	if (uio_elf_symbol_type(s) == SYMBOL_TLS)
		return refuse(elf, "thread-local variable %.60s is not supported", name);
	if (uio_elf_symbol_type(s) == SYMBOL_GNU_IFUNC)
		return refuse(elf, "indirect function %.60s is not supported", name);
	if (s->shndx == SECTION_INDEX_UNDEF || s->shndx == SECTION_INDEX_ABS)
		return true;
	if (s->shndx == SECTION_INDEX_COMMON) {
		if (!is_power_of_two(s->value) || s->value > UIO_PAGE_SIZE)
			return refuse(elf, "common variable %.60s is aligned to 0x%llx", name,
				      (unsigned long long)s->value);
		if (s->size > SECTION_SIZE_MAX)
			return refuse(elf, "common variable %.60s is larger than 256 MiB", name);
		return true;
	}
	if (s->shndx >= elf->nsections)
		return refuse(elf, "symbol %.60s is in section %u, which does not exist", name,
			      s->shndx);
	if (s->value > elf->sections[s->shndx].size)
		return refuse(elf, "symbol %.60s lies outside its section", name);
	return true;
}

/* The one symbol table, its strings, every symbol; relocations without a symbol use the first. */
static bool symbols_are_valid(struct elf_file *elf)
{
	static const struct elf_symbol no_symbol;
	const struct elf_section *table = NULL, *strings;

	for (unsigned int i = 1; i < elf->nsections; i++) {
		if (elf->sections[i].type != SECTION_SYMTAB)
			continue;
		if (table)
			return refuse(elf, "it has more than one symbol table");
		table = &elf->sections[i];
	}
	if (!table)
		return refuse(elf, "it has no symbol table");
	if (table->entsize != sizeof(struct elf_symbol) ||
	    table->size % sizeof(struct elf_symbol) || !table->size || table->offset % 8 ||
	    table->size / sizeof(struct elf_symbol) > UINT32_MAX)
		return refuse(elf, "the symbol table is malformed");
	if (!table->link || table->link >= elf->nsections ||
	    !is_string_table(elf, &elf->sections[table->link]))
		return refuse(elf, "the symbol names are no string table");
	strings = &elf->sections[table->link];
	elf->symbols = (const struct elf_symbol *)(const void *)(elf->data + table->offset);
	elf->nsymbols = (uint32_t)(table->size / sizeof(struct elf_symbol));
	elf->strings = (const char *)elf->data + strings->offset;
	if (memcmp(&elf->symbols[0], &no_symbol, sizeof(no_symbol)) != 0)
		return refuse(elf, "the first symbol is not empty");
	for (uint32_t i = 1; i < elf->nsymbols; i++)
		if (!symbol_is_valid(elf, &elf->symbols[i], strings->size))
			return false;
	return true;
}

/* What a loaded section refers to must be loaded too, or come from the kernel. */
static bool reloc_is_valid(struct elf_file *elf, const struct elf_rela *r,
			   const struct elf_section *target)
{
	const struct elf_reloc *how = uio_elf_reloc(uio_elf_rela_type(r));
	const char *name = uio_elf_section_name(elf, target);
	const struct elf_symbol *s;

	if (!how)
		return refuse(elf, "relocation of type %u in section %.40s is not supported",
			      uio_elf_rela_type(r), name);
	if (r->offset > target->size || how->width > target->size - r->offset)
		return refuse(elf, "a relocation lies outside section %.40s", name);
	if (uio_elf_rela_symbol(r) >= elf->nsymbols)
		return refuse(elf, "a relocation of section %.40s has no symbol", name);
	s = &elf->symbols[uio_elf_rela_symbol(r)];
	if (how->width && s->shndx && s->shndx < SECTION_INDEX_RESERVE &&
	    !(elf->sections[s->shndx].flags & SECTION_ALLOC))
		return refuse(elf, "section %.40s refers to %.40s, which is not loaded", name,
			      uio_elf_section_name(elf, &elf->sections[s->shndx]));
	return true;
}

static bool relocations_are_valid(struct elf_file *elf, const struct elf_section *s)
{
	const struct elf_section *target;
	const struct elf_rela *relas;
	uint32_t n;

	if (s->type != SECTION_RELA && s->type != SECTION_REL)
		return true;
	if (!s->info || s->info >= elf->nsections)
		return refuse(elf, "relocations of a section that does not exist");
	target = &elf->sections[s->info];
	if (!uio_elf_is_loaded(target))
		return true; /* of debugging information */
	if (s->type == SECTION_REL || target->type == SECTION_NOBITS)
		return refuse(elf, "section %.40s has relocations of a wrong kind",
			      uio_elf_section_name(elf, target));
	if (s->entsize != sizeof(struct elf_rela) || s->size % sizeof(struct elf_rela) ||
	    s->offset % 8 || s->size / sizeof(struct elf_rela) > UINT32_MAX ||
	    s->link >= elf->nsections || elf->sections[s->link].type != SECTION_SYMTAB)
		return refuse(elf, "the relocations of section %.40s are malformed",
			      uio_elf_section_name(elf, target));
	relas = uio_elf_relas(elf, s, &n);
	for (uint32_t i = 0; i < n; i++)
		if (!reloc_is_valid(elf, &relas[i], target))
			return false;
	return true;
}

bool uio_elf_open(struct elf_file *elf, const void *data, size_t size, char why[ELF_WHY_SIZE])
{
	*elf = (struct elf_file){.data = data, .size = size, .why = why};
	if (!header_is_valid(elf) || !section_names_are_valid(elf))
		return false;
	for (unsigned int i = 1; i < elf->nsections; i++)
		if (!section_is_valid(elf, &elf->sections[i]))
			return false;
	if (!symbols_are_valid(elf))
		return false;
	for (unsigned int i = 1; i < elf->nsections; i++)
		if (!relocations_are_valid(elf, &elf->sections[i]))
			return false;
	return true;
}
