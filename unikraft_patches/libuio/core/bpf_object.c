/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Objects: reading the wire format. Every count, offset, name and sum is
 * checked against the bytes that are there before it is used, in the order
 * of the format; programs pass uio_bpf_check() before they are linked.
 */
#include <errno.h>
#include <string.h>

#include <uio/port.h>

#include "bpf_object.h"

struct reader {
	const uint8_t *bytes;
	size_t at;
	struct bpf_wire_header header;
	size_t maps, progs, insns, data; /* offsets of the parts */
	const struct bpf_object_limits *limits;
	struct bpf_object_error *err;
};

static void append(struct bpf_object_error *err, const char *text)
{
	size_t used = strlen(err->text), n = strlen(text);

	if (n > sizeof(err->text) - 1 - used)
		n = sizeof(err->text) - 1 - used;
	memcpy(err->text + used, text, n);
	err->text[used + n] = '\0';
}

static int fail(struct reader *r, int code, const char *what, const char *name)
{
	r->err->text[0] = '\0';
	append(r->err, what);
	if (name != NULL) {
		append(r->err, ": ");
		append(r->err, name);
	}
	return code;
}

/* NUL-terminated, printable ASCII, and not empty unless that is allowed. */
static bool name_is_valid(const char *name, size_t size, bool empty)
{
	size_t n = 0;

	while (n < size && name[n] != '\0') {
		if (name[n] <= ' ' || name[n] > '~')
			return false;
		n++;
	}
	return n < size && (n > 0 || empty);
}

static int read_header(struct reader *r, size_t len)
{
	struct bpf_wire_header *h = &r->header;
	uint64_t size;

	if (len < sizeof(*h))
		return fail(r, -EINVAL, "the object is shorter than its header", NULL);
	memcpy(h, r->bytes, sizeof(*h));
	if (memcmp(h->magic, BPF_OBJECT_MAGIC, sizeof(h->magic)) != 0)
		return fail(r, -EINVAL, "this is no BPF object", NULL);
	if (!name_is_valid(h->name, sizeof(h->name), false))
		return fail(r, -EINVAL, "the object's name is not valid", NULL);
	if (h->flags & ~BPF_OBJECT_VERIFIED || h->zero != 0)
		return fail(r, -EINVAL, "unknown flags", NULL);
	if (h->nmaps > BPF_MAX_MAPS || h->nprogs > BPF_MAX_PROGS || h->ninsns > BPF_MAX_INSNS)
		return fail(r, -E2BIG, "too many maps, programs or instructions", NULL);
	if (h->nprogs == 0)
		return fail(r, -EINVAL, "no programs", NULL);
	r->maps = sizeof(*h);
	r->progs = r->maps + h->nmaps * sizeof(struct bpf_wire_map);
	r->insns = r->progs + h->nprogs * sizeof(struct bpf_wire_prog);
	r->data = r->insns + (size_t)h->ninsns * sizeof(struct bpf_insn);
	size = (uint64_t)r->data + h->data_size;
	if (h->size != size || size != len)
		return fail(r, -EINVAL, "the object's size is not that of its parts", NULL);
	if (r->limits->need_verified && !(h->flags & BPF_OBJECT_VERIFIED))
		return fail(r, -EPERM, "the object is not verified", NULL);
	return 0;
}

/* One piece of memory for the object, its programs and their instructions. */
static int allocate(struct reader *r, struct bpf_object **out, const struct bpf_env *env)
{
	const struct bpf_wire_header *h = &r->header;
	size_t progs = (sizeof(struct bpf_object) + 15) & ~(size_t)15;
	size_t insns = progs + h->nprogs * sizeof(struct bpf_prog);
	size_t bytes = insns + (size_t)h->ninsns * sizeof(struct bpf_insn);
	struct bpf_object *o;

	if (bytes > r->limits->max_bytes)
		return fail(r, -E2BIG, "the object is larger than the limit", NULL);
	o = uio_port_alloc(bytes);
	if (o == NULL)
		return fail(r, -ENOMEM, "no memory", NULL);
	memset(o, 0, bytes);
	memcpy(o->name, h->name, sizeof(o->name));
	o->env = env;
	o->bytes = bytes;
	o->prog = (void *)((uint8_t *)o + progs);
	o->insns = (void *)((uint8_t *)o + insns);
	memcpy(o->insns, r->bytes + r->insns, (size_t)h->ninsns * sizeof(struct bpf_insn));
	*out = o;
	return 0;
}

static int read_map(struct reader *r, struct bpf_object *o)
{
	struct bpf_wire_map w;
	struct bpf_map_def def;
	struct bpf_map *map;
	int err;

	memcpy(&w, r->bytes + r->maps + o->nmaps * sizeof(w), sizeof(w));
	if (!name_is_valid(w.name, sizeof(w.name), false))
		return fail(r, -EINVAL, "a map's name is not valid", NULL);
	if (w.zero != 0 || (uint64_t)w.data_offset + w.data_size > r->header.data_size ||
	    (w.data_size > 0 && (w.type != BPF_MAP_ARRAY || w.data_size > w.value_size)))
		return fail(r, -EINVAL, "a map's initial data is not valid", w.name);
	def.type = w.type;
	def.key_size = w.key_size;
	def.value_size = w.value_size;
	def.max_entries = w.max_entries;
	def.flags = w.flags;
	memcpy(def.name, w.name, sizeof(def.name));
	err = uio_bpf_map_create(&map, &def, o->env, r->limits->max_bytes - o->bytes);
	if (err == -EINVAL)
		return fail(r, err, "a map's definition is not valid", w.name);
	if (err != 0)
		return fail(r, err, "no room for a map", w.name);
	o->map[o->nmaps++] = map;
	o->bytes += map->bytes;
	memcpy(map->values, r->bytes + r->data + w.data_offset, w.data_size);
	return 0;
}

static void number_text(char *buf, uint32_t n)
{
	char digits[10];
	unsigned int i = 0;

	do {
		digits[i++] = (char)('0' + n % 10);
		n /= 10;
	} while (n != 0);
	while (i > 0)
		*buf++ = digits[--i];
	*buf = '\0';
}

static int check_prog(struct reader *r, struct bpf_object *o, struct bpf_prog *p)
{
	struct bpf_check_error error;
	uint8_t *scratch = uio_port_alloc(BPF_CHECK_SCRATCH(p->count));
	char where[12];
	int err;

	if (scratch == NULL)
		return fail(r, -ENOMEM, "no memory", NULL);
	err = uio_bpf_check(p->insns, p->count, p->kind, o->map, o->nmaps, scratch, &error);
	uio_port_free(scratch);
	if (err == 0) {
		uio_bpf_link(p->insns, p->count, o->map);
		return 0;
	}
	fail(r, err, p->name, NULL);
	append(r->err, ", instruction ");
	number_text(where, error.pc);
	append(r->err, where);
	append(r->err, ": ");
	append(r->err, error.what);
	return err;
}

static uint64_t limited(uint64_t wanted, uint64_t limit)
{
	return wanted == 0 || wanted > limit ? limit : wanted;
}

/* Programs take their instructions in turn, so that none is checked or linked twice. */
static int read_prog(struct reader *r, struct bpf_object *o, uint32_t *next)
{
	struct bpf_prog *p = &o->prog[o->nprogs];
	struct bpf_wire_prog w;

	memcpy(&w, r->bytes + r->progs + o->nprogs * sizeof(w), sizeof(w));
	if (!name_is_valid(w.name, sizeof(w.name), false))
		return fail(r, -EINVAL, "a program's name is not valid", NULL);
	if (w.kind < BPF_KIND_ENTRY || w.kind >= BPF_KIND_NKINDS || w.zero != 0)
		return fail(r, -EINVAL, "a program's kind is not valid", w.name);
	if (!name_is_valid(w.target, sizeof(w.target), w.kind >= BPF_KIND_TIMER))
		return fail(r, -EINVAL, "a program's target is not valid", w.name);
	if ((w.kind == BPF_KIND_TIMER) != (w.period_ns != 0))
		return fail(r, -EINVAL, "a program's period is not valid", w.name);
	if (w.first != *next || w.count > r->header.ninsns - w.first)
		return fail(r, -EINVAL, "a program's instructions are not in the object", w.name);
	*next += w.count;
	p->object = o;
	p->insns = o->insns + w.first;
	p->count = w.count;
	p->kind = (enum bpf_kind)w.kind;
	p->period_ns = w.period_ns;
	p->max_insns = limited(w.max_insns, r->limits->max_insns);
	p->max_ns = r->limits->max_ns == 0 ? w.max_ns : limited(w.max_ns, r->limits->max_ns);
	memcpy(p->name, w.name, sizeof(p->name));
	memcpy(p->target, w.target, sizeof(p->target));
	o->nprogs++;
	return check_prog(r, o, p);
}

int uio_bpf_object_load(struct bpf_object **out, const void *bytes, size_t len,
			const struct bpf_env *env, const struct bpf_object_limits *limits,
			struct bpf_object_error *error)
{
	struct reader r = {.bytes = bytes, .limits = limits, .err = error};
	struct bpf_object *o = NULL;
	uint32_t next = 0;
	int err;

	error->text[0] = '\0';
	err = read_header(&r, len);
	if (err == 0)
		err = allocate(&r, &o, env);
	while (err == 0 && o->nmaps < r.header.nmaps)
		err = read_map(&r, o);
	while (err == 0 && o->nprogs < r.header.nprogs)
		err = read_prog(&r, o, &next);
	if (err == 0 && next != r.header.ninsns)
		err = fail(&r, -EINVAL, "instructions that belong to no program", NULL);
	if (err != 0) {
		uio_bpf_object_destroy(o);
		return err;
	}
	*out = o;
	return 0;
}

void uio_bpf_object_destroy(struct bpf_object *object)
{
	if (object == NULL)
		return;
	for (uint32_t i = 0; i < object->nmaps; i++)
		uio_bpf_map_destroy(object->map[i]);
	uio_port_free(object);
}
