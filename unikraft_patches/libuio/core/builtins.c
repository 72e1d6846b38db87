/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What all builtin commands share: finding one, telling its use, words for
 * errors. The commands are in builtins_file.c, builtins_system.c,
 * builtins_overlay.c and, where built in, bpf's.
 */
#include <errno.h>
#include <string.h>

#include "exec.h"

static const struct uio_builtin *const tables[] = {
	uio_builtins_file,
	uio_builtins_system,
	uio_builtins_overlay,
	uio_builtins_bpf,
};

#define TABLES (sizeof(tables) / sizeof(tables[0]))

size_t uio_builtin_name(const struct uio_builtin *b)
{
	return strcspn(b->usage, " ");
}

const char *uio_builtin_summary(const struct uio_builtin *b)
{
	return b->usage + strlen(b->usage) + 1;
}

void uio_builtin_foreach(void (*fn)(const struct uio_builtin *b, void *arg), void *arg)
{
	for (size_t i = 0; i < TABLES; i++)
		for (const struct uio_builtin *b = tables[i]; b != NULL && b->usage != NULL; b++)
			fn(b, arg);
}

struct search {
	const char *name;
	const struct uio_builtin *found;
};

static void match(const struct uio_builtin *b, void *arg)
{
	struct search *s = arg;
	size_t n = uio_builtin_name(b);

	if (strncmp(b->usage, s->name, n) == 0 && s->name[n] == '\0')
		s->found = b;
}

const struct uio_builtin *uio_builtin_find(const char *name)
{
	struct search s = {name, NULL};

	uio_builtin_foreach(match, &s);
	return s.found;
}

int uio_builtin_run(const struct uio_builtin *b, struct uio_exec *x)
{
	int n = x->argc - 1;

	if (n < b->least || (n > b->most && b->most != UIO_BUILTIN_ANY))
		return uio_builtin_usage(x);
	return b->run(x, x->argc, x->argv);
}

int uio_builtin_usage(struct uio_exec *x)
{
	const struct uio_builtin *b = uio_builtin_find(x->argv[0]);

	if (b != NULL)
		uio_exec_error(x, "usage: %s\n", b->usage);
	return 2;
}

static const struct {
	uint8_t err;
	char text[26];
} errors[] = {
	{EPERM, "not permitted"},
	{ENOENT, "no such file or directory"},
	{EINTR, "interrupted"},
	{EIO, "input or output error"},
	{EAGAIN, "try again later"},
	{ENOMEM, "out of memory"},
	{EACCES, "permission denied"},
	{EBUSY, "in use"},
	{EEXIST, "exists already"},
	{EXDEV, "on different file systems"},
	{ENODEV, "no such device"},
	{ENOTDIR, "not a directory"},
	{EISDIR, "is a directory"},
	{EINVAL, "invalid argument"},
	{EMFILE, "too many open files"},
	{EFBIG, "file too large"},
	{ENOSPC, "no space left"},
	{EROFS, "read-only"},
	{EPIPE, "nobody reads it"},
	{ENAMETOOLONG, "name too long"},
	{ENOSYS, "not supported here"},
	{ENOTEMPTY, "directory not empty"},
	{ELOOP, "too many symbolic links"},
	{EPROTO, "malformed answer"},
	{EOPNOTSUPP, "not supported"},
	{ENOTCONN, "the host is not connected"},
	{ETIMEDOUT, "timed out"},
	{EDQUOT, "quota exceeded"},
};

const char *uio_error_text(int err)
{
	if (err < 0)
		err = -err;
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].err == err)
			return errors[i].text;
	return "unknown error";
}
