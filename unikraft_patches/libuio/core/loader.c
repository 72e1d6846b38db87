/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pull: place and relocate an ET_REL in the guest. Three parts of memory are
 * made: code and PLT (RX), constants and GOT (R), data and COMMON (RW). The
 * kernel's functions are reached through the GOT alone, so that gates can
 * stand there; its objects are reached directly. Names are the host's matter:
 * all of them are asked for in one question.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "elf_file.h"
#include "loader_entries.h"
#include "overlay_impl.h"

enum part { PART_CODE, PART_CONST, PART_DATA, PARTS };

static const unsigned int part_prot[PARTS] = {
	[PART_CODE] = UIO_PROT_READ | UIO_PROT_EXEC,
	[PART_CONST] = UIO_PROT_READ,
	[PART_DATA] = UIO_PROT_READ | UIO_PROT_WRITE,
};

/* A PLT entry: jmp *slot(%rip), padded with int3. */
#define STUB_SIZE 8u
/* How others call a function of ours: lea function(%rip),%r11; jmp *slot(%rip), padded. */
#define ENTRY_SIZE 16u

/* Bytes of names in one SYMQ. */
#define QUESTION_MAX 60000u

/* Each is gone through once per priority. */
#define CALL_TABLES_MAX 64u

enum { NEEDS_ADDRESS = 1, NEEDS_SLOT = 2, IS_FUNCTION = 4, IS_DIRECT = 8 };
enum { TYPE_FUNCTION = 1, TYPE_OBJECT = 2, TYPE_DIRECT = 4 };

struct place {
	uint64_t address; /* S; of an imported function: its PLT entry */
	uint64_t target;  /* what the kernel has under this name */
	uint32_t slot;    /* index in the GOT, if NEEDS_SLOT */
	uint32_t flags;
};

struct loader {
	struct uio_exec *x;
	const char *name;
	const uint8_t *hash;
	uio_loader_symbol *own; /* NULL: an overlay */
	struct uio_resident *resident;
	struct place *places; /* per symbol */
	uint64_t *sections;   /* per section: where it is */
	uint64_t plt, got;    /* offsets in their parts, later addresses */
	struct elf_file elf;
	uint64_t part_size[PARTS];   /* while laying out */
	uint64_t part_start[PARTS];  /* addresses */
	uint32_t nslots, nfunctions; /* sizes of GOT and PLT in entries */
	struct uio_entries entries;  /* functions of ours that others may call */
	uint64_t stubs;              /* for them: as plt */
	uint32_t back_slot;          /* theirs, if there are any */
	char why[ELF_WHY_SIZE];
};

static bool refuse(struct loader *l, const char *why, const char *what)
{
	uio_exec_result(l->x, UIO_EXIT_REFUSED, -ENOEXEC, "%s: %s%s", l->name, why, what);
	return false;
}

static bool no_memory(struct loader *l)
{
	uio_exec_result(l->x, UIO_EXIT_ERROR, -ENOMEM, "%s: not enough memory to load it", l->name);
	return false;
}

static enum part part_of(const struct elf_section *s)
{
	if (s->flags & SECTION_EXEC)
		return PART_CODE;
	return s->flags & SECTION_WRITE ? PART_DATA : PART_CONST;
}

static void *zalloc(size_t n, size_t size)
{
	void *p = n <= SIZE_MAX / size ? uio_port_alloc(n * size) : NULL;

	return p ? memset(p, 0, n * size) : NULL;
}

/* 1. Which symbols loaded code refers to, and how. */
static void note_references(struct loader *l)
{
	for (unsigned int i = 1; i < l->elf.nsections; i++) {
		const struct elf_section *s = &l->elf.sections[i];
		const struct elf_rela *relas;
		uint32_t n;

		if (!uio_elf_is_relocation(&l->elf, s))
			continue;
		relas = uio_elf_relas(&l->elf, s, &n);
		for (uint32_t j = 0; j < n; j++) {
			const struct elf_reloc *how = uio_elf_reloc(uio_elf_rela_type(&relas[j]));

			if (how->width)
				l->places[uio_elf_rela_symbol(&relas[j])].flags |=
					how->got ? NEEDS_SLOT : NEEDS_ADDRESS;
		}
	}
}

/* Which program a C++ object belongs to: the one name that each program has of its own. */
static bool is_handle(const struct elf_file *elf, const struct elf_symbol *s)
{
	return s->shndx == SECTION_INDEX_UNDEF &&
	       !strcmp(uio_elf_symbol_name(elf, s), "__dso_handle");
}

static bool is_import(const struct loader *l, uint32_t i)
{
	return i && l->elf.symbols[i].shndx == SECTION_INDEX_UNDEF && l->places[i].flags &&
	       !is_handle(&l->elf, &l->elf.symbols[i]);
}

static bool take_answer(struct loader *l, uint32_t i, const struct uio_symbol *answer,
			const struct uio_image *image)
{
	const char *name = uio_elf_symbol_name(&l->elf, &l->elf.symbols[i]);
	bool is_function = answer->type == TYPE_FUNCTION || answer->type == TYPE_DIRECT;

	if (!is_function && answer->type != TYPE_OBJECT)
		return refuse(l, "the host answers with an unknown kind of symbol: ", name);
	if (answer->address < (is_function ? image->text_start : image->base) ||
	    answer->address >= (is_function ? image->text_end : image->end))
		return refuse(l, "the host names an address outside the kernel for ", name);
	l->places[i].target = answer->address;
	l->places[i].address = answer->address;
	if (is_function)
		l->places[i].flags |= IS_FUNCTION | NEEDS_SLOT;
	if (answer->type == TYPE_DIRECT)
		l->places[i].flags |= IS_DIRECT;
	return true;
}

static bool take_answers(struct loader *l, const struct uio_symbol *answers)
{
	char missing[128] = "";
	size_t used = 0;
	unsigned int nmissing = 0, at = 0;
	struct uio_image image;

	uio_port_image(&image);
	for (uint32_t i = 1; i < l->elf.nsymbols; i++) {
		const struct uio_symbol *answer = &answers[at];

		if (!is_import(l, i))
			continue;
		at++;
		if (answer->type) {
			if (!take_answer(l, i, answer, &image))
				return false;
		} else if (uio_elf_symbol_bind(&l->elf.symbols[i]) != BIND_WEAK) {
			const char *name = uio_elf_symbol_name(&l->elf, &l->elf.symbols[i]);
			int n = snprintf(missing + used, sizeof(missing) - used, "%s%s",
					 nmissing ? ", " : "", name);

			nmissing++;
			if (n > 0 && (size_t)n < sizeof(missing) - used)
				used += (size_t)n;
			else
				missing[used] = '\0';
		}
	}
	if (!nmissing)
		return true;
	if (!used)
		snprintf(missing, sizeof(missing), "%u names", nmissing);
	return refuse(l, "the kernel has no symbol ", missing);
}

/* All names in one question, or in as few as frames have room for. */
static int ask(const uint8_t *hash, const char *const *names, unsigned int n,
	       struct uio_symbol *answers)
{
	unsigned int start = 0, end = 0;
	size_t bytes = 0;
	int rc = 0;

	while (start < n && !rc) {
		while (end < n && (end == start || bytes + 2 + strlen(names[end]) <= QUESTION_MAX))
			bytes += 2 + strlen(names[end++]);
		if (bytes > QUESTION_MAX)
			return -ENAMETOOLONG;
		rc = uio_channel_symq(hash, names + start, end - start, answers + start);
		start = end;
		bytes = 0;
	}
	return rc;
}

/* A part of libuio is not at the mercy of the host: what it needs of the rest is known here. */
static void answer(const struct loader *l, const char *const *names, unsigned int n,
		   struct uio_symbol *answers)
{
	struct uio_image image;

	uio_port_image(&image);
	for (unsigned int i = 0; i < n; i++) {
		uint64_t address = (uintptr_t)l->own(names[i]);

		answers[i].address = address;
		if (address)
			answers[i].type = address >= image.text_start && address < image.text_end
						  ? TYPE_DIRECT
						  : TYPE_OBJECT;
	}
}

/* 2. Ask the host for the names of the kernel's symbols. */
static bool resolve_imports(struct loader *l)
{
	unsigned int n = 0, at = 0;
	const char **names;
	struct uio_symbol *answers;
	bool ok;
	int rc = 0;

	for (uint32_t i = 1; i < l->elf.nsymbols; i++)
		n += is_import(l, i);
	if (!n)
		return true;
	names = zalloc(n, sizeof(*names));
	answers = zalloc(n, sizeof(*answers));
	if (!names || !answers) {
		uio_port_free(names);
		uio_port_free(answers);
		return no_memory(l);
	}
	for (uint32_t i = 1; i < l->elf.nsymbols; i++)
		if (is_import(l, i))
			names[at++] = uio_elf_symbol_name(&l->elf, &l->elf.symbols[i]);
	if (l->own)
		answer(l, names, n, answers);
	else
		rc = ask(l->hash, names, n, answers);
	ok = !rc && take_answers(l, answers);
	if (rc == -EINTR)
		uio_run_stopped(l->x, l->name);
	else if (rc)
		uio_exec_result(l->x, UIO_EXIT_ERROR, rc,
				"%s: the host does not say where its symbols are (error %d)",
				l->name, -rc);
	uio_port_free(names);
	uio_port_free(answers);
	return ok;
}

/* Offsets stay far below 2^64: each section is at most 256 MiB, and there are less than 2^16. */
static uint64_t append(uint64_t *size, uint64_t align, uint64_t bytes)
{
	uint64_t at = (*size + align - 1) & ~(align - 1);

	*size = at + bytes;
	return at;
}

/* 3. Where everything lies, as offsets in its part; sizes of PLT and GOT. */
static bool lay_out(struct loader *l)
{
	uint64_t common = 0;

	for (unsigned int i = 1; i < l->elf.nsections; i++) {
		const struct elf_section *s = &l->elf.sections[i];

		if (uio_elf_is_loaded(s))
			l->sections[i] = append(&l->part_size[part_of(s)],
						s->addralign ? s->addralign : 1, s->size);
	}
	for (uint32_t i = 1; i < l->elf.nsymbols; i++) {
		const struct elf_symbol *s = &l->elf.symbols[i];

		if (s->shndx == SECTION_INDEX_COMMON) {
			l->places[i].address = append(&l->part_size[PART_DATA], s->value, s->size);
			common += s->size;
			if (common > UINT32_MAX)
				return no_memory(l);
		}
		if (l->places[i].flags & IS_FUNCTION)
			l->nfunctions++;
		if (l->places[i].flags & NEEDS_SLOT)
			l->places[i].slot = l->nslots++;
	}
	l->plt = append(&l->part_size[PART_CODE], STUB_SIZE, (uint64_t)l->nfunctions * STUB_SIZE);
	l->stubs = append(&l->part_size[PART_CODE], ENTRY_SIZE,
			  (uint64_t)l->entries.taken * ENTRY_SIZE);
	if (l->entries.taken)
		l->back_slot = l->nslots++;
	l->got = append(&l->part_size[PART_CONST], 8, (uint64_t)l->nslots * 8);
	return true;
}

/* 4. Reserve one range for all parts, map them writable. */
static bool map_parts(struct loader *l)
{
	struct uio_arena arena;
	size_t pages = 0;
	uintptr_t va;

	for (unsigned int part = 0; part < PARTS; part++)
		pages += UIO_PAGES(l->part_size[part]);
	uio_overlay_arena(&arena);
	if (pages > (arena.size - arena.push_size) / UIO_PAGE_SIZE)
		return no_memory(l); /* whatever were evicted */
	while (!(va = uio_arena_take(pages)))
		if (!uio_resident_evict())
			return no_memory(l);
	l->resident->o.base = va;
	l->resident->o.size = pages * UIO_PAGE_SIZE;
	for (unsigned int part = 0; part < PARTS; part++) {
		size_t n = UIO_PAGES(l->part_size[part]);

		l->part_start[part] = va;
		if (n && uio_resident_map(l->resident, va, n, part_prot[part]))
			return no_memory(l);
		va += n * UIO_PAGE_SIZE;
	}
	l->plt += l->part_start[PART_CODE];
	l->stubs += l->part_start[PART_CODE];
	l->got += l->part_start[PART_CONST];
	return true;
}

/* 5. Sections to their places; values of all symbols; PLT and GOT. */
static void copy_sections(struct loader *l)
{
	uint64_t filled = 0;

	for (unsigned int i = 1; i < l->elf.nsections; i++) {
		const struct elf_section *s = &l->elf.sections[i];

		if (!uio_elf_is_loaded(s))
			continue;
		l->sections[i] += l->part_start[part_of(s)];
		if (s->type != SECTION_NOBITS)
			memcpy((void *)(uintptr_t)l->sections[i], l->elf.data + s->offset, s->size);
		if (s->type != SECTION_NOBITS && part_of(s) == PART_DATA &&
		    l->sections[i] + s->size - l->part_start[PART_DATA] > filled)
			filled = l->sections[i] + s->size - l->part_start[PART_DATA];
	}
	if (l->part_size[PART_DATA]) /* mapped last */
		l->resident->seg[l->resident->nseg - 1].filled = filled;
}

static void write_stub(uint64_t stub, uint64_t slot)
{
	uint8_t code[STUB_SIZE] = {0xff, 0x25, 0, 0, 0, 0, 0xcc, 0xcc};
	/* All parts lie in one range of less than 2 GiB, or it would not have been mapped. */
	int32_t distance = (int32_t)(int64_t)(slot - (stub + 6));

	memcpy(code + 2, &distance, sizeof(distance));
	memcpy((void *)(uintptr_t)stub, code, sizeof(code));
}

static uint64_t entry_stub(const struct loader *l, const struct uio_entry *e)
{
	return l->stubs + (uint64_t)e->index * ENTRY_SIZE;
}

static void write_entry(const struct loader *l, const struct uio_entry *e)
{
	uint8_t code[ENTRY_SIZE] = {0x4c, 0x8d, 0x1d, 0, 0, 0,    0,    0xff,
				    0x25, 0,    0,    0, 0, 0xcc, 0xcc, 0xcc};
	uint64_t stub = entry_stub(l, e), slot = l->got + 8ull * l->back_slot;
	int32_t function = (int32_t)(int64_t)(l->sections[e->section] + e->value - (stub + 7));
	int32_t gate = (int32_t)(int64_t)(slot - (stub + 13));

	memcpy(code + 3, &function, sizeof(function));
	memcpy(code + 9, &gate, sizeof(gate));
	memcpy((void *)(uintptr_t)stub, code, sizeof(code));
}

static void write_entries(struct loader *l)
{
	uint64_t back = uio_gate_back();

	for (uint32_t i = 0; i < l->entries.n; i++)
		if (l->entries.at[i].is_taken)
			write_entry(l, &l->entries.at[i]);
	if (l->entries.taken)
		memcpy((void *)(uintptr_t)(l->got + 8ull * l->back_slot), &back, sizeof(back));
}

static bool place_symbols(struct loader *l)
{
	uint64_t stub = l->plt;

	for (uint32_t i = 1; i < l->elf.nsymbols; i++) {
		const struct elf_symbol *s = &l->elf.symbols[i];
		struct place *place = &l->places[i];
		uint64_t content;

		if (s->shndx == SECTION_INDEX_ABS)
			place->address = s->value;
		else if (is_handle(&l->elf, s))
			place->address = l->resident->o.base;
		else if (s->shndx == SECTION_INDEX_COMMON)
			place->address += l->part_start[PART_DATA];
		else if (s->shndx)
			place->address = l->sections[s->shndx] + s->value;
		content = place->address;
		if (s->shndx && place->flags & NEEDS_SLOT) {
			const struct uio_entry *e = uio_entry_at(&l->entries, s);

			if (e && e->is_taken)
				content = entry_stub(l, e);
		}
		if (place->flags & IS_FUNCTION) {
			bool is_direct = place->flags & IS_DIRECT;

			l->resident->calls_kernel |= !is_direct && !uio_api_has(place->target);
			content = is_direct ? place->target : uio_gate(place->target);
			if (!content)
				return no_memory(l);
			place->address = stub;
			write_stub(stub, l->got + 8ull * place->slot);
			stub += STUB_SIZE;
		}
		if (place->flags & NEEDS_SLOT)
			memcpy((void *)(uintptr_t)(l->got + 8ull * place->slot), &content,
			       sizeof(content));
	}
	return true;
}

/* 6. The relocations themselves. */
static bool relocate(struct loader *l, const struct elf_rela *r, const struct elf_section *in,
		     uint64_t place)
{
	const struct elf_reloc *how = uio_elf_reloc(uio_elf_rela_type(r));
	const struct place *symbol = &l->places[uio_elf_rela_symbol(r)];
	const struct uio_entry *entry;
	uint64_t value;
	bool fits;

	if (!how->width)
		return true;
	entry = how->got ? NULL : uio_entry_of(&l->entries, &l->elf, in, r);
	if (entry) {
		/* Of `lea` the place counts from the end of its field: S + A is 4 short of it. */
		value = entry_stub(l, entry) - (how->pc ? 4 + place : 0);
	} else {
		value = how->got ? l->got + 8ull * symbol->slot : symbol->address;
		value += (uint64_t)r->addend - (how->pc ? place : 0);
	}
	fits = how->width == 8 ||
	       (how->is_signed ? (int64_t)value == (int32_t)value : value == (uint32_t)value);
	if (!fits) {
		const struct elf_symbol *s = &l->elf.symbols[uio_elf_rela_symbol(r)];
		char text[100];

		snprintf(text, sizeof(text), "R_X86_64_%s to %.60s", how->name,
			 uio_elf_symbol_name(&l->elf, s));
		return refuse(l, "out of reach: ", text);
	}
	memcpy((void *)(uintptr_t)place, &value, how->width);
	return true;
}

static bool relocate_all(struct loader *l)
{
	for (unsigned int i = 1; i < l->elf.nsections; i++) {
		const struct elf_section *s = &l->elf.sections[i];
		const struct elf_rela *relas;
		uint32_t n;

		if (!uio_elf_is_relocation(&l->elf, s))
			continue;
		relas = uio_elf_relas(&l->elf, s, &n);
		for (uint32_t j = 0; j < n; j++)
			if (!relocate(l, &relas[j], &l->elf.sections[s->info],
				      l->sections[s->info] + relas[j].offset))
				return false;
	}
	return true;
}

/*
 * 7. Constructors and destructors: tables of functions, sorted by the priority
 * that the compiler puts behind the section's name (".init_array.00101").
 */
static uint32_t priority(const struct loader *l, const struct elf_section *s)
{
	const char *dot = strrchr(uio_elf_section_name(&l->elf, s), '.');
	uint32_t n = 0;

	if (!dot || dot[1] < '0' || dot[1] > '9')
		return 65536; /* after all that have one */
	for (dot++; *dot >= '0' && *dot <= '9' && n < 65536; dot++)
		n = n * 10 + (uint32_t)(*dot - '0');
	return n < 65536 ? n : 65535;
}

static bool count_calls(struct loader *l, uint32_t type, uint32_t *count)
{
	unsigned int tables = 0;

	*count = 0;
	for (unsigned int i = 1; i < l->elf.nsections; i++) {
		if (!uio_elf_is_loaded(&l->elf.sections[i]) || l->elf.sections[i].type != type)
			continue;
		*count += (uint32_t)(l->elf.sections[i].size / 8);
		if (++tables > CALL_TABLES_MAX)
			return refuse(l, "it has too many tables of constructors", "");
	}
	return true;
}

static void collect_calls(struct loader *l, uint32_t type, uint64_t *out)
{
	/* Few such sections exist; each round takes those of the next priority. */
	for (uint32_t done = 0, next; done <= 65536; done = next + 1) {
		next = UINT32_MAX - 1;
		for (unsigned int i = 1; i < l->elf.nsections; i++) {
			const struct elf_section *s = &l->elf.sections[i];

			if (uio_elf_is_loaded(s) && s->type == type && priority(l, s) >= done &&
			    priority(l, s) < next)
				next = priority(l, s);
		}
		for (unsigned int i = 1; i < l->elf.nsections && next <= 65536; i++) {
			const struct elf_section *s = &l->elf.sections[i];

			if (!uio_elf_is_loaded(s) || s->type != type || priority(l, s) != next)
				continue;
			memcpy(out, (const void *)(uintptr_t)l->sections[i], s->size);
			out += s->size / 8;
		}
	}
}

static bool find_calls(struct loader *l)
{
	struct uio_resident *r = l->resident;

	if (!count_calls(l, SECTION_INIT_ARRAY, &r->ninit) ||
	    !count_calls(l, SECTION_FINI_ARRAY, &r->nfini))
		return false;
	if (!r->ninit && !r->nfini)
		return true;
	r->calls = zalloc((size_t)r->ninit + r->nfini, sizeof(*r->calls));
	if (!r->calls)
		return no_memory(l);
	collect_calls(l, SECTION_INIT_ARRAY, r->calls);
	collect_calls(l, SECTION_FINI_ARRAY, r->calls + r->ninit);
	for (uint32_t i = 0; i < r->ninit + r->nfini; i++)
		if (!uio_resident_has(r, r->calls[i], UIO_PROT_EXEC))
			return refuse(l, "a constructor or destructor lies outside its code", "");
	return true;
}

static bool find_entry(struct loader *l)
{
	const char *name = l->own ? "uio_module" : "main";

	for (uint32_t i = 1; i < l->elf.nsymbols; i++) {
		const struct elf_symbol *s = &l->elf.symbols[i];

		if (!s->shndx || uio_elf_symbol_bind(s) == BIND_LOCAL ||
		    strcmp(uio_elf_symbol_name(&l->elf, s), name) != 0)
			continue;
		if (!l->own && !uio_resident_has(l->resident, l->places[i].address, UIO_PROT_EXEC))
			return refuse(l, "main is no function", "");
		l->resident->o.entry = l->places[i].address;
		return true;
	}
	return refuse(l, "it has no function ", name);
}

static bool take_policy(struct loader *l)
{
	const char *why;

	for (unsigned int i = 1; i < l->elf.nsections; i++) {
		const struct elf_section *s = &l->elf.sections[i];

		if (strcmp(uio_elf_section_name(&l->elf, s), ".uio.policy") != 0)
			continue;
		if (s->type == SECTION_NOBITS || s->size != sizeof(struct uio_policy))
			return refuse(l, "section .uio.policy has a wrong size", "");
		memcpy(&l->resident->o.policy, l->elf.data + s->offset, s->size);
		why = uio_policy_refusal(&l->resident->o.policy);
		return why ? refuse(l, why, "") : true;
	}
	return true;
}

/* 8. All is in its place: what it holds now is what it begins with each time. */
static bool seal(struct loader *l)
{
	const char *forbidden = l->own ? NULL : uio_resident_scan(l->resident);

	if (forbidden)
		return refuse(l, "it holds an instruction that no overlay may have: ", forbidden);
	if ((!l->own && !uio_resident_keep_data(l->resident)) || uio_resident_protect(l->resident))
		return no_memory(l);
	return true;
}

static bool load(struct loader *l, const uint8_t *file, size_t size)
{
	if (!uio_elf_open(&l->elf, file, size, l->why))
		return refuse(l, l->why, "");
	l->places = zalloc(l->elf.nsymbols, sizeof(*l->places));
	l->sections = zalloc(l->elf.nsections, sizeof(*l->sections));
	l->resident = uio_resident_new(l->hash, l->name);
	if (!l->places || !l->sections || !l->resident)
		return no_memory(l);
	if (!take_policy(l))
		return false;
	note_references(l);
	if (!l->own && !uio_entries_find(&l->entries, &l->elf))
		return no_memory(l);
	if (!resolve_imports(l) || !lay_out(l) || !map_parts(l))
		return false;
	copy_sections(l);
	write_entries(l);
	if (!place_symbols(l) || !relocate_all(l) || !find_entry(l) || !find_calls(l))
		return false;
	return seal(l);
}

struct uio_resident *uio_loader_load(struct uio_exec *x, const char *name,
				     const uint8_t hash[UIO_HASH_SIZE], const uint8_t *elf,
				     size_t size, uio_loader_symbol *own)
{
	struct loader *l = zalloc(1, sizeof(*l));
	struct uio_resident *r;

	if (!l) {
		uio_exec_result(x, UIO_EXIT_ERROR, -ENOMEM, "%s: not enough memory", name);
		return NULL;
	}
	l->x = x;
	l->name = name;
	l->hash = hash;
	l->own = own;
	if (!load(l, elf, size) && l->resident) {
		uio_resident_free(l->resident);
		l->resident = NULL;
	}
	r = l->resident;
	uio_port_free(l->entries.at);
	uio_port_free(l->places);
	uio_port_free(l->sections);
	uio_port_free(l);
	return r;
}
