/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The tree of names, and open files. file_data.c keeps what is in the files.
 */
#include "ramfs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "lapic.h"
#include "memory.h"
#include "print.h"

#define NAME_LIMIT 255

/* From the archive that the build makes (tools/mkramfs.py). */
extern const uint8_t __ramfs_start[], __ramfs_end[];

struct node *ramfs_root, *ramfs_cwd;

static struct node *new_node(struct node *parent, const char *name, size_t len, uint32_t mode)
{
	static uint64_t next_ino = 1;
	struct node *node = heap_zalloc(sizeof(*node));
	struct node **link;

	if (!node)
		return NULL;
	node->name = heap_zalloc(len + 1);
	if (!node->name) {
		heap_free(node);
		return NULL;
	}
	memcpy(node->name, name, len);
	node->mode = mode;
	node->ino = next_ino++;
	node->mtime_ns = clock_wall_base + clock_ns();
	node->parent = parent ? parent : node;
	if (parent) {
		for (link = &parent->children; *link; link = &(*link)->next)
			;
		*link = node;
		parent->mtime_ns = node->mtime_ns;
	}
	return node;
}

static void free_if_unused(struct node *node)
{
	if (node->parent || node->opens)
		return;
	node_truncate(node, 0);
	heap_free(node->pages);
	heap_free(node->name);
	heap_free(node);
}

static void unlink_node(struct node *node)
{
	struct node **link = &node->parent->children;

	while (*link != node)
		link = &(*link)->next;
	*link = node->next;
	node->parent->mtime_ns = clock_wall_base + clock_ns();
	node->parent = NULL;
}

static struct node *find_child(struct node *dir, const char *name, size_t len)
{
	if (len == 1 && name[0] == '.')
		return dir;
	if (len == 2 && name[0] == '.' && name[1] == '.')
		return dir->parent ? dir->parent : dir;
	for (struct node *child = dir->children; child; child = child->next) {
		if (!strncmp(child->name, name, len) && !child->name[len])
			return child;
	}
	return NULL;
}

static const char *skip_slashes(const char *path)
{
	while (*path == '/')
		path++;
	return path;
}

/**
 * Go to the directory that holds the last component of path, which *name and *len then give (length
 * 0: path names the directory itself).
 */
static struct node *walk(struct node *dir, const char *path, const char **name, size_t *len,
			 int *error)
{
	if (!*path) {
		*error = -ENOENT;
		return NULL;
	}
	if (*path == '/')
		dir = ramfs_root;
	for (;;) {
		path = *name = skip_slashes(path);
		while (*path && *path != '/')
			path++;
		*len = (size_t)(path - *name);
		if (*len > NAME_LIMIT) {
			*error = -ENAMETOOLONG;
			return NULL;
		}
		if (!S_ISDIR(dir->mode)) {
			*error = -ENOTDIR;
			return NULL;
		}
		if (!*skip_slashes(path))
			return dir;
		dir = find_child(dir, *name, *len);
		if (!dir) {
			*error = -ENOENT;
			return NULL;
		}
	}
}

struct node *ramfs_lookup(struct node *base, const char *path, int *error)
{
	const char *name;
	size_t len;
	struct node *dir = walk(base, path, &name, &len, error);
	struct node *node;

	if (!dir || !len)
		return dir;
	node = find_child(dir, name, len);
	if (!node)
		*error = -ENOENT;
	else if (name[len] == '/' && !S_ISDIR(node->mode))
		*error = -ENOTDIR, node = NULL;
	return node;
}

int ramfs_create(struct node *base, const char *path, uint32_t mode, struct node **out)
{
	const char *name;
	size_t len;
	int error = 0;
	struct node *dir = walk(base, path, &name, &len, &error);

	if (!dir)
		return error;
	if (!len || find_child(dir, name, len))
		return -EEXIST;
	if (name[len] == '/' && !S_ISDIR(mode))
		return -EISDIR;
	if (!dir->parent)
		return -ENOENT;
	*out = new_node(dir, name, len, mode);
	return *out ? 0 : -ENOSPC;
}

int ramfs_remove(struct node *base, const char *path, bool directory)
{
	int error = 0;
	struct node *node = ramfs_lookup(base, path, &error);

	if (!node)
		return error;
	if (directory && !S_ISDIR(node->mode))
		return -ENOTDIR;
	if (!directory && S_ISDIR(node->mode))
		return -EISDIR;
	if (node == ramfs_root || node == ramfs_cwd)
		return -EBUSY;
	if (node->children)
		return -ENOTEMPTY;
	unlink_node(node);
	free_if_unused(node);
	return 0;
}

int ramfs_rename(struct node *from_base, const char *from, struct node *to_base, const char *to)
{
	const char *name;
	size_t len;
	int error = 0;
	struct node *node = ramfs_lookup(from_base, from, &error);
	struct node *dir = node ? walk(to_base, to, &name, &len, &error) : NULL;
	struct node *old, **link;
	char *copy;

	if (!dir)
		return error;
	if (!len || node == ramfs_root)
		return -EBUSY;
	for (struct node *up = dir; up != ramfs_root; up = up->parent) {
		if (up == node)
			return -EINVAL;
	}
	old = find_child(dir, name, len);
	if (old == node)
		return 0;
	if (old && S_ISDIR(old->mode) != S_ISDIR(node->mode))
		return S_ISDIR(old->mode) ? -EISDIR : -ENOTDIR;
	if (old && old->children)
		return -ENOTEMPTY;
	copy = heap_zalloc(len + 1);
	if (!copy)
		return -ENOSPC;
	memcpy(copy, name, len);
	if (old) {
		unlink_node(old);
		free_if_unused(old);
	}
	unlink_node(node);
	heap_free(node->name);
	node->name = copy;
	node->parent = dir;
	node->next = NULL;
	for (link = &dir->children; *link; link = &(*link)->next)
		;
	*link = node;
	return 0;
}

/* ---- open files ---- */

int file_open(struct node *base, const char *path, int flags, uint32_t mode, struct file **out)
{
	int error = 0;
	struct node *node = ramfs_lookup(base, path, &error);
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	struct file *file;

	if (!node && error == -ENOENT && flags & O_CREAT)
		error = ramfs_create(base, path, S_IFREG | (mode & 0777), &node);
	else if (node && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return -EEXIST;
	if (!node)
		return error;
	if (S_ISDIR(node->mode) && writes)
		return -EISDIR;
	if (!S_ISDIR(node->mode) && flags & O_DIRECTORY)
		return -ENOTDIR;
	file = heap_zalloc(sizeof(*file));
	if (!file)
		return -ENOMEM;
	if (flags & O_TRUNC && writes && S_ISREG(node->mode))
		node_truncate(node, 0);
	node->opens++;
	file->node = node;
	file->flags = flags;
	file->users = 1;
	*out = file;
	return 0;
}

void file_release(struct file *file)
{
	struct node *node = file->node;

	if (--file->users)
		return;
	node->opens--;
	free_if_unused(node);
	heap_free(file);
}

ssize_t file_write(struct file *file, const void *buf, size_t len, uint64_t *offset)
{
	ssize_t n;

	if ((file->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	if (file->flags & O_APPEND)
		*offset = file->node->size;
	n = node_write(file->node, buf, len, *offset);
	if (n > 0)
		*offset += (uint64_t)n;
	return n;
}

/* ---- filling it ---- */

static void make(const char *path, uint32_t mode, enum device device)
{
	struct node *node;

	if (ramfs_create(ramfs_root, path, mode, &node) == 0)
		node->device = device;
}

static uint32_t get32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/** Each entry: mode, length of the path with its NUL, size (u32 each), path, data. */
static void unpack(void)
{
	const uint8_t *p = __ramfs_start;

	while (p < __ramfs_end) {
		uint32_t mode = get32(p), path_len = get32(p + 4), size = get32(p + 8);
		const char *path = (const char *)p + 12;
		struct node *node;
		int error = ramfs_create(ramfs_root, path, mode, &node);

		p += 12 + path_len;
		if (error && error != -EEXIST)
			panic("embedded files: %s: error %d", path, error);
		if (!error && size && node_write(node, p, size, 0) != (ssize_t)size)
			panic("embedded files: no memory for %s", path);
		p += size;
	}
}

void ramfs_init(void)
{
	ramfs_root = ramfs_cwd = new_node(NULL, "", 0, S_IFDIR | 0755);
	make("/dev", S_IFDIR | 0755, DEVICE_NONE);
	make("/dev/console", S_IFCHR | 0600, DEVICE_CONSOLE);
	make("/dev/tty", S_IFCHR | 0600, DEVICE_CONSOLE);
	make("/dev/null", S_IFCHR | 0666, DEVICE_NULL);
	make("/dev/zero", S_IFCHR | 0666, DEVICE_ZERO);
	make("/dev/random", S_IFCHR | 0666, DEVICE_RANDOM);
	make("/dev/urandom", S_IFCHR | 0666, DEVICE_RANDOM);
	make("/etc", S_IFDIR | 0755, DEVICE_NONE);
	make("/tmp", S_IFDIR | 0777, DEVICE_NONE);
	unpack();
}
