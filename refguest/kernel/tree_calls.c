/* SPDX-License-Identifier: BSD-3-Clause */
/* System calls on names and attributes. One user, who may do everything; there are no links. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ramfs.h"
#include "syscall.h"

static long fill_stat(const struct node *node, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_dev = 1;
	st->st_ino = node->ino;
	st->st_mode = node->mode;
	st->st_nlink = node->parent ? 1 : 0;
	st->st_rdev = node->device;
	st->st_size = (off_t)node->size;
	st->st_blksize = 4096;
	st->st_blocks = (blkcnt_t)((node->size + 511) / 512);
	st->st_mtim.tv_sec = (time_t)(node->mtime_ns / 1000000000u);
	st->st_mtim.tv_nsec = (long)(node->mtime_ns % 1000000000u);
	st->st_atim = st->st_ctim = st->st_mtim;
	return 0;
}

/** The node that path names from the directory fd. */
static struct node *node_at(int fd, const char *path, int *error)
{
	struct node *base = file_base(fd, path, error);

	return base ? ramfs_lookup(base, path, error) : NULL;
}

static long stat_at(int fd, const char *path, struct stat *st)
{
	int error = 0;
	struct node *node = node_at(fd, path, &error);

	return node ? fill_stat(node, st) : error;
}

long sys_stat(const uint64_t *a)
{
	return stat_at(AT_FDCWD, (const char *)a[0], (struct stat *)a[1]);
}

long sys_lstat(const uint64_t *a)
{
	return sys_stat(a);
}

long sys_fstat(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);

	return file ? fill_stat(file->node, (struct stat *)a[1]) : -EBADF;
}

long sys_newfstatat(const uint64_t *a)
{
	const char *path = (const char *)a[1];

	if (a[3] & AT_EMPTY_PATH && !*path) {
		const uint64_t two[2] = {a[0], a[2]};

		return sys_fstat(two);
	}
	return stat_at((int)a[0], path, (struct stat *)a[2]);
}

long sys_getdents64(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);
	uint8_t *out = (uint8_t *)a[1];
	size_t room = a[2], used = 0;
	struct node *child;
	uint64_t index = 0;

	if (!file || !S_ISDIR(file->node->mode))
		return file ? -ENOTDIR : -EBADF;
	/* The offset counts entries: "." and "..", then the children. */
	child = file->node->children;
	for (; index + 2 < file->offset && child; index++)
		child = child->next;
	while (file->offset < 2 || child) {
		const char *name = file->offset == 0 ? "." : file->offset == 1 ? ".." : child->name;
		const struct node *node = file->offset < 2 ? file->node : child;
		size_t len = strlen(name);
		size_t need = (offsetof(struct dirent, d_name) + len + 1 + 7) & ~7ul;
		struct dirent *d = (struct dirent *)(out + used);

		if (need > room - used)
			return used ? (long)used : -EINVAL;
		d->d_ino = node->ino;
		d->d_off = (off_t)file->offset + 1;
		d->d_reclen = (unsigned short)need;
		d->d_type = (unsigned char)(node->mode >> 12 & 15);
		memcpy(d->d_name, name, len + 1);
		used += need;
		if (file->offset >= 2)
			child = child->next;
		file->offset++;
	}
	return (long)used;
}

static long mkdir_at(int fd, const char *path, uint32_t mode)
{
	int error = 0;
	struct node *base = file_base(fd, path, &error), *node;

	return base ? ramfs_create(base, path, S_IFDIR | (mode & 0777), &node) : error;
}

long sys_mkdir(const uint64_t *a)
{
	return mkdir_at(AT_FDCWD, (const char *)a[0], (uint32_t)a[1]);
}

long sys_mkdirat(const uint64_t *a)
{
	return mkdir_at((int)a[0], (const char *)a[1], (uint32_t)a[2]);
}

long sys_rmdir(const uint64_t *a)
{
	return ramfs_remove(ramfs_cwd, (const char *)a[0], true);
}

long sys_unlink(const uint64_t *a)
{
	return ramfs_remove(ramfs_cwd, (const char *)a[0], false);
}

long sys_unlinkat(const uint64_t *a)
{
	int error = 0;
	struct node *base = file_base((int)a[0], (const char *)a[1], &error);

	return base ? ramfs_remove(base, (const char *)a[1], a[2] & AT_REMOVEDIR) : error;
}

static long rename_at(int from_fd, const char *from, int to_fd, const char *to)
{
	int error = 0;
	struct node *from_base = file_base(from_fd, from, &error);
	struct node *to_base = from_base ? file_base(to_fd, to, &error) : NULL;

	return to_base ? ramfs_rename(from_base, from, to_base, to) : error;
}

long sys_rename(const uint64_t *a)
{
	return rename_at(AT_FDCWD, (const char *)a[0], AT_FDCWD, (const char *)a[1]);
}

long sys_renameat(const uint64_t *a)
{
	return rename_at((int)a[0], (const char *)a[1], (int)a[2], (const char *)a[3]);
}

long sys_renameat2(const uint64_t *a)
{
	return a[4] ? -EINVAL : sys_renameat(a);
}

long sys_access(const uint64_t *a)
{
	int error = 0;

	return node_at(AT_FDCWD, (const char *)a[0], &error) ? 0 : error;
}

long sys_faccessat(const uint64_t *a)
{
	int error = 0;

	return node_at((int)a[0], (const char *)a[1], &error) ? 0 : error;
}

long sys_getcwd(const uint64_t *a)
{
	char *out = (char *)a[0];
	char path[1024];
	size_t at = sizeof(path) - 1;

	path[at] = 0;
	for (struct node *node = ramfs_cwd; node != ramfs_root; node = node->parent) {
		size_t len = strlen(node->name);

		if (len + 1 > at)
			return -ENAMETOOLONG;
		at -= len;
		memcpy(path + at, node->name, len);
		path[--at] = '/';
	}
	if (!path[at])
		path[--at] = '/';
	if (sizeof(path) - at > a[1])
		return -ERANGE;
	memcpy(out, path + at, sizeof(path) - at);
	return (long)(sizeof(path) - at);
}

long sys_chdir(const uint64_t *a)
{
	int error = 0;
	struct node *node = node_at(AT_FDCWD, (const char *)a[0], &error);

	if (!node)
		return error;
	if (!S_ISDIR(node->mode))
		return -ENOTDIR;
	ramfs_cwd = node;
	return 0;
}

long sys_readlink(const uint64_t *a)
{
	int error = 0;

	return node_at(AT_FDCWD, (const char *)a[0], &error) ? -EINVAL : error;
}

long sys_chmod(const uint64_t *a)
{
	int error = 0;
	struct node *node = node_at(AT_FDCWD, (const char *)a[0], &error);

	if (node)
		node->mode = (node->mode & S_IFMT) | ((uint32_t)a[1] & 07777);
	return error;
}

long sys_fchmod(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);

	if (!file)
		return -EBADF;
	file->node->mode = (file->node->mode & S_IFMT) | ((uint32_t)a[1] & 07777);
	return 0;
}

long sys_utimensat(const uint64_t *a)
{
	const struct timespec *times = (const struct timespec *)a[2];
	int error = 0;
	struct node *node;

	if (a[1]) {
		node = node_at((int)a[0], (const char *)a[1], &error);
	} else {
		struct file *file = file_get((int)a[0]);

		node = file ? file->node : NULL;
		error = -EBADF;
	}
	if (!node)
		return error;
	if (times && times[1].tv_nsec < 1000000000)
		node->mtime_ns =
			(uint64_t)times[1].tv_sec * 1000000000u + (uint64_t)times[1].tv_nsec;
	return 0;
}
