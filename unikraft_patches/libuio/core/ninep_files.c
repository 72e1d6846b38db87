/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Open files of the host, and whole ones. Large transfers have several
 * messages under way; who reads a file from one end to the other has them
 * under way between its calls too (ninep_ahead.c).
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "file.h"
#include "ninep_ahead.h"
#include "ninep_steps.h"

#define WINDOW      4u /* messages of one call under way */
#define WRITE_CHUNK (64u * 1024)
#define FIRST_CHUNK (64u * 1024) /* slurped before the file's size is known */

#define MODE_FORMAT    0170000u
#define MODE_DIRECTORY 0040000u

#define OPEN_QID_PATH 5u /* in Rlopen and Rlcreate */

/* ---- transfers ---- */

/* Tread or Twrite: several under way, their replies taken in order, until len or a short one. */
static ssize_t transfer(struct ninep_call *c, uint8_t type, uint32_t fid, uint8_t *buf, size_t len,
			uint64_t offset)
{
	struct ninep_step window[WINDOW] = {0};
	const bool writes = type == NINEP_TWRITE;
	size_t asked = 0, done = 0;
	unsigned int head = 0, tail = 0;
	int rc = 0;

	for (;;) {
		struct ninep_step *s;

		while (asked < len && tail - head < WINDOW && !rc) {
			size_t n = len - asked, most = writes ? WRITE_CHUNK : NINEP_READ_CHUNK;

			s = &window[tail++ % WINDOW];
			*s = uio_ninep_io(type, offset + asked, writes ? NULL : buf + asked,
					  n < most ? n : most);
			rc = uio_ninep_step_send(c, fid, s, buf + asked, writes ? s->asked : 0);
			asked += s->asked;
		}
		if (rc || head == tail)
			break;
		s = &window[head % WINDOW];
		rc = uio_ninep_wait(c, s->request);
		if (rc)
			break;
		done += s->request->received;
		if (s->request->received < s->asked)
			break;
		uio_ninep_request_free(c, s->request);
		head++;
	}
	/* Reads behind a short one may still come: not into this memory. */
	for (; head < tail; head++)
		if (window[head % WINDOW].request)
			uio_ninep_request_free(c, window[head % WINDOW].request);
	return done || !rc ? (ssize_t)done : rc;
}

/* ---- open files ---- */

/* The fid and its identity; what was read ahead of a file that is made shorter is void. */
static void opened(struct ninep_call *c, const struct ninep_request *r, int flags,
		   struct uio_ninep_file *out)
{
	*out = (struct uio_ninep_file){.fid = r->fid,
				       .epoch = c->epoch,
				       .path = ninep_field(r, OPEN_QID_PATH, 8),
				       .next = UINT64_MAX};
	if (flags & O_TRUNC)
		uio_ninep_ahead_void(out->path);
}

static int open_there(struct ninep_call *c, const char *path, int flags, struct uio_ninep_file *out)
{
	struct ninep_walk w;
	struct ninep_step s = {.type = NINEP_TLOPEN, .n = 1, .numbers = {(uint32_t)flags}};
	int rc = uio_ninep_walk_and(c, path, &w, &s, 1);

	if (rc)
		uio_ninep_fid_drop(c->epoch, w.fid);
	else
		opened(c, s.request, flags, out);
	return rc;
}

int uio_ninep_open(const char *path, int flags, unsigned int mode, struct uio_ninep_file *out)
{
	struct ninep_call c;
	struct ninep_request *made;
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	rc = -ENOENT;
	if (!(flags & O_CREAT) || !(flags & O_EXCL))
		rc = open_there(&c, path, flags & ~(O_CREAT | O_EXCL), out);
	if (rc == -ENOENT && flags & O_CREAT) {
		rc = uio_ninep_create(&c, path, flags | O_EXCL, mode, &made);
		if (!rc)
			opened(&c, made, flags, out);
	}
	if (rc == -EEXIST && !(flags & O_EXCL)) /* made by somebody else meanwhile */
		rc = open_there(&c, path, flags & ~O_CREAT, out);
	uio_ninep_end(&c);
	return rc;
}

int uio_ninep_close(struct uio_ninep_file *f)
{
	uio_ninep_ahead_end(&f->ahead);
	uio_ninep_fid_drop(f->epoch, f->fid);
	return 0;
}

int uio_ninep_begin_file(struct ninep_call *c, const struct uio_ninep_file *f)
{
	int rc = f->epoch == uio_ninep_epoch() ? uio_ninep_begin(c) : -EIO;

	if (!rc && c->epoch != f->epoch) {
		uio_ninep_end(c);
		rc = -EIO;
	}
	return rc;
}

ssize_t uio_ninep_read(struct uio_ninep_file *f, void *buf, size_t len, uint64_t offset)
{
	struct ninep_call c;
	ssize_t n = uio_ninep_begin_file(&c, f);

	if (n)
		return n;
	if (!uio_ninep_ahead_read(&c, f, buf, len, offset, &n)) {
		n = transfer(&c, NINEP_TREAD, f->fid, buf, len, offset);
		/* Who has got all it asked for may ask for more. */
		f->next = n > 0 && (size_t)n == len ? offset + len : UINT64_MAX;
	}
	uio_ninep_end(&c);
	return n;
}

ssize_t uio_ninep_write(struct uio_ninep_file *f, const void *buf, size_t len, uint64_t offset)
{
	struct ninep_call c;
	ssize_t n = uio_ninep_begin_file(&c, f);

	if (n)
		return n;
	uio_ninep_ahead_void(f->path);
	n = transfer(&c, NINEP_TWRITE, f->fid, (uint8_t *)(uintptr_t)buf, len, offset);
	uio_ninep_end(&c);
	return n;
}

/* A step at an open file; what it tells goes to out, if that is not NULL. */
static int step_file(const struct uio_ninep_file *f, struct ninep_step s, struct uio_stat *out)
{
	struct ninep_call c;
	int rc = uio_ninep_begin_file(&c, f);

	if (rc)
		return rc;
	rc = uio_ninep_step(&c, f->fid, &s);
	if (!rc && out)
		uio_ninep_attributes(s.request, out);
	uio_ninep_end(&c);
	return rc;
}

int uio_ninep_fsync(const struct uio_ninep_file *f)
{
	return step_file(f, (struct ninep_step){.type = NINEP_TFSYNC, .n = 1}, NULL);
}

int uio_ninep_fstat(const struct uio_ninep_file *f, struct uio_stat *out)
{
	return step_file(f, uio_ninep_getattr(), out);
}

/* ---- a whole file ---- */

/* The rest of a file whose beginning is in *buf, until its end. */
static int slurp_rest(struct ninep_call *c, uint32_t fid, uint64_t expected, uint8_t **buf,
		      size_t *filled, size_t room, size_t max)
{
	while (*filled == room || *filled < expected) {
		size_t want = expected > room ? (size_t)expected + 1 : 2 * room;
		ssize_t n;

		if (*filled > max || (*filled == room && room > max))
			return -EFBIG;
		if (want > max + 1)
			want = max + 1;
		if (want > room) {
			uint8_t *more = uio_port_alloc(want);

			if (!more)
				return -ENOMEM;
			memcpy(more, *buf, *filled);
			uio_port_free(*buf);
			*buf = more;
			room = want;
		}
		n = transfer(c, NINEP_TREAD, fid, *buf + *filled, room - *filled, *filled);
		if (n < 0)
			return (int)n;
		if (!n)
			break;
		*filled += (size_t)n;
	}
	return *filled > max ? -EFBIG : 0;
}

static int slurp(struct ninep_call *c, const char *path, uint32_t *fid, uint8_t **buf,
		 size_t *filled, size_t room, size_t max, struct uio_file_identity *identity)
{
	struct ninep_step steps[] = {
		{.type = NINEP_TLOPEN, .n = 1, .numbers = {O_RDONLY}},
		uio_ninep_getattr(),
		uio_ninep_io(NINEP_TREAD, 0, *buf, room),
	};
	struct uio_stat st;
	struct ninep_walk w;
	int rc = uio_ninep_walk_and(c, path, &w, steps, 3);

	*fid = w.fid;
	if (rc)
		return rc;
	uio_ninep_attributes(steps[1].request, &st);
	uio_ninep_identify(steps[1].request, identity);
	if ((st.mode & MODE_FORMAT) == MODE_DIRECTORY)
		return -EISDIR;
	if (st.size > max)
		return -EFBIG;
	*filled = steps[2].request->received;
	return slurp_rest(c, w.fid, st.size, buf, filled, room, max);
}

int uio_ninep_slurp(const char *path, void **out, size_t *size, size_t max,
		    struct uio_file_identity *identity)
{
	struct uio_file_identity ignored;
	uint32_t room, fid = NINEP_NOFID;
	uint8_t *buf;
	size_t filled = 0;
	struct ninep_call c;
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	room = uio_ninep_room(FIRST_CHUNK);
	buf = uio_port_alloc(room);
	rc = buf ? slurp(&c, path, &fid, &buf, &filled, room, max, identity ? identity : &ignored)
		 : -ENOMEM;
	uio_ninep_fid_drop(c.epoch, fid);
	uio_ninep_end(&c); /* before its memory is given back */
	if (rc) {
		uio_port_free(buf);
		return rc;
	}
	*out = buf;
	*size = filled;
	return 0;
}
