/* SPDX-License-Identifier: BSD-3-Clause */
/* Operations on the host's files by their names: what they are, what is in directories, changes to
 * those. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "file.h"
#include "ninep_steps.h"

#define DIR_CHUNK (16u * 1024)

#define GETATTR_BASIC 0x7ffu

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

/* ---- what they are ---- */

struct ninep_step uio_ninep_getattr(void)
{
	return (struct ninep_step){.type = NINEP_TGETATTR, .n = 2, .numbers = {GETATTR_BASIC}};
}

void uio_ninep_attributes(const struct ninep_request *r, struct uio_stat *out)
{
	out->size = ninep_field(r, ATTR_SIZE, 8);
	out->mtime_ns =
		ninep_field(r, ATTR_MTIME, 8) * 1000000000u + ninep_field(r, ATTR_MTIME_NS, 8);
	out->ino = ninep_field(r, ATTR_QID_PATH, 8);
	out->mode = (uint32_t)ninep_field(r, ATTR_MODE, 4);
	out->nlink = (uint32_t)ninep_field(r, ATTR_NLINK, 8);
}

void uio_ninep_identify(const struct ninep_request *r, struct uio_file_identity *out)
{
	struct uio_stat st;

	uio_ninep_attributes(r, &st);
	*out = (struct uio_file_identity){.path = st.ino,
					  .size = st.size,
					  .mtime_ns = st.mtime_ns,
					  .version = (uint32_t)ninep_field(r, ATTR_QID_VERSION, 4)};
}

/* Take one step at path; the reply goes to `take`. */
static int ask(const char *path, struct ninep_step s,
	       void (*take)(const struct ninep_request *r, void *out), void *out)
{
	struct ninep_call c;
	struct ninep_walk w;
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	rc = uio_ninep_walk_and(&c, path, &w, &s, 1);
	if (!rc)
		take(s.request, out);
	uio_ninep_fid_drop(c.epoch, w.fid);
	uio_ninep_end(&c);
	return rc;
}

static void give_stat(const struct ninep_request *r, void *out)
{
	uio_ninep_attributes(r, out);
}

static void give_identity(const struct ninep_request *r, void *out)
{
	uio_ninep_identify(r, out);
}

int uio_ninep_stat(const char *path, struct uio_stat *out)
{
	return ask(path, uio_ninep_getattr(), give_stat, out);
}

int uio_ninep_identity(const char *path, struct uio_file_identity *out)
{
	return ask(path, uio_ninep_getattr(), give_identity, out);
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
	int rc = ask(path, (struct ninep_step){.type = NINEP_TSTATFS}, give_space, space);

	if (!rc) {
		*total = space[0];
		*available = space[1];
	}
	return rc;
}

/* ---- changes ---- */

/* What is done to names: one message of directories with a name in each, then numbers. */
struct change {
	uint8_t type, paths, n;
	const char *path[2];
	uint32_t numbers[3];
};

struct place {
	struct ninep_walk w; /* to the directory */
	const char *name;
	size_t len;
};

static int find_place(struct ninep_call *c, const char *path, struct place *p)
{
	unsigned int names = uio_ninep_depth(path);
	const char *at = path;

	if (!names)
		return -EBUSY; /* the root itself */
	for (unsigned int i = 0; i < names; i++)
		p->name = uio_ninep_component(&at, &p->len);
	return uio_ninep_walk(c, path, names - 1, &p->w);
}

/* With `made` the first directory's fid has become a file, and is kept with the reply. */
static int change(struct ninep_call *c, const struct change *what, struct ninep_request **made)
{
	struct place places[2] = {{.w.fid = NINEP_NOFID}, {.w.fid = NINEP_NOFID}};
	size_t body = sizeof(what->numbers);
	struct ninep_request *r = NULL;
	int rc = 0;

	for (unsigned int i = 0; i < what->paths && !rc; i++) {
		rc = find_place(c, what->path[i], &places[i]);
		body += 6 + places[i].len;
	}
	if (!rc) {
		r = uio_ninep_request(c, what->type, places[0].w.fid, body);
		rc = r ? 0 : -ENOMEM;
	}
	if (!rc) {
		for (unsigned int i = 0; i < what->paths; i++) {
			ninep_put32(r, places[i].w.fid);
			ninep_put_string(r, places[i].name, places[i].len);
		}
		ninep_put(r, what->numbers, what->n * sizeof(what->numbers[0]));
		rc = uio_ninep_rpc(c, r);
	}
	if (made)
		*made = r;
	if (rc || !made)
		uio_ninep_fid_drop(c->epoch, places[0].w.fid);
	uio_ninep_fid_drop(c->epoch, places[1].w.fid);
	return rc;
}

int uio_ninep_create(struct ninep_call *c, const char *path, int flags, unsigned int mode,
		     struct ninep_request **made)
{
	return change(c, &(struct change){NINEP_TLCREATE, 1, 3, {path}, {(uint32_t)flags, mode, 0}},
		      made);
}

static int change_alone(const struct change *what)
{
	struct ninep_call c;
	int rc = uio_ninep_begin(&c);

	if (rc)
		return rc;
	rc = change(&c, what, NULL);
	uio_ninep_end(&c);
	return rc;
}

int uio_ninep_unlink(const char *path, unsigned int flags)
{
	return change_alone(&(struct change){NINEP_TUNLINKAT, 1, 1, {path}, {flags}});
}

int uio_ninep_mkdir(const char *path, unsigned int mode)
{
	int rc = change_alone(&(struct change){NINEP_TMKDIR, 1, 2, {path}, {mode, 0}});

	return rc == -EBUSY ? -EEXIST : rc;
}

int uio_ninep_rename(const char *from, const char *to)
{
	return change_alone(&(struct change){NINEP_TRENAMEAT, 2, 0, {from, to}, {0}});
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
		struct ninep_step s;
		uint32_t size = 0;

		rc = uio_ninep_begin_file(&c, &dir);
		if (rc)
			break;
		s = uio_ninep_io(NINEP_TREADDIR, offset, room, DIR_CHUNK);
		rc = uio_ninep_step(&c, dir.fid, &s);
		if (!rc)
			size = s.request->received;
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
