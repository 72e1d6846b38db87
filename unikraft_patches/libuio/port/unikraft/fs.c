/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guest's own files: the C library's calls, which end in vfscore. Without
 * a file system in the kernel every call is -ENOSYS.
 */
#include <errno.h>
#include <string.h>

#include "unikraft.h"

#if CONFIG_LIBVFSCORE

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static ssize_t result(ssize_t rc)
{
	return rc < 0 ? -(ssize_t)errno : rc;
}

int uio_port_fs_open(const char *path, int flags, unsigned int mode)
{
	return (int)result(open(path, flags, (mode_t)mode));
}

ssize_t uio_port_fs_pread(int fd, void *buf, size_t len, uint64_t off)
{
	return result(pread(fd, buf, len, (off_t)off));
}

ssize_t uio_port_fs_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	return result(pwrite(fd, buf, len, (off_t)off));
}

int uio_port_fs_close(int fd)
{
	return (int)result(close(fd));
}

int uio_port_fs_stat(const char *path, struct uio_stat *out)
{
	struct stat st;
	int rc = (int)result(stat(path, &st));

	if (rc < 0)
		return rc;
	memset(out, 0, sizeof(*out));
	out->size = (uint64_t)st.st_size;
	out->mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
	out->ino = st.st_ino;
	out->mode = st.st_mode;
	out->nlink = (uint32_t)st.st_nlink;
	return 0;
}

int uio_port_fs_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg)
{
	DIR *dir = opendir(path);
	int rc = 0;

	if (!dir)
		return -errno;
	while (rc == 0) {
		const struct dirent *entry = readdir(dir);
		struct uio_dirent out;

		if (!entry)
			break;
		out.name = entry->d_name;
		out.ino = entry->d_ino;
		out.type = entry->d_type;
		rc = fn(&out, arg);
	}
	closedir(dir);
	return rc;
}

int uio_port_fs_unlink(const char *path)
{
	return (int)result(unlink(path));
}

int uio_port_fs_mkdir(const char *path, unsigned int mode)
{
	return (int)result(mkdir(path, (mode_t)mode));
}

#else /* !CONFIG_LIBVFSCORE */

int uio_port_fs_open(const char *path __unused, int flags __unused, unsigned int mode __unused)
{
	return -ENOSYS;
}

ssize_t uio_port_fs_pread(int fd __unused, void *buf __unused, size_t len __unused,
			  uint64_t off __unused)
{
	return -ENOSYS;
}

ssize_t uio_port_fs_pwrite(int fd __unused, const void *buf __unused, size_t len __unused,
			   uint64_t off __unused)
{
	return -ENOSYS;
}

int uio_port_fs_close(int fd __unused)
{
	return -ENOSYS;
}

int uio_port_fs_stat(const char *path __unused, struct uio_stat *out __unused)
{
	return -ENOSYS;
}

int uio_port_fs_readdir(const char *path __unused,
			int (*fn)(const struct uio_dirent *, void *) __unused, void *arg __unused)
{
	return -ENOSYS;
}

int uio_port_fs_unlink(const char *path __unused)
{
	return -ENOSYS;
}

int uio_port_fs_mkdir(const char *path __unused, unsigned int mode __unused)
{
	return -ENOSYS;
}

#endif
