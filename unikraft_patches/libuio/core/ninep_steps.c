/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Walks and steps. All messages go out at once and then the replies are
 * collected, so that a small file costs one round trip. The server carries
 * requests out in their order, except those that wait for a disk; a step that
 * finds its fid not yet made or not yet open (EBADF) is taken again.
 */

#include "ninep_steps.h"

#include <errno.h>

#define NAME_MAX_BYTES 255u
#define PATH_MAX_BYTES 4096u

const char *uio_ninep_component(const char **path, size_t *len)
{
	const char *start;

	while (**path == '/')
		++*path;
	start = *path;
	while (**path && **path != '/')
		++*path;
	*len = (size_t)(*path - start);
	return *len ? start : NULL;
}

unsigned int uio_ninep_depth(const char *path)
{
	unsigned int n = 0;
	size_t len;

	while (uio_ninep_component(&path, &len))
		n++;
	return n;
}

/* What no server has is not asked for: of a walk that ends early one could not tell why. */
static bool is_too_long(const char *path)
{
	size_t len;

	if (strlen(path) > PATH_MAX_BYTES ||
	    uio_ninep_depth(path) > NINEP_WALKS_MAX * NINEP_WALK_MAX)
		return true;
	while (uio_ninep_component(&path, &len))
		if (len > NAME_MAX_BYTES)
			return true;
	return false;
}

/* ---- walks ---- */

static int walk_send(struct ninep_call *c, const char *path, unsigned int names,
		     struct ninep_walk *w)
{
	uint32_t from = NINEP_ROOT;

	w->n = 0;
	w->fid = uio_ninep_fid_new();
	if (w->fid == NINEP_NOFID)
		return -EMFILE;
	if (is_too_long(path))
		return -ENAMETOOLONG;
	do {
		unsigned int now = names < NINEP_WALK_MAX ? names : NINEP_WALK_MAX;
		struct ninep_request *r =
			uio_ninep_request(c, NINEP_TWALK, w->fid, 10 + strlen(path) + 2 * now);
		int rc;

		if (!r)
			return -ENOMEM;
		ninep_put32(r, from);
		ninep_put32(r, w->fid);
		ninep_put16(r, (uint16_t)now);
		for (unsigned int i = 0; i < now; i++) {
			size_t len = 0;
			const char *name = uio_ninep_component(&path, &len);

			ninep_put_string(r, name, len);
		}
		r->walked = (uint8_t)now;
		rc = uio_ninep_send(c, r, NULL, 0);
		if (rc)
			return rc;
		w->requests[w->n++] = r;
		from = w->fid;
		names -= now;
	} while (names);
	return 0;
}

static int walk_wait(struct ninep_call *c, struct ninep_walk *w)
{
	int error = 0;

	for (unsigned int i = 0; i < w->n; i++) {
		int rc = uio_ninep_wait(c, w->requests[i]);

		if (!error)
			error = rc;
	}
	return error;
}

int uio_ninep_walk(struct ninep_call *c, const char *path, unsigned int names, struct ninep_walk *w)
{
	int rc = walk_send(c, path, names, w);

	return rc ? rc : walk_wait(c, w);
}

/* ---- steps ---- */

uint32_t uio_ninep_room(uint32_t most)
{
	uint32_t room = uio_ninep_msize() - NINEP_IOHDR;

	return room < most ? room : most;
}

struct ninep_step uio_ninep_io(uint8_t type, uint64_t offset, void *buf, size_t len)
{
	uint32_t n = uio_ninep_room(len < UINT32_MAX ? (uint32_t)len : UINT32_MAX);

	return (struct ninep_step){
		.type = type,
		.n = 3,
		.numbers = {(uint32_t)offset, (uint32_t)(offset >> 32), n},
		.data = buf,
		.asked = n,
	};
}

int uio_ninep_step_send(struct ninep_call *c, uint32_t fid, struct ninep_step *s, const void *data,
			size_t len)
{
	struct ninep_request *r;

	if (s->request)
		uio_ninep_request_free(c, s->request);
	s->request = r = uio_ninep_request(c, s->type, fid, 4 + sizeof(s->numbers));
	if (!r)
		return -ENOMEM;
	ninep_put32(r, fid);
	ninep_put(r, s->numbers, s->n * sizeof(s->numbers[0]));
	r->data = s->data;
	r->asked = s->asked;
	return uio_ninep_send(c, r, data, len);
}

int uio_ninep_step(struct ninep_call *c, uint32_t fid, struct ninep_step *s)
{
	int rc = uio_ninep_step_send(c, fid, s, NULL, 0);

	return rc ? rc : uio_ninep_wait(c, s->request);
}

int uio_ninep_walk_and(struct ninep_call *c, const char *path, struct ninep_walk *w,
		       struct ninep_step *steps, unsigned int n)
{
	int rc = walk_send(c, path, uio_ninep_depth(path), w);

	for (unsigned int i = 0; i < n && !rc; i++)
		rc = uio_ninep_step_send(c, w->fid, &steps[i], NULL, 0);
	if (!rc)
		rc = walk_wait(c, w);
	for (unsigned int i = 0; i < n && !rc; i++) {
		rc = uio_ninep_wait(c, steps[i].request);
		if (rc == -EBADF) /* it came before what is in front of it was done */
			rc = uio_ninep_step(c, w->fid, &steps[i]);
	}
	return rc;
}
