/* SPDX-License-Identifier: BSD-3-Clause */
/* System calls on descriptors. 0, 1 and 2 are the console from the beginning. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lapic.h"
#include "memory.h"
#include "ramfs.h"
#include "sched.h"
#include "syscall.h"

#define FD_LIMIT 256

static struct file *files[FD_LIMIT];
static uint8_t close_on_exec[FD_LIMIT];

static struct file *console(void)
{
	static struct file file = {.flags = O_RDWR, .users = 1000};
	int error;

	if (!file.node)
		file.node = ramfs_lookup(ramfs_root, "/dev/console", &error);
	return &file;
}

static void standard_files(void)
{
	static bool done;

	if (done)
		return;
	done = true;
	for (int fd = 0; fd < 3; fd++)
		files[fd] = console();
}

struct file *file_get(int fd)
{
	standard_files();
	return fd >= 0 && fd < FD_LIMIT ? files[fd] : NULL;
}

struct node *file_base(int fd, const char *path, int *error)
{
	struct file *file;

	if (fd == AT_FDCWD || path[0] == '/')
		return ramfs_cwd;
	file = file_get(fd);
	if (!file)
		*error = -EBADF;
	return file ? file->node : NULL;
}

static long install(struct file *file, int from, int flags)
{
	standard_files();
	for (int fd = from; fd >= 0 && fd < FD_LIMIT; fd++) {
		if (!files[fd]) {
			files[fd] = file;
			close_on_exec[fd] = (flags & O_CLOEXEC) != 0;
			return fd;
		}
	}
	file_release(file);
	return -EMFILE;
}

static long open_at(int dir, const char *path, int flags, uint32_t mode)
{
	struct file *file;
	int error = 0;
	struct node *base = file_base(dir, path, &error);

	if (base)
		error = file_open(base, path, flags, mode, &file);
	return error ? error : install(file, 0, flags);
}

long sys_open(const uint64_t *a)
{
	return open_at(AT_FDCWD, (const char *)a[0], (int)a[1], (uint32_t)a[2]);
}

long sys_openat(const uint64_t *a)
{
	return open_at((int)a[0], (const char *)a[1], (int)a[2], (uint32_t)a[3]);
}

long sys_close(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);

	if (!file)
		return -EBADF;
	files[a[0]] = NULL;
	file_release(file);
	return 0;
}

/* ---- data ---- */

static ssize_t transfer(struct file *file, const struct iovec *iov, size_t count, uint64_t *offset,
			bool write)
{
	ssize_t total = 0;

	if (!write && (file->flags & O_ACCMODE) == O_WRONLY)
		return -EBADF;
	for (size_t i = 0; i < count; i++) {
		ssize_t n;

		if (write) {
			n = file_write(file, iov[i].iov_base, iov[i].iov_len, offset);
		} else {
			n = node_read(file->node, iov[i].iov_base, iov[i].iov_len, *offset);
			if (n > 0)
				*offset += (uint64_t)n;
		}
		if (n < 0)
			return total ? total : n;
		total += n;
		if ((size_t)n < iov[i].iov_len)
			break;
	}
	return total;
}

static long at_position(int fd, const struct iovec *iov, size_t count, bool write)
{
	struct file *file = file_get(fd);

	return file ? transfer(file, iov, count, &file->offset, write) : -EBADF;
}

static long at_offset(int fd, const struct iovec *iov, size_t count, uint64_t offset, bool write)
{
	struct file *file = file_get(fd);

	return file ? transfer(file, iov, count, &offset, write) : -EBADF;
}

long sys_read(const uint64_t *a)
{
	struct iovec iov = {(void *)a[1], a[2]};

	return at_position((int)a[0], &iov, 1, false);
}

long sys_write(const uint64_t *a)
{
	struct iovec iov = {(void *)a[1], a[2]};

	return at_position((int)a[0], &iov, 1, true);
}

long sys_readv(const uint64_t *a)
{
	return at_position((int)a[0], (const struct iovec *)a[1], a[2], false);
}

long sys_writev(const uint64_t *a)
{
	return at_position((int)a[0], (const struct iovec *)a[1], a[2], true);
}

long sys_pread64(const uint64_t *a)
{
	struct iovec iov = {(void *)a[1], a[2]};

	return at_offset((int)a[0], &iov, 1, a[3], false);
}

long sys_pwrite64(const uint64_t *a)
{
	struct iovec iov = {(void *)a[1], a[2]};

	return at_offset((int)a[0], &iov, 1, a[3], true);
}

long sys_preadv(const uint64_t *a)
{
	return at_offset((int)a[0], (const struct iovec *)a[1], a[2], a[3], false);
}

long sys_pwritev(const uint64_t *a)
{
	return at_offset((int)a[0], (const struct iovec *)a[1], a[2], a[3], true);
}

long sys_lseek(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);
	int64_t base;

	if (!file)
		return -EBADF;
	if (file->node->device == DEVICE_CONSOLE)
		return -ESPIPE;
	if (a[2] == SEEK_SET)
		base = 0;
	else if (a[2] == SEEK_CUR)
		base = (int64_t)file->offset;
	else if (a[2] == SEEK_END)
		base = (int64_t)file->node->size;
	else
		return -EINVAL;
	if (base + (int64_t)a[1] < 0)
		return -EINVAL;
	file->offset = (uint64_t)(base + (int64_t)a[1]);
	return (long)file->offset;
}

long sys_ftruncate(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);

	if (!file || (file->flags & O_ACCMODE) == O_RDONLY)
		return file ? -EINVAL : -EBADF;
	return node_truncate(file->node, a[1]);
}

long sys_truncate(const uint64_t *a)
{
	int error = 0;
	struct node *node = ramfs_lookup(ramfs_cwd, (const char *)a[0], &error);

	return node ? node_truncate(node, a[1]) : error;
}

long sys_fsync(const uint64_t *a)
{
	return file_get((int)a[0]) ? 0 : -EBADF;
}

/* ---- descriptors ---- */

long sys_fcntl(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);

	if (!file)
		return -EBADF;
	switch (a[1]) {
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
		file->users++;
		return install(file, (int)a[2], a[1] == F_DUPFD_CLOEXEC ? O_CLOEXEC : 0);
	case F_GETFD:
		return close_on_exec[a[0]];
	case F_SETFD:
		close_on_exec[a[0]] = a[2] & FD_CLOEXEC;
		return 0;
	case F_GETFL:
		return file->flags;
	case F_SETFL:
		file->flags = (file->flags & ~(O_APPEND | O_NONBLOCK)) |
			      ((int)a[2] & (O_APPEND | O_NONBLOCK));
		return 0;
	case F_GETLK:
		((struct flock *)a[2])->l_type = F_UNLCK; /* one process: nobody else has locks */
		return 0;
	case F_SETLK:
	case F_SETLKW:
		return 0;
	default:
		return -EINVAL;
	}
}

long sys_dup(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);

	if (!file)
		return -EBADF;
	file->users++;
	return install(file, 0, 0);
}

long sys_dup3(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);

	if (!file || a[1] >= FD_LIMIT)
		return -EBADF;
	if (a[0] == a[1])
		return -EINVAL;
	file->users++;
	if (files[a[1]])
		file_release(files[a[1]]);
	files[a[1]] = file;
	close_on_exec[a[1]] = (a[2] & O_CLOEXEC) != 0;
	return (long)a[1];
}

long sys_dup2(const uint64_t *a)
{
	const uint64_t three[3] = {a[0], a[1], 0};

	if (a[0] == a[1])
		return file_get((int)a[0]) ? (long)a[0] : -EBADF;
	return sys_dup3(three);
}

long sys_ioctl(const uint64_t *a)
{
	struct file *file = file_get((int)a[0]);

	if (!file)
		return -EBADF;
	if (file->node->device != DEVICE_CONSOLE || a[1] != TIOCGWINSZ)
		return -ENOTTY;
	*(struct winsize *)a[2] = (struct winsize){.ws_row = 24, .ws_col = 80};
	return 0;
}

/** Files are always ready; the console never has input. Without a ready one it is a sleep. */
long sys_poll(const uint64_t *a)
{
	struct pollfd *fds = (struct pollfd *)a[0];
	int timeout = (int)a[2];
	long ready = 0;
	uint64_t flags;
	int status;

	for (uint64_t i = 0; i < a[1]; i++) {
		struct file *file = fds[i].fd < 0 ? NULL : file_get(fds[i].fd);
		short can = POLLIN | POLLOUT;

		fds[i].revents = 0;
		if (fds[i].fd < 0)
			continue;
		if (file && file->node->device == DEVICE_CONSOLE)
			can = POLLOUT;
		fds[i].revents = file ? fds[i].events & can : POLLNVAL;
		ready += fds[i].revents != 0;
	}
	if (ready || !timeout)
		return ready;
	flags = irq_save();
	status = thread_wait(NULL, timeout < 0 ? NEVER : clock_ns() + (uint64_t)timeout * 1000000u,
			     true);
	irq_restore(flags);
	return status == -EINTR ? -EINTR : 0;
}
