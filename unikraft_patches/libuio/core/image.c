/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Push: an image that the host has linked for this kernel and an address of
 * its choice (docs/protocol.md, section 5). It is collected piece by piece,
 * every field is checked, then it is mapped, its GOT filled and protected.
 */

#include <errno.h>
#include <string.h>

#include "overlay_impl.h"

struct image_header {
	uint8_t magic[8];
	uint8_t hash[UIO_HASH_SIZE];
	uint8_t build_id[20];
	uint32_t size;
	uint64_t base, entry;
	uint32_t nseg, nimport, ninit, nfini;
	char name[64];
	struct uio_policy policy;
};
_Static_assert(sizeof(struct image_header) == 192, "wire format");

struct image_segment {
	uint32_t offset, file_size, mem_size, prot;
};
_Static_assert(sizeof(struct image_segment) == 16, "wire format");

struct image_import {
	uint64_t target;
	uint32_t slot, kind;
};
_Static_assert(sizeof(struct image_import) == 16, "wire format");

enum {
	IMPORT_FUNCTION = 1,
	IMPORT_OBJECT = 2,
	IMPORT_BACK = 3,  /* how the overlay's own functions are called by others; no target */
	IMPORT_DIRECT = 4 /* a function that runs in the overlay's rights */
};

#define CALLS_MAX 65536u

struct uio_push {
	struct image_header header;
	struct image_segment segments[UIO_SEGMENTS_MAX];
	size_t filled; /* bytes of it all, header included */
	size_t total;  /* known once header and segments are there */
	uint8_t *rest; /* imports, init, fini, data */
	bool failed;
};

static bool prot_is_valid(uint32_t prot)
{
	return prot == UIO_PROT_READ || prot == (UIO_PROT_READ | UIO_PROT_WRITE) ||
	       prot == (UIO_PROT_READ | UIO_PROT_EXEC);
}

static bool is_name(const char name[64])
{
	const char *nul = memchr(name, 0, 64);
	size_t n = nul ? (size_t)(nul - name) : 0;

	if (!n)
		return false;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] <= ' ' || name[i] == '/' || name[i] == 0x7f)
			return false;
	for (size_t i = n; i < 64; i++)
		if (name[i])
			return false;
	return true;
}

const char *uio_push_refusal(void)
{
	return uio_signature_refusal ? "this kernel checks signatures itself: it takes the file "
				       "(pull), not an image that the host has linked"
				     : NULL;
}

/* What can be said of the header alone; it bounds the memory for the rest. */
static const char *header_refusal(const struct image_header *h)
{
	static const uint8_t magic[8] = {0, 'u', 'I', 'O', 'I', 'M', 'G', '1'};
	struct uio_arena arena;
	struct uio_image image;

	uio_overlay_arena(&arena);
	uio_port_image(&image);
	if (uio_push_refusal())
		return uio_push_refusal();
	if (memcmp(h->magic, magic, sizeof(magic)))
		return "it is no linked image";
	if (!image.build_id || image.build_id_len != sizeof(h->build_id) ||
	    memcmp(h->build_id, image.build_id, sizeof(h->build_id)))
		return "it was linked for another kernel (the build-ids differ)";
	if (!h->size || h->size % UIO_PAGE_SIZE || h->base % UIO_PAGE_SIZE)
		return "its size or address is no multiple of a page";
	if (h->size > arena.push_size || h->base < arena.push_base ||
	    h->base - arena.push_base > arena.push_size - h->size)
		return "its address lies outside the arena";
	if (!h->nseg || h->nseg > UIO_SEGMENTS_MAX)
		return "it has no segments, or too many";
	if (h->nimport > h->size / 8 || h->ninit > CALLS_MAX || h->nfini > CALLS_MAX)
		return "it has too many imports or constructors";
	if (!is_name(h->name))
		return "its name is malformed";
	return uio_policy_refusal(&h->policy);
}

static const char *segments_refusal(const struct image_header *h, const struct image_segment *s,
				    uint64_t *data_size)
{
	uint64_t end = 0;

	*data_size = 0;
	for (uint32_t i = 0; i < h->nseg; i++, s++) {
		if (!prot_is_valid(s->prot))
			return "a segment has rights that no segment may have";
		if (s->offset % UIO_PAGE_SIZE || s->offset < end)
			return "its segments overlap, or do not begin at a page";
		if (!s->mem_size || s->file_size > s->mem_size || s->offset > h->size ||
		    s->mem_size > h->size - s->offset)
			return "a segment lies outside the image";
		end = s->offset + UIO_PAGES(s->mem_size) * UIO_PAGE_SIZE;
		*data_size += s->file_size;
	}
	return NULL;
}

static const struct image_segment *segment_of(const struct uio_push *p, uint64_t offset,
					      uint64_t size)
{
	for (uint32_t i = 0; i < p->header.nseg; i++) {
		const struct image_segment *s = &p->segments[i];

		if (offset >= s->offset && size <= s->mem_size &&
		    offset - s->offset <= s->mem_size - size)
			return s;
	}
	return NULL;
}

static bool is_code(const struct uio_push *p, uint64_t address)
{
	const struct image_segment *s = segment_of(p, address - p->header.base, 1);

	return s && s->prot & UIO_PROT_EXEC;
}

static const char *imports_refusal(const struct uio_push *p, const struct image_import *imports)
{
	struct uio_image image;

	uio_port_image(&image);
	for (uint32_t i = 0; i < p->header.nimport; i++) {
		const struct image_import *m = &imports[i];
		const struct image_segment *s = segment_of(p, m->slot, 8);

		if (!s || s->prot & UIO_PROT_WRITE || m->slot % 8)
			return "a GOT entry lies outside its read-only part";
		if (m->kind == IMPORT_FUNCTION || m->kind == IMPORT_DIRECT) {
			if (m->target < image.text_start || m->target >= image.text_end)
				return "a function import lies outside the kernel's text";
		} else if (m->kind == IMPORT_OBJECT) {
			if (m->target < image.base || m->target >= image.end)
				return "an object import lies outside the kernel";
		} else if (m->kind != IMPORT_BACK || m->target) {
			return "an import is neither function nor object";
		}
	}
	return NULL;
}

static const char *calls_refusal(const struct uio_push *p, const uint64_t *calls)
{
	if (!is_code(p, p->header.entry))
		return "its entry lies outside its code";
	for (uint32_t i = 0; i < p->header.ninit + p->header.nfini; i++)
		if (!is_code(p, calls[i]))
			return "a constructor or destructor lies outside its code";
	return NULL;
}

struct uio_push *uio_push_begin(void)
{
	struct uio_push *p = uio_port_alloc(sizeof(*p));

	return p ? memset(p, 0, sizeof(*p)) : NULL;
}

void uio_push_abort(struct uio_push *p)
{
	if (p)
		uio_port_free(p->rest);
	uio_port_free(p);
}

static size_t tables_size(const struct image_header *h)
{
	return (size_t)h->nimport * sizeof(struct image_import) +
	       ((size_t)h->ninit + h->nfini) * sizeof(uint64_t);
}

/* Fill room up to end bytes of the whole; how many of buf were taken. */
static size_t fill(struct uio_push *p, void *room, size_t start, size_t end, const void *buf,
		   size_t len)
{
	size_t n;

	if (p->filled < start || p->filled >= end)
		return 0;
	n = end - p->filled < len ? end - p->filled : len;
	memcpy((uint8_t *)room + (p->filled - start), buf, n);
	p->filled += n;
	return n;
}

/* Header and segments are there: how large the rest is. */
static int expect_rest(struct uio_push *p, size_t start)
{
	uint64_t data_size;

	if (segments_refusal(&p->header, p->segments, &data_size))
		return -EINVAL;
	p->total = start + tables_size(&p->header) + data_size;
	p->rest = uio_port_alloc(p->total - start ? p->total - start : 1);
	return p->rest ? 0 : -ENOMEM;
}

static int take(struct uio_push *p, const void *buf, size_t len)
{
	const uint8_t *at = buf;
	size_t n, segments_end;
	int rc;

	n = fill(p, &p->header, 0, sizeof(p->header), at, len);
	at += n;
	len -= n;
	if (p->filled < sizeof(p->header))
		return 0;
	if (n && header_refusal(&p->header))
		return -EINVAL;
	segments_end = sizeof(p->header) + p->header.nseg * sizeof(struct image_segment);
	n = fill(p, p->segments, sizeof(p->header), segments_end, at, len);
	at += n;
	len -= n;
	if (p->filled < segments_end)
		return 0;
	if (!p->rest) {
		rc = expect_rest(p, segments_end);
		if (rc)
			return rc;
	}
	return fill(p, p->rest, segments_end, p->total, at, len) == len ? 0 : -EFBIG;
}

int uio_push_data(struct uio_push *p, const void *buf, size_t len)
{
	int rc = p->failed ? -EINVAL : take(p, buf, len);

	p->failed = rc != 0;
	return rc;
}

static int map_image(struct uio_push *p, struct uio_resident *r, const uint8_t *data)
{
	const struct image_header *h = &p->header;

	for (uint32_t i = 0; i < h->nseg; i++) {
		const struct image_segment *s = &p->segments[i];
		uintptr_t va = h->base + s->offset;

		if (uio_resident_map(r, va, UIO_PAGES(s->mem_size), s->prot))
			return -ENOMEM;
		memcpy((void *)va, data, s->file_size);
		data += s->file_size;
		if (s->prot & UIO_PROT_WRITE)
			r->seg[r->nseg - 1].filled = s->file_size;
	}
	return 0;
}

static uint64_t slot_value(const struct image_import *m, struct uio_resident *r)
{
	switch (m->kind) {
	case IMPORT_FUNCTION:
		r->calls_kernel |= !uio_api_has(m->target);
		return uio_gate(m->target);
	case IMPORT_BACK:
		return uio_gate_back();
	default:
		return m->target;
	}
}

static int fill_got(const struct uio_push *p, const struct image_import *imports,
		    struct uio_resident *r)
{
	for (uint32_t i = 0; i < p->header.nimport; i++) {
		const struct image_import *m = &imports[i];
		uint64_t value = slot_value(m, r);

		if (!value)
			return -ENOMEM;
		memcpy((void *)(uintptr_t)(p->header.base + m->slot), &value, sizeof(value));
	}
	return 0;
}

static int take_calls(const struct image_header *h, struct uio_resident *r, const uint64_t *calls)
{
	size_t size = ((size_t)h->ninit + h->nfini) * sizeof(*calls);

	if (!size)
		return 0;
	r->calls = uio_port_alloc(size);
	if (!r->calls)
		return -ENOMEM;
	memcpy(r->calls, calls, size);
	r->ninit = h->ninit;
	r->nfini = h->nfini;
	return 0;
}

/* All is checked: from here on only memory can be short. */
static int build(struct uio_push *p, struct uio_resident *r)
{
	const struct image_header *h = &p->header;
	const struct image_import *imports = (const void *)p->rest;
	const uint64_t *calls = (const void *)(imports + h->nimport);
	int rc;

	rc = uio_arena_claim(h->base, h->size / UIO_PAGE_SIZE);
	if (rc)
		return rc;
	r->o.base = h->base;
	r->o.size = h->size;
	r->o.entry = h->entry;
	r->o.pushed = true;
	r->o.policy = h->policy;
	rc = map_image(p, r, p->rest + tables_size(h));
	if (!rc)
		rc = take_calls(h, r, calls);
	if (!rc)
		rc = fill_got(p, imports, r);
	if (!rc && !uio_resident_keep_data(r))
		rc = -ENOMEM;
	if (!rc && uio_resident_scan(r))
		rc = -EACCES;
	return rc ? rc : uio_resident_protect(r);
}

static const char *finish(struct uio_push *p, struct uio_overlay **out, int *rc)
{
	struct uio_resident *r;
	const struct image_import *imports = (const void *)p->rest;
	const char *why;
	uint64_t data_size;

	*rc = -EINVAL;
	if (p->filled >= sizeof(p->header)) {
		why = header_refusal(&p->header);
		if (!why &&
		    p->filled >= sizeof(p->header) + p->header.nseg * sizeof(p->segments[0]))
			why = segments_refusal(&p->header, p->segments, &data_size);
		if (why)
			return why;
	}
	if (p->failed && p->rest)
		return "the image is longer than its header says";
	if (p->failed || !p->rest || p->filled != p->total)
		return "the image is not complete";
	why = imports_refusal(p, imports);
	if (!why)
		why = calls_refusal(p, (const void *)(imports + p->header.nimport));
	if (why)
		return why;
	*rc = -EEXIST;
	if (uio_overlay_find(p->header.hash))
		return "this overlay is resident already";
	*rc = -ENOMEM;
	r = uio_resident_new(p->header.hash, p->header.name);
	if (!r)
		return "not enough memory";
	*rc = build(p, r);
	if (*rc) {
		uio_resident_free(r);
		return *rc == -EBUSY    ? "its address is in use"
		       : *rc == -EACCES ? "it holds an instruction that no overlay may have"
					: "not enough memory";
	}
	uio_resident_add(r);
	*out = &r->o;
	return NULL;
}

int uio_push_finish(struct uio_push *p, struct uio_overlay **out, const char **why)
{
	int rc = 0;

	*why = finish(p, out, &rc);
	uio_push_abort(p);
	return *why ? rc : 0;
}
