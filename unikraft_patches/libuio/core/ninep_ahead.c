/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Read-ahead of an open file: a ring of chunks, each with its request. It
 * begins with the second read in a row, grows while it is used, and ends with
 * the file's end, a read elsewhere, an error, or a write to the file. Chunks
 * that lie about are asked for again: the host may have changed the file.
 */

#include "ninep_ahead.h"

#include <string.h>

#include "copy.h"
#include "ninep_steps.h"

#define CHUNKS   3u
#define AT_ONCE  4u          /* files */
#define FRESH_NS 1000000000u /* how long a chunk is good from when it was asked for */

struct chunk {
	struct ninep_step step;
	uint64_t asked_ns;
	uint32_t used;
};

struct ninep_ahead {
	struct ninep_ahead *next;
	struct ninep_call call; /* has the requests; lent to whoever reads */
	uint64_t path, at;      /* the file, and where its reader is */
	uint64_t asked, size;   /* up to where, and how far there is something */
	unsigned int head, tail, most;
	bool busy, is_void;
	struct chunk chunks[CHUNKS];
	uint8_t data[CHUNKS][NINEP_READ_CHUNK];
};

static struct ninep_ahead *all;

static struct ninep_ahead *begin(struct ninep_call *c, const struct uio_ninep_file *f)
{
	struct ninep_step s = uio_ninep_getattr();
	struct ninep_ahead *a;
	struct uio_stat st;
	unsigned int n = 0;

	/* Nothing is asked for that is not there: memory waits for it. */
	if (uio_ninep_step(c, f->fid, &s))
		return NULL;
	uio_ninep_attributes(s.request, &st);
	if (f->next >= st.size || f->ahead) /* another thread was here meanwhile */
		return NULL;
	for (a = all; a; a = a->next)
		n++;
	a = n < AT_ONCE ? uio_port_alloc(sizeof(*a)) : NULL;
	if (!a)
		return NULL;
	memset(a, 0, offsetof(struct ninep_ahead, data));
	a->path = f->path;
	a->at = a->asked = f->next;
	a->size = st.size;
	a->most = 1;
	uio_ninep_lasting(&a->call);
	a->next = all;
	all = a;
	return a;
}

void uio_ninep_ahead_end(struct ninep_ahead **ahead)
{
	struct ninep_ahead *a = *ahead, **at = &all;

	if (!a)
		return;
	*ahead = NULL;
	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	uio_ninep_end(&a->call); /* before its memory is given back */
	uio_port_free(a);
}

void uio_ninep_ahead_void(uint64_t path)
{
	for (struct ninep_ahead *a = all; a; a = a->next)
		a->is_void |= a->path == path;
}

/* Have as much under way as there should be. */
static int ask(struct ninep_ahead *a, uint32_t fid)
{
	int rc = 0;

	while (!rc && a->tail - a->head < a->most && a->asked < a->size) {
		unsigned int i = a->tail++ % CHUNKS;
		struct chunk *k = &a->chunks[i];

		uint64_t left = a->size - a->asked;

		k->step = uio_ninep_io(NINEP_TREAD, a->asked, a->data[i],
				       left < NINEP_READ_CHUNK ? left : NINEP_READ_CHUNK);
		k->used = 0;
		k->asked_ns = uio_port_ns();
		rc = uio_ninep_step_send(&a->call, fid, &k->step, NULL, 0);
		a->asked += k->step.asked;
	}
	return rc;
}

/* A read of len bytes; *ended: there will be no more. */
static ssize_t take(struct ninep_ahead *a, uint32_t fid, uint8_t *buf, size_t len, bool *ended)
{
	size_t done = 0;
	int rc = ask(a, fid);

	while (!rc && done < len && a->head != a->tail) {
		unsigned int i = a->head % CHUNKS;
		struct chunk *k = &a->chunks[i];
		uint32_t n;

		rc = uio_ninep_wait(&a->call, k->step.request);
		if (rc)
			break;
		n = k->step.request->received - k->used;
		if (n > len - done)
			n = (uint32_t)(len - done);
		uio_copy(buf + done, a->data[i] + k->used, n);
		done += n;
		k->used += n;
		if (k->used < k->step.request->received)
			continue;
		*ended = k->used < k->step.asked;
		if (*ended)
			return (ssize_t)done;
		uio_ninep_request_free(&a->call, k->step.request);
		a->head++;
		if (a->most < CHUNKS)
			a->most++;
		rc = ask(a, fid);
	}
	*ended = rc || a->head == a->tail;
	return done || !rc ? (ssize_t)done : rc;
}

static bool is_fresh(const struct ninep_ahead *a, uint64_t offset)
{
	return a->at == offset && !a->is_void &&
	       uio_port_ns() - a->chunks[a->head % CHUNKS].asked_ns < FRESH_NS;
}

bool uio_ninep_ahead_read(struct ninep_call *c, struct uio_ninep_file *f, void *buf, size_t len,
			  uint64_t offset, ssize_t *n)
{
	struct ninep_ahead *a = f->ahead;
	bool ended = false;

	if (a && a->busy) /* another thread reads the same file */
		return false;
	if (a && !is_fresh(a, offset)) {
		uio_ninep_ahead_end(&f->ahead);
		a = NULL;
	}
	if (!a && offset == f->next)
		a = f->ahead = begin(c, f);
	if (!a)
		return false;
	a->busy = true;
	uio_ninep_lend(&a->call, c);
	*n = take(a, f->fid, buf, len, &ended);
	uio_ninep_lend(&a->call, NULL);
	a->busy = false;
	if (*n > 0)
		a->at += (uint64_t)*n;
	f->next = UINT64_MAX;
	if (ended)
		uio_ninep_ahead_end(&f->ahead);
	return true;
}
