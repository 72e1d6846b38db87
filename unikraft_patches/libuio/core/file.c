/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One name space for commands: paths lead to uIO-fs (ninep_files.c, ninep_names.c), those that
 * begin with `guest:` to the guest's own files. `.` and `..` are taken out of
 * paths here, by their letters: nobody climbs above a root.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "file.h"
#include "ninep.h"

#define PATH_SIZE        4096u
#define GUEST_PREFIX     "guest:"
#define REMOVE_DIRECTORY 0x200u

struct uio_file {
	bool guest;
	int flags;
	int fd;             /* guest */
	unsigned int users; /* threads that are in the midst of something with it */
	struct uio_ninep_file remote;
	uint64_t at;
	char path[]; /* guest: for what its port knows by path only; else "" */
};

/*
 * The absolute path without empty, `.` and `..` components, in heap memory;
 * *guest tells which files it is about. NULL: no memory, or too long.
 */
static char *resolve(const char *path, bool *guest, int *rc)
{
	size_t prefix = sizeof(GUEST_PREFIX) - 1, n = 0, len;
	char *out;

	*guest = !strncmp(path, GUEST_PREFIX, prefix);
	if (*guest)
		path += prefix;
	len = strlen(path);
	*rc = len >= PATH_SIZE ? -ENAMETOOLONG : -ENOMEM;
	out = len >= PATH_SIZE ? NULL : uio_port_alloc(len + 2);
	if (!out)
		return NULL;
	*rc = 0;
	while (*path) {
		const char *end = strchr(path, '/');

		len = end ? (size_t)(end - path) : strlen(path);
		if (len == 2 && !memcmp(path, "..", 2)) {
			while (n && out[--n] != '/')
				;
		} else if (len && !(len == 1 && *path == '.')) {
			out[n++] = '/';
			memcpy(out + n, path, len);
			n += len;
		}
		path += len + (end ? 1 : 0);
	}
	if (!n)
		out[n++] = '/';
	out[n] = '\0';
	return out;
}

/* ---- open files ---- */

static int open_resolved(struct uio_file *f, const char *path, unsigned int mode)
{
	if (!f->guest)
		return uio_ninep_open(path, f->flags, mode, &f->remote);
	f->fd = uio_port_fs_open(path, f->flags, mode);
	strcpy(f->path, path);
	return f->fd < 0 ? f->fd : 0;
}

int uio_file_open(struct uio_file **out, const char *path, int flags, unsigned int mode)
{
	struct uio_file *f;
	bool guest;
	int rc;
	char *resolved = resolve(path, &guest, &rc);

	if (!resolved)
		return rc;
	f = uio_port_alloc(sizeof(*f) + strlen(resolved) + 1);
	rc = -ENOMEM;
	if (f) {
		memset(f, 0, sizeof(*f) + 1);
		f->guest = guest;
		f->flags = flags;
		rc = open_resolved(f, resolved, mode);
	}
	uio_port_free(resolved);
	if (rc)
		uio_port_free(f);
	else
		*out = f;
	return rc;
}

ssize_t uio_file_read(struct uio_file *f, void *buf, size_t len)
{
	ssize_t n;

	f->users++;
	n = f->guest ? uio_port_fs_pread(f->fd, buf, len, f->at)
		     : uio_ninep_read(&f->remote, buf, len, f->at);
	f->users--;
	if (n > 0)
		f->at += (uint64_t)n;
	return n;
}

static int file_size(struct uio_file *f, uint64_t *size)
{
	struct uio_stat st;
	int rc = f->guest ? uio_port_fs_stat(f->path, &st) : uio_ninep_fstat(&f->remote, &st);

	*size = rc ? 0 : st.size;
	return rc;
}

ssize_t uio_file_write(struct uio_file *f, const void *buf, size_t len)
{
	ssize_t n = 0;

	f->users++;
	if (f->flags & O_APPEND)
		n = file_size(f, &f->at);
	if (!n)
		n = f->guest ? uio_port_fs_pwrite(f->fd, buf, len, f->at)
			     : uio_ninep_write(&f->remote, buf, len, f->at);
	f->users--;
	if (n > 0)
		f->at += (uint64_t)n;
	return n;
}

int64_t uio_file_seek(struct uio_file *f, int64_t offset, int whence)
{
	uint64_t from = 0;
	int64_t at;
	int rc = 0;

	f->users++;
	if (whence == 1)
		from = f->at;
	else if (whence == 2)
		rc = file_size(f, &from);
	else if (whence != 0)
		rc = -EINVAL;
	f->users--;
	if (rc)
		return rc;
	if (__builtin_add_overflow((int64_t)from, offset, &at) || at < 0)
		return -EINVAL;
	f->at = (uint64_t)at;
	return at;
}

int uio_file_sync(struct uio_file *f)
{
	int rc;

	f->users++;
	rc = f->guest ? 0 : uio_ninep_fsync(&f->remote);
	f->users--;
	return rc;
}

bool uio_file_is_in_use(const struct uio_file *f)
{
	return f->users != 0;
}

int uio_file_close(struct uio_file *f)
{
	int rc = f->guest ? uio_port_fs_close(f->fd) : uio_ninep_close(&f->remote);

	uio_port_free(f);
	return rc;
}

/* ---- by path ---- */

int uio_file_stat(const char *path, struct uio_stat *out)
{
	bool guest;
	int rc;
	char *p = resolve(path, &guest, &rc);

	if (p)
		rc = guest ? uio_port_fs_stat(p, out) : uio_ninep_stat(p, out);
	uio_port_free(p);
	return rc;
}

int uio_file_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg)
{
	bool guest;
	int rc;
	char *p = resolve(path, &guest, &rc);

	if (p)
		rc = guest ? uio_port_fs_readdir(p, fn, arg) : uio_ninep_readdir(p, fn, arg);
	uio_port_free(p);
	return rc;
}

int uio_file_unlink(const char *path)
{
	bool guest;
	int rc;
	char *p = resolve(path, &guest, &rc);

	if (p)
		rc = guest ? uio_port_fs_unlink(p) : uio_ninep_unlink(p, 0);
	uio_port_free(p);
	return rc;
}

int uio_file_rmdir(const char *path)
{
	bool guest;
	int rc;
	char *p = resolve(path, &guest, &rc);

	if (p)
		rc = guest ? uio_port_fs_unlink(p) : uio_ninep_unlink(p, REMOVE_DIRECTORY);
	uio_port_free(p);
	return rc;
}

int uio_file_mkdir(const char *path, unsigned int mode)
{
	bool guest;
	int rc;
	char *p = resolve(path, &guest, &rc);

	if (p)
		rc = guest ? uio_port_fs_mkdir(p, mode) : uio_ninep_mkdir(p, mode);
	uio_port_free(p);
	return rc;
}

int uio_file_rename(const char *from, const char *to)
{
	bool from_guest, to_guest;
	int rc;
	char *p = resolve(from, &from_guest, &rc), *q = NULL;

	if (p)
		q = resolve(to, &to_guest, &rc);
	if (q)
		rc = from_guest && to_guest   ? -ENOSYS
		     : from_guest || to_guest ? -EXDEV
					      : uio_ninep_rename(p, q);
	uio_port_free(p);
	uio_port_free(q);
	return rc;
}

int uio_file_space(const char *path, uint64_t *total, uint64_t *available)
{
	bool guest;
	int rc;
	char *p = resolve(path, &guest, &rc);
	size_t all, left;

	if (p && guest) { /* the guest's files lie in its memory */
		uio_port_meminfo(&all, &left);
		*total = all;
		*available = left;
	} else if (p) {
		rc = uio_ninep_space(p, total, available);
	}
	uio_port_free(p);
	return rc;
}

static int slurp_guest(const char *path, void **out, size_t *size, size_t max)
{
	struct uio_stat st;
	int rc = uio_port_fs_stat(path, &st), fd;
	size_t filled = 0;
	uint8_t *buf;

	if (rc)
		return rc;
	if (st.size > max)
		return -EFBIG;
	fd = uio_port_fs_open(path, O_RDONLY, 0);
	if (fd < 0)
		return fd;
	buf = uio_port_alloc(st.size + 1);
	rc = buf ? 0 : -ENOMEM;
	while (!rc && filled < st.size) {
		ssize_t n = uio_port_fs_pread(fd, buf + filled, st.size - filled, filled);

		if (n == 0)
			break;
		if (n < 0)
			rc = (int)n;
		else
			filled += (size_t)n;
	}
	uio_port_fs_close(fd);
	if (rc) {
		uio_port_free(buf);
		return rc;
	}
	*out = buf;
	*size = filled;
	return 0;
}

int uio_file_slurp(const char *path, void **out, size_t *size, size_t max)
{
	bool guest;
	int rc;
	char *p = resolve(path, &guest, &rc);

	if (p)
		rc = guest ? slurp_guest(p, out, size, max)
			   : uio_ninep_slurp(p, out, size, max, NULL);
	uio_port_free(p);
	return rc;
}
