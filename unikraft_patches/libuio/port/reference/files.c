/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guest's own files for libuio: the kernel's ramfs, with descriptors apart from the
 * application's. Directories are listed without "." and "..".
 */
#include <errno.h>
#include <sys/stat.h>

#include <uio/port.h>

#include "ramfs.h"

#define FD_LIMIT 64

static struct file *files[FD_LIMIT];

static struct file *get(int fd)
{
	return fd >= 0 && fd < FD_LIMIT ? files[fd] : NULL;
}

int uio_port_fs_open(const char *path, int flags, unsigned int mode)
{
	struct file *file;
	int error;

	for (int fd = 0; fd < FD_LIMIT; fd++) {
		if (files[fd])
			continue;
		error = file_open(ramfs_root, path, flags, mode, &file);
		if (error)
			return error;
		files[fd] = file;
		return fd;
	}
	return -EMFILE;
}

ssize_t uio_port_fs_pread(int fd, void *buf, size_t len, uint64_t off)
{
	struct file *file = get(fd);

	return file ? node_read(file->node, buf, len, off) : -EBADF;
}

ssize_t uio_port_fs_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	struct file *file = get(fd);

	return file ? file_write(file, buf, len, &off) : -EBADF;
}

int uio_port_fs_close(int fd)
{
	struct file *file = get(fd);

	if (!file)
		return -EBADF;
	files[fd] = NULL;
	file_release(file);
	return 0;
}

int uio_port_fs_stat(const char *path, struct uio_stat *out)
{
	int error = 0;
	const struct node *node = ramfs_lookup(ramfs_root, path, &error);

	if (!node)
		return error;
	*out = (struct uio_stat){
		.size = node->size,
		.mtime_ns = node->mtime_ns,
		.ino = node->ino,
		.mode = node->mode,
		.nlink = 1,
	};
	return 0;
}

int uio_port_fs_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg)
{
	int status = 0;
	const struct node *node = ramfs_lookup(ramfs_root, path, &status);

	if (!node)
		return status;
	if (!S_ISDIR(node->mode))
		return -ENOTDIR;
	for (const struct node *child = node->children; child && !status; child = child->next) {
		struct uio_dirent entry = {child->name, child->ino,
					   (unsigned char)(child->mode >> 12 & 15)};

		status = fn(&entry, arg);
	}
	return status;
}

int uio_port_fs_unlink(const char *path)
{
	return ramfs_remove(ramfs_root, path, false);
}

int uio_port_fs_mkdir(const char *path, unsigned int mode)
{
	struct node *node;

	return ramfs_create(ramfs_root, path, S_IFDIR | (mode & 0777), &node);
}
