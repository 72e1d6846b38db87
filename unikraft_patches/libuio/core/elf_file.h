/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ELF as overlays use it: relocatable files for x86-64, ELF-64 after the
 * System V ABI and its AMD64 supplement. uio_elf_open() checks everything;
 * the accessors below then need not.
 */
#ifndef UIO_CORE_ELF_FILE_H
#define UIO_CORE_ELF_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct elf_header {
	uint8_t ident[16];
	uint16_t type, machine;
	uint32_t version;
	uint64_t entry, phoff, shoff;
	uint32_t flags;
	uint16_t ehsize, phentsize, phnum, shentsize, shnum, shstrndx;
};
_Static_assert(sizeof(struct elf_header) == 64, "ELF-64");

struct elf_section {
	uint32_t name, type;
	uint64_t flags, addr, offset, size;
	uint32_t link, info;
	uint64_t addralign, entsize;
};
_Static_assert(sizeof(struct elf_section) == 64, "ELF-64");

struct elf_symbol {
	uint32_t name;
	uint8_t info, other;
	uint16_t shndx;
	uint64_t value, size;
};
_Static_assert(sizeof(struct elf_symbol) == 24, "ELF-64");

struct elf_rela {
	uint64_t offset, info;
	int64_t addend;
};
_Static_assert(sizeof(struct elf_rela) == 24, "ELF-64");

enum { ELF_TYPE_REL = 1, ELF_MACHINE_X86_64 = 62 };

enum {
	SECTION_PROGBITS = 1,
	SECTION_SYMTAB = 2,
	SECTION_STRTAB = 3,
	SECTION_RELA = 4,
	SECTION_NOBITS = 8,
	SECTION_REL = 9,
	SECTION_INIT_ARRAY = 14,
	SECTION_FINI_ARRAY = 15,
	SECTION_PREINIT_ARRAY = 16,
};

#define SECTION_WRITE      0x1u
#define SECTION_ALLOC      0x2u
#define SECTION_EXEC       0x4u
#define SECTION_TLS        0x400u
#define SECTION_COMPRESSED 0x800u

#define SECTION_INDEX_UNDEF   0u
#define SECTION_INDEX_RESERVE 0xff00u
#define SECTION_INDEX_ABS     0xfff1u
#define SECTION_INDEX_COMMON  0xfff2u

enum { BIND_LOCAL = 0, BIND_GLOBAL = 1, BIND_WEAK = 2, BIND_GNU_UNIQUE = 10 };
enum { SYMBOL_FUNC = 2, SYMBOL_TLS = 6, SYMBOL_GNU_IFUNC = 10 };

enum {
	R_NONE = 0,
	R_64 = 1,
	R_PC32 = 2,
	R_PLT32 = 4,
	R_GOTPCREL = 9,
	R_32 = 10,
	R_32S = 11,
	R_PC64 = 24,
	R_GOTPCRELX = 41,
	R_REX_GOTPCRELX = 42,
};

/* How each relocation is computed: S symbol, A addend, P place, G the symbol's GOT slot. */
struct elf_reloc {
	char name[14];  /* behind R_X86_64_ */
	uint8_t width;  /* bytes; 0: nothing to do */
	bool got;       /* G in place of S */
	bool pc;        /* minus P */
	bool is_signed; /* a value of 32 bits is sign-extended by the CPU, else zero-extended */
};
/** NULL: a type that overlays may not use. */
const struct elf_reloc *uio_elf_reloc(uint32_t type);

#define ELF_WHY_SIZE 160

struct elf_file {
	const uint8_t *data;
	size_t size;
	const struct elf_section *sections;
	unsigned int nsections;
	const char *section_names; /* "" at index 0; NULL: it has none */
	size_t section_names_size;
	const struct elf_symbol *symbols;
	uint32_t nsymbols;
	const char *strings;
	char *why; /* ELF_WHY_SIZE bytes for why uio_elf_open() refuses the file */
};

/**
 * Check the whole file: header, every section, every symbol, every relocation
 * of a section that is loaded. data is 8-byte aligned and stays with the
 * caller. False: why says what is wrong.
 */
bool uio_elf_open(struct elf_file *elf, const void *data, size_t size, char why[ELF_WHY_SIZE]);

const char *uio_elf_section_name(const struct elf_file *elf, const struct elf_section *s);

static inline const char *uio_elf_symbol_name(const struct elf_file *elf,
					      const struct elf_symbol *s)
{
	return elf->strings + s->name;
}

/** The section takes room in memory. */
static inline bool uio_elf_is_loaded(const struct elf_section *s)
{
	return s->flags & SECTION_ALLOC && s->size;
}

/** The section holds relocations of a section that is loaded. */
static inline bool uio_elf_is_relocation(const struct elf_file *elf, const struct elf_section *s)
{
	return s->type == SECTION_RELA && uio_elf_is_loaded(&elf->sections[s->info]);
}

static inline const struct elf_rela *uio_elf_relas(const struct elf_file *elf,
						   const struct elf_section *s, uint32_t *n)
{
	*n = (uint32_t)(s->size / sizeof(struct elf_rela));
	return (const struct elf_rela *)(const void *)(elf->data + s->offset);
}

static inline uint32_t uio_elf_rela_symbol(const struct elf_rela *r)
{
	return (uint32_t)(r->info >> 32);
}

static inline uint32_t uio_elf_rela_type(const struct elf_rela *r)
{
	return (uint32_t)r->info;
}

static inline unsigned int uio_elf_symbol_bind(const struct elf_symbol *s)
{
	return s->info >> 4;
}

static inline unsigned int uio_elf_symbol_type(const struct elf_symbol *s)
{
	return s->info & 15;
}

#endif /* UIO_CORE_ELF_FILE_H */
