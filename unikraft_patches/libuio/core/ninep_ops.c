/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Operations on the host's files: each sends all its messages at once and then
 * collects the replies, so that a small file costs one round trip. The server
 * carries requests out in their order, except those that wait for a disk; an
 * operation that finds its fid not yet made (EBADF) asks again.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "file.h"
#include "ninep_session.h"

#define WALKS_MAX   4u /* 64 components */
#define WINDOW      4u /* large transfers: requests under way */
#define READ_CHUNK  (128u * 1024)
#define WRITE_CHUNK (64u * 1024)
#define FIRST_CHUNK (64u * 1024) /* slurped before the file's size is known */
#define DIR_CHUNK   (16u * 1024)

#define NAME_MAX_BYTES 255u
#define PATH_MAX_BYTES 4096u

#define GETATTR_BASIC 0x7ffull

/* Fields of Rgetattr */
enum {
	ATTR_QID_VERSION = 9,
	ATTR_QID_PATH = 13,
	ATTR_MODE = 21,
	ATTR_NLINK = 33,
	ATTR_SIZE = 49,
	ATTR_MTIME = 89,
	ATTR_MTIME_NS = 97,
};

/* The protocol's own flag, which is Linux's on x86. */
#define OPEN_DIRECTORY 0200000

#define MODE_FORMAT    0170000u
#define MODE_DIRECTORY 0040000u

/* ---- paths ---- */

static const char *component(const char **path, size_t *len)
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

static unsigned int depth(const char *path)
{
	unsigned int n = 0;
	size_t len;

	while (component(&path, &len))
		n++;
	return n;
}

/* What no server has is not asked for: of a walk that ends early one could not tell why. */
static bool is_too_long(const char *path)
{
	size_t len;

	if (strlen(path) > PATH_MAX_BYTES || depth(path) > WALKS_MAX * NINEP_WALK_MAX)
		return true;
	while (component(&path, &len))
		if (len > NAME_MAX_BYTES)
			return true;
	return false;
}

/* ---- steps ---- */

struct walk {
	struct ninep_request *requests[WALKS_MAX];
	unsigned int n;
	uint32_t fid;
};

/* Send the walk from the root along the first `names` components of path. */
static int walk_send(struct ninep_call *c, const char *path, unsigned int names, struct walk *w)
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
			const char *name = component(&path, &len);

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

static int walk_wait(struct ninep_call *c, struct walk *w)
{
	int error = 0;

	for (unsigned int i = 0; i < w->n; i++) {
		int rc = uio_ninep_wait(c, w->requests[i]);

		if (!error)
			error = rc;
	}
	return error;
}

static int walk(struct ninep_call *c, const char *path, unsigned int names, struct walk *w)
{
	int rc = walk_send(c, path, names, w);

	return rc ? rc : walk_wait(c, w);
}

static struct ninep_request *lopen(struct ninep_call *c, uint32_t fid, int flags)
{
	struct ninep_request *r = uio_ninep_request(c, NINEP_TLOPEN, fid, 8);

	if (r) {
		ninep_put32(r, fid);
		ninep_put32(r, (uint32_t)flags);
	}
	return r;
}

static struct ninep_request *getattr(struct ninep_call *c, uint32_t fid)
{
	struct ninep_request *r = uio_ninep_request(c, NINEP_TGETATTR, fid, 12);

	if (r) {
		ninep_put32(r, fid);
		ninep_put64(r, GETATTR_BASIC);
	}
	return r;
}

static struct ninep_request *read_request(struct ninep_call *c, uint8_t type, uint32_t fid,
					  uint64_t offset, void *buf, uint32_t len)
{
	struct ninep_request *r = uio_ninep_request(c, type, fid, 16);

	if (r) {
		ninep_put32(r, fid);
		ninep_put64(r, offset);
		ninep_put32(r, len);
		r->data = buf;
		r->asked = len;
	}
	return r;
}

static void take_attributes(const struct ninep_request *r, struct uio_stat *out)
{
	out->size = ninep_field(r, ATTR_SIZE, 8);
	out->mtime_ns =
		ninep_field(r, ATTR_MTIME, 8) * 1000000000u + ninep_field(r, ATTR_MTIME_NS, 8);
	out->ino = ninep_field(r, ATTR_QID_PATH, 8);
	out->mode = (uint32_t)ninep_field(r, ATTR_MODE, 4);
	out->nlink = (uint32_t)ninep_field(r, ATTR_NLINK, 8);
}

static void take_identity(const struct ninep_request *r, struct uio_file_identity *out)
{
	struct uio_stat st;

	take_attributes(r, &st);
	*out = (struct uio_file_identity){.path = st.ino,
					  .size = st.size,
					  .mtime_ns = st.mtime_ns,
					  .version = (uint32_t)ninep_field(r, ATTR_QID_VERSION, 4)};
}

/* ---- open files ---- */

static uint32_t chunk(uint32_t most)
{
	uint32_t room = uio_ninep_msize() - NINEP_IOHDR;

	return room < most ? room : most;
}

/* Several reads under way, taken in their order, until len or a short one. */
static ssize_t read_all(struct ninep_call *c, uint32_t fid, uint8_t *buf, size_t len,
			uint64_t offset)
{
	struct ninep_request *window[WINDOW];
	uint32_t step = chunk(READ_CHUNK);
	size_t asked = 0, got = 0;
	unsigned int head = 0, tail = 0;
	int rc = 0;
	bool is_short = false;

	while (!rc && !is_short && got < len) {
		struct ninep_request *r;

		while (!rc && asked < len && tail - head < WINDOW) {
			uint32_t n = len - asked < step ? (uint32_t)(len - asked) : step;

			r = read_request(c, NINEP_TREAD, fid, offset + asked, buf + asked, n);
			rc = r ? uio_ninep_send(c, r, NULL, 0) : -ENOMEM;
			window[tail++ % WINDOW] = r;
			asked += n;
		}
		if (rc)
			break;
		r = window[head++ % WINDOW];
		rc = uio_ninep_wait(c, r);
		if (rc)
			break;
		got += r->received;
		is_short = r->received < r->asked;
		uio_ninep_request_free(c, r);
	}
	/* Reads behind a short one may still come: not into this memory. */
	for (; head < tail; head++)
		if (window[head % WINDOW])
			uio_ninep_request_free(c, window[head % WINDOW]);
	return got || !rc ? (ssize_t)got : rc;
}

static struct ninep_request *write_request(struct ninep_call *c, uint32_t fid, uint64_t offset,
					   uint32_t len)
{
	struct ninep_request *r = uio_ninep_request(c, NINEP_TWRITE, fid, 16);

	if (r) {
		ninep_put32(r, fid);
		ninep_put64(r, offset);
		ninep_put32(r, len);
	}
	return r;
}

static ssize_t write_all(struct ninep_call *c, uint32_t fid, const uint8_t *buf, size_t len,
			 uint64_t offset)
{
	struct ninep_request *window[WINDOW];
	uint32_t sizes[WINDOW], step = chunk(WRITE_CHUNK);
	size_t sent = 0, done = 0;
	unsigned int head = 0, tail = 0;
	int rc = 0;
	bool is_short = false;

	while (!rc && !is_short && done < len) {
		struct ninep_request *r;
		uint32_t n;

		while (!rc && sent < len && tail - head < WINDOW) {
			n = len - sent < step ? (uint32_t)(len - sent) : step;
			r = write_request(c, fid, offset + sent, n);
			rc = r ? uio_ninep_send(c, r, buf + sent, n) : -ENOMEM;
			sizes[tail % WINDOW] = n;
			window[tail++ % WINDOW] = r;
			sent += n;
		}
		if (rc)
			break;
		n = sizes[head % WINDOW];
		r = window[head++ % WINDOW];
		rc = uio_ninep_wait(c, r);
		if (rc)
			break;
		if (ninep_field(r, 0, 4) > n) {
			rc = -EIO;
			break;
		}
		done += ninep_field(r, 0, 4);
		is_short = ninep_field(r, 0, 4) < n;
		uio_ninep_request_free(c, r);
	}
	for (; head < tail; head++)
		if (window[head % WINDOW])
			uio_ninep_request_free(c, window[head % WINDOW]);
	return done || !rc ? (ssize_t)done : rc;
}

static int open_there(struct ninep_call *c, const char *path, int flags, struct uio_ninep_file *out)
{
	struct walk w;
	struct ninep_request *r = NULL;
	int rc = walk_send(c, path, depth(path), &w);

	if (!rc) {
		r = lopen(c, w.fid, flags);
		rc = r ? uio_ninep_send(c, r, NULL, 0) : -ENOMEM;
	}
	if (!rc)
		rc = walk_wait(c, &w);
	if (!rc) {
		rc = uio_ninep_wait(c, r);
		if (rc == -EBADF) { /* it came before the walk was done */
			r = lopen(c, w.fid, flags);
			rc = r ? uio_ninep_rpc(c, r) : -ENOMEM;
		}
	}
	if (rc)
		uio_ninep_fid_drop(c->epoch, w.fid);
	*out = (struct uio_ninep_file){.fid = w.fid, .epoch = c->epoch};
	return rc;
}

/* The last component of path, and a walk to what is in front of it. */
static int walk_parent(struct ninep_call *c, const char *path, struct walk *w, const char **name,
		       size_t *len)
{
	unsigned int names = depth(path);
	const char *at = path;

	w->fid = NINEP_NOFID;
	if (!names)
		return -EBUSY; /* the root itself */
	for (unsigned int i = 0; i < names; i++)
		*name = component(&at, len);
	return walk(c, path, names - 1, w);
}

static int create(struct ninep_call *c, const char *path, int flags, unsigned int mode,
		  struct uio_ninep_file *out)
{
	struct walk w;
	const char *name = NULL;
	struct ninep_request *r = NULL;
	size_t len = 0;
	int rc = walk_parent(c, path, &w, &name, &len);

	if (!rc) {
		r = uio_ninep_request(c, NINEP_TLCREATE, w.fid, 18 + len);
		rc = r ? 0 : -ENOMEM;
	}
	if (!rc) {
		ninep_put32(r, w.fid);
		ninep_put_string(r, name, len);
		ninep_put32(r, (uint32_t)flags);
		ninep_put32(r, mode);
		ninep_put32(r, 0);
		rc = uio_ninep_rpc(c, r);
	}
	if (rc)
		uio_ninep_fid_drop(c->epoch, w.fid);
	*out = (struct uio_ninep_file){.fid = w.fid, .epoch = c->epoch};
	return rc;
}

int uio_ninep_open(const char *path, int flags, unsigned int mode, struct uio_ninep_file *out)
{
	struct ninep_call c;
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	rc = -ENOENT;
	if (!(flags & O_CREAT) || !(flags & O_EXCL))
		rc = open_there(&c, path, flags & ~(O_CREAT | O_EXCL), out);
	if (rc == -ENOENT && flags & O_CREAT)
		rc = create(&c, path, flags | O_EXCL, mode, out);
	if (rc == -EEXIST && !(flags & O_EXCL)) /* made by somebody else meanwhile */
		rc = open_there(&c, path, flags & ~O_CREAT, out);
	uio_ninep_end(&c);
	return rc;
}

int uio_ninep_close(const struct uio_ninep_file *f)
{
	uio_ninep_fid_drop(f->epoch, f->fid);
	return 0;
}

static int begin_file(struct ninep_call *c, const struct uio_ninep_file *f)
{
	int rc = f->epoch == uio_ninep_epoch() ? uio_ninep_begin(c) : -EIO;

	if (!rc && c->epoch != f->epoch) {
		uio_ninep_end(c);
		rc = -EIO;
	}
	return rc;
}

ssize_t uio_ninep_read(const struct uio_ninep_file *f, void *buf, size_t len, uint64_t offset)
{
	struct ninep_call c;
	ssize_t rc = begin_file(&c, f);

	if (rc)
		return rc;
	rc = read_all(&c, f->fid, buf, len, offset);
	uio_ninep_end(&c);
	return rc;
}

ssize_t uio_ninep_write(const struct uio_ninep_file *f, const void *buf, size_t len,
			uint64_t offset)
{
	struct ninep_call c;
	ssize_t rc = begin_file(&c, f);

	if (rc)
		return rc;
	rc = write_all(&c, f->fid, buf, len, offset);
	uio_ninep_end(&c);
	return rc;
}

int uio_ninep_fsync(const struct uio_ninep_file *f)
{
	struct ninep_call c;
	struct ninep_request *r;
	int rc = begin_file(&c, f);

	if (rc)
		return rc;
	r = uio_ninep_request(&c, NINEP_TFSYNC, f->fid, 8);
	rc = -ENOMEM;
	if (r) {
		ninep_put32(r, f->fid);
		ninep_put32(r, 0);
		rc = uio_ninep_rpc(&c, r);
	}
	uio_ninep_end(&c);
	return rc;
}

int uio_ninep_fstat(const struct uio_ninep_file *f, struct uio_stat *out)
{
	struct ninep_call c;
	struct ninep_request *r;
	int rc = begin_file(&c, f);

	if (rc)
		return rc;
	r = getattr(&c, f->fid);
	rc = r ? uio_ninep_rpc(&c, r) : -ENOMEM;
	if (!rc)
		take_attributes(r, out);
	uio_ninep_end(&c);
	return rc;
}

/* ---- by path ---- */

/* Walk to path and send one request made by `make` with it; the reply goes to `take`. */
static int ask(const char *path, struct ninep_request *(*make)(struct ninep_call *c, uint32_t fid),
	       void (*take)(const struct ninep_request *r, void *out), void *out)
{
	struct ninep_call c;
	struct ninep_request *r = NULL;
	struct walk w;
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	rc = walk_send(&c, path, depth(path), &w);
	if (!rc) {
		r = make(&c, w.fid);
		rc = r ? uio_ninep_send(&c, r, NULL, 0) : -ENOMEM;
	}
	if (!rc)
		rc = walk_wait(&c, &w);
	if (!rc)
		rc = uio_ninep_wait(&c, r);
	if (rc == -EBADF) {
		r = make(&c, w.fid);
		rc = r ? uio_ninep_rpc(&c, r) : -ENOMEM;
	}
	if (!rc)
		take(r, out);
	uio_ninep_fid_drop(c.epoch, w.fid);
	uio_ninep_end(&c);
	return rc;
}

static void give_stat(const struct ninep_request *r, void *out)
{
	take_attributes(r, out);
}

static void give_identity(const struct ninep_request *r, void *out)
{
	take_identity(r, out);
}

int uio_ninep_stat(const char *path, struct uio_stat *out)
{
	return ask(path, getattr, give_stat, out);
}

int uio_ninep_identity(const char *path, struct uio_file_identity *out)
{
	return ask(path, getattr, give_identity, out);
}

static struct ninep_request *statfs_request(struct ninep_call *c, uint32_t fid)
{
	struct ninep_request *r = uio_ninep_request(c, NINEP_TSTATFS, fid, 4);

	if (r)
		ninep_put32(r, fid);
	return r;
}

static void give_space(const struct ninep_request *r, void *out)
{
	uint64_t *space = out, block = ninep_field(r, 4, 4);

	if (__builtin_mul_overflow(ninep_field(r, 8, 8), block, &space[0]) ||
	    __builtin_mul_overflow(ninep_field(r, 24, 8), block, &space[1]))
		space[0] = space[1] = UINT64_MAX;
}

int uio_ninep_space(const char *path, uint64_t *total, uint64_t *available)
{
	uint64_t space[2];
	int rc = ask(path, statfs_request, give_space, space);

	if (!rc) {
		*total = space[0];
		*available = space[1];
	}
	return rc;
}

int uio_ninep_unlink(const char *path, unsigned int flags)
{
	struct ninep_call c;
	struct walk w;
	const char *name = NULL;
	struct ninep_request *r = NULL;
	size_t len = 0;
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	rc = walk_parent(&c, path, &w, &name, &len);
	if (!rc) {
		r = uio_ninep_request(&c, NINEP_TUNLINKAT, w.fid, 10 + len);
		rc = r ? 0 : -ENOMEM;
	}
	if (!rc) {
		ninep_put32(r, w.fid);
		ninep_put_string(r, name, len);
		ninep_put32(r, flags);
		rc = uio_ninep_rpc(&c, r);
	}
	uio_ninep_fid_drop(c.epoch, w.fid);
	uio_ninep_end(&c);
	return rc;
}

int uio_ninep_mkdir(const char *path, unsigned int mode)
{
	struct ninep_call c;
	struct walk w;
	const char *name = NULL;
	struct ninep_request *r = NULL;
	size_t len = 0;
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	rc = walk_parent(&c, path, &w, &name, &len);
	if (!rc) {
		r = uio_ninep_request(&c, NINEP_TMKDIR, w.fid, 14 + len);
		rc = r ? 0 : -ENOMEM;
	}
	if (!rc) {
		ninep_put32(r, w.fid);
		ninep_put_string(r, name, len);
		ninep_put32(r, mode);
		ninep_put32(r, 0);
		rc = uio_ninep_rpc(&c, r);
	}
	uio_ninep_fid_drop(c.epoch, w.fid);
	uio_ninep_end(&c);
	return rc == -EBUSY ? -EEXIST : rc;
}

int uio_ninep_rename(const char *from, const char *to)
{
	struct ninep_call c;
	struct walk w[2] = {{.fid = NINEP_NOFID}, {.fid = NINEP_NOFID}};
	const char *name[2] = {NULL, NULL};
	struct ninep_request *r = NULL;
	size_t len[2] = {0, 0};
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	rc = walk_parent(&c, from, &w[0], &name[0], &len[0]);
	if (!rc)
		rc = walk_parent(&c, to, &w[1], &name[1], &len[1]);
	if (!rc) {
		r = uio_ninep_request(&c, NINEP_TRENAMEAT, w[0].fid, 12 + len[0] + len[1]);
		rc = r ? 0 : -ENOMEM;
	}
	if (!rc) {
		ninep_put32(r, w[0].fid);
		ninep_put_string(r, name[0], len[0]);
		ninep_put32(r, w[1].fid);
		ninep_put_string(r, name[1], len[1]);
		rc = uio_ninep_rpc(&c, r);
	}
	uio_ninep_fid_drop(c.epoch, w[0].fid);
	uio_ninep_fid_drop(c.epoch, w[1].fid);
	uio_ninep_end(&c);
	return rc;
}

/* ---- directories ---- */

static bool is_entry_name(const char *name, size_t len)
{
	return len && !memchr(name, 0, len) && !memchr(name, '/', len);
}

/* Entries of one Rreaddir: qid 13, offset 8, type 1, name. 1: go on; 0 or what fn said otherwise.
 */
static int entries(const uint8_t *p, uint32_t size, uint64_t *offset,
		   int (*fn)(const struct uio_dirent *, void *), void *arg, int *result)
{
	while (size) {
		struct uio_dirent entry = {0};
		char name[256];
		uint16_t len;

		if (size < 24)
			return -EIO;
		memcpy(&len, p + 22, sizeof(len));
		if (len >= sizeof(name) || size - 24 < len ||
		    !is_entry_name((const char *)p + 24, len))
			return -EIO;
		memcpy(&entry.ino, p + 5, sizeof(entry.ino));
		memcpy(offset, p + 13, sizeof(*offset));
		entry.type = p[21];
		memcpy(name, p + 24, len);
		name[len] = '\0';
		entry.name = name;
		*result = fn(&entry, arg);
		if (*result)
			return 0;
		p += 24 + len;
		size -= 24u + len;
	}
	return 0;
}

int uio_ninep_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg)
{
	struct uio_ninep_file dir;
	uint64_t offset = 0, before;
	int rc = uio_ninep_open(path, O_RDONLY | OPEN_DIRECTORY, 0, &dir), result = 0;
	uint8_t *room = NULL;

	if (!rc) {
		room = uio_port_alloc(DIR_CHUNK);
		rc = room ? 0 : -ENOMEM;
	}
	while (!rc && !result) {
		struct ninep_call c;
		struct ninep_request *r;
		uint32_t size = 0;

		rc = begin_file(&c, &dir);
		if (rc)
			break;
		r = read_request(&c, NINEP_TREADDIR, dir.fid, offset, room, chunk(DIR_CHUNK));
		rc = r ? uio_ninep_rpc(&c, r) : -ENOMEM;
		if (!rc)
			size = r->received;
		uio_ninep_end(&c);
		if (rc || !size)
			break;
		before = offset;
		rc = entries(room, size, &offset, fn, arg, &result);
		if (!rc && !result && offset == before)
			rc = -EIO; /* a directory that never ends */
	}
	if (room)
		uio_ninep_close(&dir);
	uio_port_free(room);
	return rc ? rc : result;
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
		n = read_all(c, fid, *buf + *filled, room - *filled, *filled);
		if (n < 0)
			return (int)n;
		if (!n)
			break;
		*filled += (size_t)n;
	}
	return *filled > max ? -EFBIG : 0;
}

struct slurp {
	struct walk w;
	struct ninep_request *steps[3]; /* open, attributes, first read */
	uint8_t *buf;
	size_t filled, room;
};

static int send_step(struct ninep_call *c, struct slurp *s, unsigned int i)
{
	struct ninep_request *r;

	if (s->steps[i])
		uio_ninep_request_free(c, s->steps[i]);
	switch (i) {
	case 0:
		r = lopen(c, s->w.fid, O_RDONLY);
		break;
	case 1:
		r = getattr(c, s->w.fid);
		break;
	default:
		r = read_request(c, NINEP_TREAD, s->w.fid, 0, s->buf, (uint32_t)s->room);
		break;
	}
	s->steps[i] = r;
	return r ? uio_ninep_send(c, r, NULL, 0) : -ENOMEM;
}

static int slurp(struct ninep_call *c, const char *path, struct slurp *s, size_t max,
		 struct uio_file_identity *identity)
{
	struct uio_stat st;
	int rc = walk_send(c, path, depth(path), &s->w);

	for (unsigned int i = 0; i < 3 && !rc; i++)
		rc = send_step(c, s, i);
	if (!rc)
		rc = walk_wait(c, &s->w);
	for (unsigned int i = 0; i < 3 && !rc; i++) {
		rc = uio_ninep_wait(c, s->steps[i]);
		if (rc != -EBADF)
			continue;
		rc = send_step(c, s, i); /* it came before the one in front of it was done */
		if (!rc)
			rc = uio_ninep_wait(c, s->steps[i]);
	}
	if (rc)
		return rc;
	take_attributes(s->steps[1], &st);
	take_identity(s->steps[1], identity);
	if ((st.mode & MODE_FORMAT) == MODE_DIRECTORY)
		return -EISDIR;
	if (st.size > max)
		return -EFBIG;
	s->filled = s->steps[2]->received;
	return slurp_rest(c, s->w.fid, st.size, &s->buf, &s->filled, s->room, max);
}

int uio_ninep_slurp(const char *path, void **out, size_t *size, size_t max,
		    struct uio_file_identity *identity)
{
	struct uio_file_identity ignored;
	struct slurp s = {.w.fid = NINEP_NOFID};
	struct ninep_call c;
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	s.room = chunk(FIRST_CHUNK);
	s.buf = uio_port_alloc(s.room);
	rc = s.buf ? slurp(&c, path, &s, max, identity ? identity : &ignored) : -ENOMEM;
	uio_ninep_fid_drop(c.epoch, s.w.fid);
	uio_ninep_end(&c); /* before its memory is given back */
	if (rc) {
		uio_port_free(s.buf);
		return rc;
	}
	*out = s.buf;
	*size = s.filled;
	return 0;
}
