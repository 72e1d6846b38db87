/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guest's file system: a tree in memory, filled at boot from the archive that the build embeds.
 * Files keep their data in pages. Everything returns a negative errno on failure.
 */
#ifndef REFGUEST_RAMFS_H
#define REFGUEST_RAMFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum device { DEVICE_NONE, DEVICE_CONSOLE, DEVICE_NULL, DEVICE_ZERO, DEVICE_RANDOM };

struct node {
	char *name;
	struct node *parent;   /* NULL once unlinked; the root's is itself */
	struct node *children; /* of a directory, in order of creation */
	struct node *next;
	uint32_t mode; /* Linux st_mode */
	enum device device;
	uint64_t ino, size, mtime_ns;
	uint8_t **pages; /* NULL pages are holes */
	size_t page_slots;
	unsigned int opens;
};

/** An open file, shared by duplicated descriptors. */
struct file {
	struct node *node;
	uint64_t offset;
	int flags;
	unsigned int users;
};

extern struct node *ramfs_root, *ramfs_cwd;

void ramfs_init(void);
struct node *ramfs_lookup(struct node *base, const char *path, int *error);
/** Make what path names; mode has the type. -EEXIST. */
int ramfs_create(struct node *base, const char *path, uint32_t mode, struct node **out);
int ramfs_remove(struct node *base, const char *path, bool directory);
int ramfs_rename(struct node *from_base, const char *from, struct node *to_base, const char *to);

ssize_t node_read(struct node *node, void *buf, size_t len, uint64_t offset);
ssize_t node_write(struct node *node, const void *buf, size_t len, uint64_t offset);
int node_truncate(struct node *node, uint64_t size);

int file_open(struct node *base, const char *path, int flags, uint32_t mode, struct file **out);
void file_release(struct file *file);
ssize_t file_write(struct file *file, const void *buf, size_t len, uint64_t *offset);

/* The application's descriptors (file_calls.c). */
struct file *file_get(int fd);
/** The directory that *at() calls start from; NULL with *error set. */
struct node *file_base(int fd, const char *path, int *error);

#endif
