/* SPDX-License-Identifier: BSD-3-Clause */
/* What the core does not have yet, so that the rest of it can be tried. */
#include <errno.h>
#include <string.h>

#include "../../core/context.h"
#include "../../core/file.h"
#include "../../core/overlay.h"

#define WEAK __attribute__((weak))
#pragma GCC diagnostic ignored "-Wunused-parameter"

WEAK void uio_ninep_poll(void)
{
}
WEAK int uio_file_open(struct uio_file **out, const char *path, int flags, unsigned int mode)
{
	return -ENOSYS;
}
WEAK ssize_t uio_file_read(struct uio_file *f, void *buf, size_t len)
{
	return -ENOSYS;
}
WEAK ssize_t uio_file_write(struct uio_file *f, const void *buf, size_t len)
{
	return -ENOSYS;
}
WEAK int uio_file_close(struct uio_file *f)
{
	return -ENOSYS;
}
WEAK int uio_file_stat(const char *path, struct uio_stat *out)
{
	return -ENOSYS;
}
WEAK int uio_file_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg)
{
	return -ENOSYS;
}
WEAK int uio_file_unlink(const char *path)
{
	return -ENOSYS;
}
WEAK int uio_file_rmdir(const char *path)
{
	return -ENOSYS;
}
WEAK int uio_file_mkdir(const char *path, unsigned int mode)
{
	return -ENOSYS;
}
WEAK int uio_file_rename(const char *from, const char *to)
{
	return -ENOSYS;
}
WEAK int uio_file_space(const char *path, uint64_t *total, uint64_t *available)
{
	return -ENOSYS;
}
WEAK int uio_file_slurp(const char *path, void **out, size_t *size, size_t max)
{
	return -ENOSYS;
}
WEAK void uio_overlay_arena(struct uio_arena *out)
{
	memset(out, 0, sizeof(*out));
}
WEAK struct uio_overlay *uio_overlay_find(const uint8_t hash[UIO_HASH_SIZE])
{
	return NULL;
}
WEAK int uio_overlay_foreach(int (*fn)(struct uio_overlay *o, void *arg), void *arg)
{
	return 0;
}
WEAK int uio_overlay_unload(const uint8_t hash[UIO_HASH_SIZE])
{
	return -ENOENT;
}
WEAK int uio_overlay_pull(struct uio_exec *x, const char *name, struct uio_overlay **out)
{
	uio_exec_result(x, UIO_EXIT_NOT_FOUND, -ENOENT, "%s: not found", name);
	return -ENOENT;
}
WEAK struct uio_push *uio_push_begin(void)
{
	return NULL;
}
WEAK int uio_push_data(struct uio_push *p, const void *buf, size_t len)
{
	return -ENOSYS;
}
WEAK int uio_push_finish(struct uio_push *p, struct uio_overlay **out, const char **why)
{
	return -ENOSYS;
}
WEAK void uio_push_abort(struct uio_push *p)
{
}
WEAK void uio_overlay_run(struct uio_overlay *o, struct uio_exec *x)
{
}
WEAK int uio_overlay_stop(struct uio_exec *x)
{
	return 0;
}
WEAK void uio_fault_init(void)
{
}
WEAK int64_t uio_file_seek(struct uio_file *f, int64_t offset, int whence)
{
	return -ENOSYS;
}
WEAK int uio_file_sync(struct uio_file *f)
{
	return -ENOSYS;
}
