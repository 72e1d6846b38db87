/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which overlays are resident: the table by hash, their pages, who has to go
 * when memory is short, and pulling one from uIO-fs by name.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "channel.h"
#include "context.h"
#include "file.h"
#include "ninep.h"
#include "overlay_impl.h"

#define BUCKETS     32u
#define OVERLAY_MAX (16u * 1024 * 1024) /* bytes of a file */
#define MEMORY_MAX  (1ull << 40)

static struct uio_overlay *table[BUCKETS];

static struct uio_overlay **bucket(const uint8_t hash[UIO_HASH_SIZE])
{
	return &table[hash[0] % BUCKETS]; /* a digest: any byte is as good as a hash of it */
}

static struct uio_resident *resident_of(struct uio_overlay *o)
{
	return (struct uio_resident *)o;
}

struct uio_overlay *uio_overlay_find(const uint8_t hash[UIO_HASH_SIZE])
{
	for (struct uio_overlay *o = *bucket(hash); o; o = o->next)
		if (!memcmp(o->hash, hash, UIO_HASH_SIZE))
			return resident_of(o)->state == UIO_RESIDENT_BROKEN ? NULL : o;
	return NULL;
}

static bool is_in_table(const struct uio_overlay *o, const uint8_t hash[UIO_HASH_SIZE])
{
	for (const struct uio_overlay *each = *bucket(hash); each; each = each->next)
		if (each == o && !memcmp(each->hash, hash, UIO_HASH_SIZE))
			return true;
	return false;
}

struct listed {
	struct uio_overlay *o;
	uint8_t hash[UIO_HASH_SIZE];
};

static size_t list_all(struct listed *list)
{
	size_t n = 0;

	for (unsigned int i = 0; i < BUCKETS; i++) {
		for (struct uio_overlay *o = table[i]; o; o = o->next) {
			if (list) {
				list[n].o = o;
				memcpy(list[n].hash, o->hash, UIO_HASH_SIZE);
			}
			n++;
		}
	}
	return n;
}

int uio_overlay_foreach(int (*fn)(struct uio_overlay *o, void *arg), void *arg)
{
	size_t n = list_all(NULL);
	struct listed *list = n ? uio_port_alloc(n * sizeof(*list)) : NULL;
	int rc = n && !list ? -ENOMEM : 0;

	if (list)
		list_all(list);
	/* fn may wait, and others load and unload meanwhile. */
	for (size_t i = 0; i < n && !rc; i++)
		if (is_in_table(list[i].o, list[i].hash))
			rc = fn(list[i].o, arg);
	uio_port_free(list);
	return rc;
}

struct uio_resident *uio_resident_named(const char *name)
{
	for (unsigned int i = 0; i < BUCKETS; i++)
		for (struct uio_overlay *o = table[i]; o; o = o->next)
			if (!o->pushed && resident_of(o)->state != UIO_RESIDENT_BROKEN &&
			    !strcmp(o->name, name))
				return resident_of(o);
	return NULL;
}

/* ---- one resident overlay ---- */

struct uio_resident *uio_resident_new(const uint8_t hash[UIO_HASH_SIZE], const char *name)
{
	struct uio_resident *r = uio_port_alloc(sizeof(*r));

	if (!r)
		return NULL;
	memset(r, 0, sizeof(*r));
	memcpy(r->o.hash, hash, UIO_HASH_SIZE);
	strncpy(r->o.name, name, sizeof(r->o.name) - 1);
	r->last_used_ns = uio_port_ns();
	return r;
}

void uio_resident_free(struct uio_resident *r)
{
	uio_domain_forget(r);
	uio_run_free_stack(r);
	for (unsigned int i = 0; i < r->nseg; i++)
		uio_port_unmap(r->seg[i].va, r->seg[i].pages);
	if (r->o.base)
		uio_arena_release(r->o.base);
	uio_port_free(r->calls);
	uio_port_free(r->pristine);
	uio_resident_forget_objects(r);
	uio_port_free(r);
}

void uio_resident_forget_objects(struct uio_resident *r)
{
	while (r->at_unload) {
		struct uio_at_unload *u = r->at_unload;

		r->at_unload = u->next;
		uio_port_free(u);
	}
}

struct uio_resident *uio_resident_at(uint64_t address)
{
	for (unsigned int i = 0; i < BUCKETS; i++)
		for (struct uio_overlay *o = table[i]; o; o = o->next)
			if (address >= o->base && address - o->base < o->size &&
			    uio_resident_has(resident_of(o), address, UIO_PROT_EXEC))
				return resident_of(o);
	return NULL;
}

bool uio_resident_keep_data(struct uio_resident *r)
{
	size_t size = 0;
	uint8_t *at;

	for (unsigned int i = 0; i < r->nseg; i++)
		size += r->seg[i].filled;
	if (!size || r->o.policy.flags & UIO_POLICY_KEEP_DATA)
		return true;
	r->pristine = at = uio_port_alloc(size);
	if (!at)
		return false;
	for (unsigned int i = 0; i < r->nseg; i++) {
		memcpy(at, (const void *)r->seg[i].va, r->seg[i].filled);
		at += r->seg[i].filled;
	}
	return true;
}

void uio_resident_restore_data(struct uio_resident *r)
{
	const uint8_t *from = r->pristine;

	for (unsigned int i = 0; i < r->nseg; i++) {
		const struct uio_segment *s = &r->seg[i];

		if (!(s->prot & UIO_PROT_WRITE))
			continue;
		memcpy((void *)s->va, from, s->filled);
		memset((void *)(s->va + s->filled), 0, s->pages * UIO_PAGE_SIZE - s->filled);
		from += s->filled;
	}
}

int uio_resident_map(struct uio_resident *r, uintptr_t va, size_t pages, unsigned int prot)
{
	int rc;

	if (r->nseg >= UIO_SEGMENTS_MAX)
		return -ENOMEM;
	do {
		rc = uio_port_map(va, pages, UIO_PROT_READ | UIO_PROT_WRITE);
	} while (rc == -ENOMEM && uio_resident_evict());
	if (rc)
		return rc;
	r->seg[r->nseg++] = (struct uio_segment){.va = va, .pages = pages, .prot = prot};
	return 0;
}

int uio_resident_protect(struct uio_resident *r)
{
	for (unsigned int i = 0; i < r->nseg; i++) {
		const struct uio_segment *s = &r->seg[i];
		int rc = s->prot == (UIO_PROT_READ | UIO_PROT_WRITE)
				 ? 0
				 : uio_port_protect(s->va, s->pages, s->prot);

		if (rc)
			return rc;
	}
	return 0;
}

const char *uio_resident_scan(const struct uio_resident *r)
{
	const char *name = NULL;
	size_t at;

	for (unsigned int i = 0; i < r->nseg && !name; i++)
		if (r->seg[i].prot & UIO_PROT_EXEC)
			name = uio_domain_scan((const uint8_t *)r->seg[i].va,
					       r->seg[i].pages * UIO_PAGE_SIZE, &at);
	return name;
}

void uio_resident_add(struct uio_resident *r)
{
	struct uio_overlay **at = bucket(r->o.hash);

	r->o.next = *at;
	*at = &r->o;
}

static void take_out(struct uio_resident *r)
{
	struct uio_overlay **at = bucket(r->o.hash);

	while (*at && *at != &r->o)
		at = &(*at)->next;
	if (*at)
		*at = r->o.next;
}

static bool has_destructors(const struct uio_resident *r)
{
	return r->state == UIO_RESIDENT_READY && (r->nfini || r->at_unload);
}

/* It is out of the table, and nobody is in it. */
static void end(struct uio_resident *r)
{
	uint8_t hash[UIO_HASH_SIZE];

	memcpy(hash, r->o.hash, sizeof(hash));
	if (has_destructors(r))
		uio_run_destructors(r);
	uio_resident_free(r);
	uio_channel_gone(hash);
}

static void end_in_thread(void *arg)
{
	end(arg);
	uio_run_trim();
}

static void unload(struct uio_resident *r)
{
	struct uio_thread *t;

	take_out(r);
	/* Destructors are overlay code: the context does not wait for them. */
	if (has_destructors(r) && !uio_exec_self() &&
	    !uio_port_thread_create(&t, "uio-unload", end_in_thread, r, 16 * 1024))
		return;
	end(r);
}

int uio_overlay_unload(const uint8_t hash[UIO_HASH_SIZE])
{
	struct uio_overlay *o = uio_overlay_find(hash);

	if (!o)
		return -ENOENT;
	if (o->running)
		return -EBUSY;
	unload(resident_of(o));
	return 0;
}

void uio_resident_left(struct uio_resident *r)
{
	if (r->state == UIO_RESIDENT_BROKEN && !r->o.running)
		unload(r);
}

bool uio_resident_evict(void)
{
	struct uio_resident *oldest = NULL;

	if (uio_run_trim())
		return true;
	for (unsigned int i = 0; i < BUCKETS; i++)
		for (struct uio_overlay *o = table[i]; o; o = o->next)
			if (!o->running &&
			    (!oldest || resident_of(o)->last_used_ns < oldest->last_used_ns))
				oldest = resident_of(o);
	if (!oldest)
		return uio_module_drop && uio_module_drop();
	uio_log(6, "overlay %s makes room", oldest->o.name);
	unload(oldest);
	return true;
}

const char *uio_policy_refusal(const struct uio_policy *policy)
{
	if (policy->version != 1 || policy->reserved ||
	    policy->flags & ~(UIO_POLICY_APP_NONE | UIO_POLICY_NEED_DOMAIN | UIO_POLICY_KEEP_DATA))
		return "its policy is of a version that this guest does not know";
	if (policy->stack_bytes > UIO_STACK_MAX)
		return "its policy asks for a stack of more than 16 MiB";
	if (policy->memory_bytes > MEMORY_MAX)
		return "its policy asks for too much memory";
	if (policy->flags & UIO_POLICY_NEED_DOMAIN && !uio_domain_on())
		return "it requires a protection domain, which this guest does not have";
	return NULL;
}

/* ---- pull ---- */

static bool name_is_valid(const char *name)
{
	size_t n = strlen(name);

	return n && n < sizeof(((struct uio_overlay *)NULL)->name) && !strchr(name, '/') &&
	       strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int fail(struct uio_exec *x, const char *name, int rc)
{
	if (rc == -EINTR)
		uio_run_stopped(x, name);
	else if (rc == -ENOENT || rc == -EISDIR)
		uio_exec_result(x, UIO_EXIT_NOT_FOUND, -ENOENT,
				"%s: no such command, builtin or overlay", name);
	else if (rc == -EFBIG)
		uio_exec_result(x, UIO_EXIT_REFUSED, rc, "%s: larger than 16 MiB", name);
	else
		uio_exec_result(x, UIO_EXIT_ERROR, rc, "%s: /bin/%s cannot be read (error %d)",
				name, name, -rc);
	return rc;
}

static bool is_same_file(const struct uio_file_identity *a, const struct uio_file_identity *b)
{
	return a->path == b->path && a->version == b->version && a->size == b->size &&
	       a->mtime_ns == b->mtime_ns;
}

/* Take the file's content: the resident overlay with this hash, or a new one. */
static int take_file(struct uio_exec *x, const char *name, const void *file, size_t size,
		     const struct uio_file_identity *identity, struct uio_overlay **out)
{
	uint8_t hash[UIO_HASH_SIZE];
	struct uio_resident *r;
	size_t elf_size = size;
	const char *why;

	uio_sha256(file, size, hash);
	*out = uio_overlay_find(hash);
	if (*out) {
		if (!(*out)->pushed)
			resident_of(*out)->identity = *identity;
		return 0;
	}
	why = uio_overlay_file_check(file, size, &elf_size);
	if (why) {
		uio_exec_result(x, UIO_EXIT_REFUSED, -EACCES, "%s: %s", name, why);
		return -EACCES;
	}
	r = uio_loader_load(x, name, hash, file, elf_size, NULL);
	if (!r)
		return x->result.status ? x->result.status : -ENOEXEC;
	*out = uio_overlay_find(hash);
	if (*out) { /* loaded by another command, while this one waited for the host */
		uio_resident_free(r);
		return 0;
	}
	r->identity = *identity;
	uio_resident_add(r);
	*out = &r->o;
	return 0;
}

/* The file has changed: what was made of the old one goes, unless a command is still in it. */
static void drop_older(const struct uio_overlay *newest)
{
	struct uio_resident *found;

	do {
		found = NULL;
		for (unsigned int i = 0; i < BUCKETS && !found; i++)
			for (struct uio_overlay *o = table[i]; o && !found; o = o->next)
				if (o != newest && !o->pushed && !o->running &&
				    !strcmp(o->name, newest->name))
					found = resident_of(o);
		if (found)
			unload(found);
	} while (found);
}

int uio_overlay_pull(struct uio_exec *x, const char *name, struct uio_overlay **out)
{
	struct uio_file_identity identity = {0};
	struct uio_resident *r;
	char path[80] = "/bin/";
	void *file;
	size_t size;
	int rc;

	if (!name_is_valid(name))
		return fail(x, "this name", -ENOENT);
	strncat(path, name, sizeof(path) - 6);
	r = uio_resident_named(name);
	if (r) {
		rc = uio_ninep_identity(path, &identity);
		if (rc)
			return fail(x, name, rc);
		/* It may have gone while this thread waited. */
		r = uio_resident_named(name);
		if (r && is_same_file(&r->identity, &identity)) {
			*out = &r->o;
			return 0;
		}
	}
	rc = uio_ninep_slurp(path, &file, &size, OVERLAY_MAX, &identity);
	if (rc)
		return fail(x, name, rc);
	rc = take_file(x, name, file, size, &identity, out);
	uio_port_free(file);
	if (!rc) {
		(*out)->running++; /* unloading another may wait */
		drop_older(*out);
		(*out)->running--;
	}
	return rc;
}
