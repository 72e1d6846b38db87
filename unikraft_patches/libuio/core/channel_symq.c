/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Questions to the host for addresses of names: SYMQ and SYMR. A command waits
 * for the answer; the context brings it.
 */
#include "channel.h"

#include <errno.h>

#include "channel_frames.h"

#define TIMEOUT_NS 10000000000ull

struct query {
	struct query *next;
	uint32_t id;
	unsigned int n;
	struct uio_symbol *out;
	struct uio_event *wake;
	bool done;
};

static struct query *queries;
static uint32_t next_query;

bool uio_frame_symr(const struct uio_frame *f, uint8_t *payload)
{
	for (struct query *q = queries; q != NULL; q = q->next) {
		if (q->id != f->id || q->done)
			continue;
		if (f->arg != q->n || f->length != q->n * 16u) {
			uio_channel_broken("SYMR does not fit its question");
			return false;
		}
		for (unsigned int i = 0; i < q->n; i++) {
			const uint8_t *row = payload + i * 16u;
			memcpy(&q->out[i].address, row, 8);
			memcpy(&q->out[i].size, row + 8, 4);
			q->out[i].type = row[12];
		}
		q->done = true;
		uio_port_event_signal(q->wake);
		break;
	}
	return true; /* nobody waits for it any more */
}

void uio_channel_symq_reset(void)
{
	for (struct query *q = queries; q != NULL; q = q->next)
		uio_port_event_signal(q->wake);
}

static int ask(struct query *q, const uint8_t *request, size_t len)
{
	struct uio_exec *x = uio_exec_self();
	struct uio_event own;
	uint32_t session = uio_channel_session();
	uint64_t limit = uio_port_ns() + TIMEOUT_NS;

	if (!uio_channel_synced())
		return -ENOTCONN;
	if (x == NULL)
		uio_port_event_init(&own);
	q->wake = x != NULL ? &x->wake : &own;
	q->id = ++next_query;
	q->done = false;
	q->next = queries;
	queries = q;

	int err = uio_channel_send(session, UIO_FRAME_SYMQ, q->id, q->n, request, len);
	if (err == -EPIPE)
		err = -ENOTCONN;
	while (err >= 0 && !q->done) {
		uint64_t now = uio_port_ns();
		if (session != uio_channel_session())
			err = -ENOTCONN;
		else if (x != NULL && x->cancel != 0)
			err = -EINTR;
		else if (now >= limit)
			err = -ETIMEDOUT;
		else
			uio_port_event_wait(q->wake, limit - now);
	}
	for (struct query **p = &queries; *p != NULL; p = &(*p)->next)
		if (*p == q) {
			*p = q->next;
			break;
		}
	return err < 0 ? err : 0;
}

int uio_channel_symq(const uint8_t hash[32], const char *const *names, unsigned int n,
		     struct uio_symbol *out)
{
	unsigned int done = 0;

	/* One frame and its answer hold so many names; nearly always all of them. */
	while (done < n) {
		size_t size = 32;
		unsigned int count = 0;
		for (; done + count < n && count < UIO_FRAME_MAX / 16; count++) {
			size_t len = 2 + strlen(names[done + count]);
			if (size + len > UIO_FRAME_MAX)
				break;
			size += len;
		}
		if (count == 0)
			return -ENAMETOOLONG;
		uint8_t *request = uio_port_alloc(size);
		if (request == NULL)
			return -ENOMEM;
		struct uio_writer w = {request, size};
		uio_put(&w, hash, 32);
		for (unsigned int i = done; i < done + count; i++)
			uio_put_string(&w, names[i], strlen(names[i]));
		struct query q = {.n = count, .out = out + done};
		int err = ask(&q, request, size);
		uio_port_free(request);
		if (err < 0)
			return err;
		done += count;
	}
	return 0;
}
