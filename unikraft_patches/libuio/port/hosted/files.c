/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The hosted guest's own files: a directory of Linux, out of which no path
 * leads (openat2 with RESOLVE_IN_ROOT).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hosted.h"

static int root = -1;

int hosted_files_init(const char *path)
{
	mkdir(path, 0755);
	root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root < 0 ? -errno : 0;
}

static int open_in_root(const char *path, int flags, unsigned int mode)
{
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC),
			       .mode = flags & O_CREAT ? mode & 07777 : 0,
			       .resolve = RESOLVE_IN_ROOT};
	long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

int uio_port_fs_open(const char *path, int flags, unsigned int mode)
{
	return open_in_root(path, flags, mode);
}

ssize_t uio_port_fs_pread(int fd, void *buf, size_t len, uint64_t off)
{
	ssize_t n = pread(fd, buf, len, (off_t)off);

	return n < 0 ? -errno : n;
}

ssize_t uio_port_fs_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	ssize_t n = pwrite(fd, buf, len, (off_t)off);

	return n < 0 ? -errno : n;
}

int uio_port_fs_close(int fd)
{
	return close(fd) < 0 ? -errno : 0;
}

int uio_port_fs_stat(const char *path, struct uio_stat *out)
{
	int fd = open_in_root(path, O_PATH, 0);
	struct stat st;

	if (fd < 0)
		return fd;
	int err = fstat(fd, &st) < 0 ? -errno : 0;
	close(fd);
	if (err == 0)
		*out = (struct uio_stat){.size = (uint64_t)st.st_size,
					 .mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u +
						     (uint64_t)st.st_mtim.tv_nsec,
					 .ino = st.st_ino,
					 .mode = st.st_mode,
					 .nlink = (uint32_t)st.st_nlink};
	return err;
}

int uio_port_fs_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg)
{
	int fd = open_in_root(path, O_RDONLY | O_DIRECTORY, 0);
	int r = 0;

	if (fd < 0)
		return fd;
	DIR *dir = fdopendir(fd);
	if (dir == NULL) {
		close(fd);
		return -ENOMEM;
	}
	for (struct dirent *d; r == 0 && (d = readdir(dir)) != NULL;) {
		struct uio_dirent e = {.name = d->d_name, .ino = d->d_ino, .type = d->d_type};
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
			r = fn(&e, arg);
	}
	closedir(dir);
	return r;
}

/* The directory that holds path's last component, which *name receives. */
static int parent_of(const char *path, char *buf, size_t size, const char **name)
{
	if ((size_t)snprintf(buf, size, "/%s", path) >= size)
		return -ENAMETOOLONG;
	size_t len = strlen(buf);
	while (len > 1 && buf[len - 1] == '/')
		buf[--len] = '\0';
	char *slash = strrchr(buf, '/');
	*slash = '\0';
	*name = slash + 1;
	return open_in_root(buf[0] != '\0' ? buf : "/", O_PATH | O_DIRECTORY, 0);
}

int uio_port_fs_unlink(const char *path)
{
	char buf[4096];
	const char *name;
	int dir = parent_of(path, buf, sizeof(buf), &name);

	if (dir < 0)
		return dir;
	int err = unlinkat(dir, name, 0) < 0 ? -errno : 0;
	if (err == -EISDIR)
		err = unlinkat(dir, name, AT_REMOVEDIR) < 0 ? -errno : 0;
	close(dir);
	return err;
}

int uio_port_fs_mkdir(const char *path, unsigned int mode)
{
	char buf[4096];
	const char *name;
	int dir = parent_of(path, buf, sizeof(buf), &name);

	if (dir < 0)
		return dir;
	int err = mkdirat(dir, name, mode) < 0 ? -errno : 0;
	close(dir);
	return err;
}
