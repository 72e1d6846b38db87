/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Builtin commands on files: uIO-fs by default, the guest's own files as
 * `guest:/path`.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exec.h"
#include "file.h"
#include "sha256.h"

#define COPY_SIZE (64u * 1024)
#define COPY_MIN  4096u
#define DEPTH_MAX 16

#define MODE_TYPE 0170000u
#define MODE_DIR  0040000u
#define MODE_LINK 0120000u

static int fail(struct uio_exec *x, const char *path, int err)
{
	if (err != -EINTR)
		uio_exec_error(x, "%s: %s: %s\n", x->argv[0], path, uio_error_text(err));
	return 1;
}

/* Leading single-letter options: a bit for each letter's place in allowed; -1: unknown. */
static int options(int argc, char **argv, const char *allowed, unsigned int *set)
{
	int i = 1;

	*set = 0;
	for (; i < argc && argv[i][0] == '-' && argv[i][1] != '\0'; i++) {
		if (strcmp(argv[i], "--") == 0)
			return i + 1;
		for (const char *c = argv[i] + 1; *c != '\0'; c++) {
			const char *at = strchr(allowed, *c);
			if (at == NULL)
				return -1;
			*set |= 1u << (at - allowed);
		}
	}
	return i;
}

/* The arguments from number i on; without any, the one of `instead`. How many. */
static int arguments(int argc, char ***argv, int i, char **instead)
{
	if (i < argc) {
		*argv += i;
		return argc - i;
	}
	*argv = instead;
	return 1;
}

static char *join(const char *dir, const char *name)
{
	size_t a = strlen(dir), b = strlen(name);
	char *path = uio_port_alloc(a + b + 2);

	if (path == NULL)
		return NULL;
	memcpy(path, dir, a);
	if (a > 0 && dir[a - 1] != '/' && dir[a - 1] != ':')
		path[a++] = '/';
	memcpy(path + a, name, b + 1);
	return path;
}

static bool is_dir(const char *path)
{
	struct uio_stat st;

	return uio_file_stat(path, &st) == 0 && (st.mode & MODE_TYPE) == MODE_DIR;
}

/* ---- a directory's names, in order ---- */

struct entry {
	struct entry *next;
	unsigned char type;
	char name[];
};

struct entries {
	struct uio_resource hold;
	struct entry *list;
};

static void free_entries(struct entries *e)
{
	while (e->list != NULL) {
		struct entry *next = e->list->next;
		uio_port_free(e->list);
		e->list = next;
	}
}

static struct entry *merge(struct entry *a, struct entry *b)
{
	struct entry *first = NULL, **end = &first;

	while (a != NULL && b != NULL) {
		struct entry **less = strcmp(a->name, b->name) <= 0 ? &a : &b;
		*end = *less;
		*less = (*less)->next;
		end = &(*end)->next;
	}
	*end = a != NULL ? a : b;
	return first;
}

static struct entry *sort(struct entry *list)
{
	struct entry *bins[32] = {NULL};

	while (list != NULL) {
		struct entry *run = list;
		int i = 0;
		list = list->next;
		run->next = NULL;
		for (; i < 31 && bins[i] != NULL; i++) {
			run = merge(bins[i], run);
			bins[i] = NULL;
		}
		bins[i] = bins[i] != NULL ? merge(bins[i], run) : run;
	}
	for (int i = 0; i < 32; i++)
		list = merge(bins[i], list);
	return list;
}

static int add_entry(const struct uio_dirent *d, void *arg)
{
	struct entries *e = arg;
	size_t len = strlen(d->name);

	if (strcmp(d->name, ".") == 0 || strcmp(d->name, "..") == 0)
		return 0;
	struct entry *n = uio_port_alloc(sizeof(*n) + len + 1);
	if (n == NULL)
		return -ENOMEM;
	n->type = d->type;
	memcpy(n->name, d->name, len + 1);
	n->next = e->list;
	e->list = n;
	return 0;
}

static int read_entries(const char *path, struct entries *e)
{
	*e = (struct entries){.list = NULL};
	int err = uio_file_readdir(path, add_entry, e);
	e->list = sort(e->list);
	if (err < 0)
		free_entries(e);
	return err;
}

/* ---- ls ---- */

static int print_long(struct uio_exec *x, const char *path, const char *name)
{
	struct uio_stat st;
	char mode[11] = "?rwxrwxrwx";
	int err = uio_file_stat(path, &st);

	if (err < 0)
		return fail(x, path, err);
	uint32_t type = st.mode & MODE_TYPE;
	mode[0] = type == MODE_DIR ? 'd' : type == MODE_LINK ? 'l' : type == 0100000u ? '-' : '?';
	for (int i = 0; i < 9; i++)
		if (!(st.mode & 0400u >> i))
			mode[1 + i] = '-';
	/* Days to a date of the civil calendar, March being a year's first month. */
	uint64_t seconds = st.mtime_ns / 1000000000u, days = seconds / 86400 + 719468;
	unsigned int era = (unsigned int)(days / 146097), doe = (unsigned int)(days % 146097);
	unsigned int yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	unsigned int doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
	unsigned int month = mp < 10 ? mp + 3 : mp - 9;
	unsigned int minutes = (unsigned int)(seconds % 86400) / 60;

	uio_exec_printf(x, "%s %3u %10llu %04u-%02u-%02u %02u:%02u %s\n", mode,
			(unsigned int)st.nlink, (unsigned long long)st.size,
			yoe + era * 400 + (month <= 2), month, doy - (153 * mp + 2) / 5 + 1,
			minutes / 60, minutes % 60, name);
	return 0;
}

static int list_dir(struct uio_exec *x, const char *path, bool details)
{
	struct entries e;
	int status = 0, err = read_entries(path, &e);

	if (err < 0)
		return fail(x, path, err);
	for (struct entry *n = e.list; n != NULL && !uio_exec_stopping(x); n = n->next) {
		char *full = details ? join(path, n->name) : NULL;
		if (full != NULL)
			status |= print_long(x, full, n->name);
		else
			uio_exec_printf(x, "%s\n", n->name);
		uio_port_free(full);
	}
	free_entries(&e);
	return status;
}

static int run_ls(struct uio_exec *x, int argc, char **argv)
{
	static char root[] = "/";
	static char *only_root[] = {root};
	unsigned int set;
	int i = options(argc, argv, "l", &set), status = 0;

	if (i < 0)
		return uio_builtin_usage(x);
	int n = arguments(argc, &argv, i, only_root);
	for (int k = 0; k < n && !uio_exec_stopping(x); k++) {
		struct uio_stat st;
		int err = uio_file_stat(argv[k], &st);
		if (err < 0) {
			status = fail(x, argv[k], err);
		} else if ((st.mode & MODE_TYPE) == MODE_DIR) {
			if (n > 1)
				uio_exec_printf(x, "%s%s:\n", k > 0 ? "\n" : "", argv[k]);
			status |= list_dir(x, argv[k], set & 1);
		} else if (set & 1) {
			status |= print_long(x, argv[k], argv[k]);
		} else {
			uio_exec_printf(x, "%s\n", argv[k]);
		}
	}
	return status;
}

/* ---- cat and cp ---- */

static void *copy_buffer(size_t *size)
{
	for (*size = COPY_SIZE; *size >= COPY_MIN; *size /= 4) {
		void *buf = uio_port_alloc(*size);
		if (buf != NULL)
			return buf;
	}
	return NULL;
}

/* What becomes of the bytes of an input: negative ends it. */
typedef ssize_t take_fn(struct uio_exec *x, void *arg, const uint8_t *buf, size_t len);

/* At most `left` bytes from a file, or from standard input if it is NULL. */
static int pass(struct uio_exec *x, struct uio_file *from, uint64_t left, take_fn *take, void *arg)
{
	size_t size;
	uint8_t *buf = copy_buffer(&size);
	ssize_t n = buf != NULL ? 1 : -ENOMEM;

	while (n > 0 && left > 0) {
		if (size > left)
			size = (size_t)left;
		n = from != NULL ? uio_file_read(from, buf, size) : uio_exec_read(x, buf, size);
		if (n > 0) {
			left -= (uint64_t)n;
			n = uio_exec_stopping(x) ? -EINTR : take(x, arg, buf, (size_t)n);
		}
	}
	uio_port_free(buf);
	return n < 0 ? (int)n : 0;
}

/* The same from a path; `-` is standard input. */
static int pass_path(struct uio_exec *x, const char *path, uint64_t left, take_fn *take, void *arg)
{
	struct uio_file *f = NULL;
	int err = 0;

	if (strcmp(path, "-") != 0)
		err = uio_file_open(&f, path, O_RDONLY, 0);
	if (err >= 0)
		err = pass(x, f, left, take, arg);
	if (f != NULL)
		uio_file_close(f);
	return err;
}

static ssize_t take_out(struct uio_exec *x, void *arg, const uint8_t *buf, size_t len)
{
	(void)arg;
	return uio_exec_write(x, 1, buf, len);
}

static ssize_t take_into_file(struct uio_exec *x, void *arg, const uint8_t *buf, size_t len)
{
	(void)x;
	for (size_t at = 0; at < len;) {
		ssize_t n = uio_file_write(arg, buf + at, len - at);
		if (n <= 0)
			return n < 0 ? n : -EIO;
		at += (size_t)n;
	}
	return (ssize_t)len;
}

static char dash[] = "-";
static char *only_input[] = {dash};

static int run_cat(struct uio_exec *x, int argc, char **argv)
{
	int n = arguments(argc, &argv, 1, only_input), status = 0;

	for (int i = 0; i < n && !uio_exec_stopping(x); i++) {
		int err = pass_path(x, argv[i], UINT64_MAX, take_out, NULL);
		if (err == -EPIPE)
			return 1;
		if (err < 0)
			status = fail(x, argv[i], err);
	}
	return status;
}

static int copy_file(struct uio_exec *x, const char *from, const char *to)
{
	struct uio_file *in = NULL, *out = NULL;
	const char *culprit = from;
	struct uio_stat st = {.mode = 0644};
	int err = 0;

	if (strcmp(from, "-") != 0) {
		err = uio_file_stat(from, &st);
		if (err >= 0 && (st.mode & MODE_TYPE) == MODE_DIR)
			err = -EISDIR;
		if (err >= 0)
			err = uio_file_open(&in, from, O_RDONLY, 0);
	}
	if (err >= 0) {
		culprit = to;
		err = uio_file_open(&out, to, O_WRONLY | O_CREAT | O_TRUNC, st.mode & 0777);
	}
	if (err >= 0)
		err = pass(x, in, UINT64_MAX, take_into_file, out);
	if (in != NULL)
		uio_file_close(in);
	if (out != NULL) {
		int closed = uio_file_close(out);
		if (err >= 0)
			err = closed;
	}
	return err < 0 ? fail(x, culprit, err) : 0;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (slash != NULL)
		return slash + 1;
	return strncmp(path, "guest:", 6) == 0 ? path + 6 : path;
}

/* Where a file goes: into `to` if that is a directory. The caller frees it. */
static char *destination(const char *from, const char *to)
{
	return is_dir(to) ? join(to, base_name(from)) : join("", to);
}

/* cp and mv: each to the last, which is a directory if they are many. */
static int run_each(struct uio_exec *x, int argc, char **argv,
		    int (*one)(struct uio_exec *x, const char *from, const char *to))
{
	int status = 0;

	const char *to = argv[argc - 1];
	if (argc > 3 && !is_dir(to))
		return fail(x, to, -ENOTDIR);
	for (int i = 1; i < argc - 1 && !uio_exec_stopping(x); i++) {
		char *path = destination(argv[i], to);
		status |= path != NULL ? one(x, argv[i], path) : fail(x, to, -ENOMEM);
		uio_port_free(path);
	}
	return status;
}

static int run_cp(struct uio_exec *x, int argc, char **argv)
{
	return run_each(x, argc, argv, copy_file);
}

/* ---- rm, mkdir, mv, df ---- */

static int remove_path(struct uio_exec *x, const char *path, bool recursive, int depth)
{
	struct uio_stat st;
	struct entries e;
	int status = 0, err = uio_file_stat(path, &st);

	if (err < 0)
		return err;
	if ((st.mode & MODE_TYPE) != MODE_DIR)
		return uio_file_unlink(path);
	if (!recursive)
		return -EISDIR;
	if (depth >= DEPTH_MAX)
		return -ELOOP;
	err = read_entries(path, &e);
	if (err < 0)
		return err;
	for (struct entry *n = e.list; n != NULL && status >= 0; n = n->next) {
		char *full = join(path, n->name);
		status = full == NULL           ? -ENOMEM
			 : uio_exec_stopping(x) ? -EINTR
						: remove_path(x, full, true, depth + 1);
		uio_port_free(full);
	}
	free_entries(&e);
	return status < 0 ? status : uio_file_rmdir(path);
}

static int run_rm(struct uio_exec *x, int argc, char **argv)
{
	unsigned int set;
	int i = options(argc, argv, "rf", &set), status = 0;

	if (i < 0 || i >= argc)
		return uio_builtin_usage(x);
	for (; i < argc && !uio_exec_stopping(x); i++) {
		int err = remove_path(x, argv[i], set & 1, 0);
		if (err < 0 && !(err == -ENOENT && set & 2))
			status = fail(x, argv[i], err);
	}
	return status;
}

static int make_parents(const char *path)
{
	char *copy = join("", path);

	if (copy == NULL)
		return -ENOMEM;
	int err = 0;
	for (char *c = copy + 1; err >= 0 && *copy != '\0'; c++) {
		char end = *c;
		if (end != '/' && end != '\0')
			continue;
		*c = '\0';
		err = is_dir(copy) ? 0 : uio_file_mkdir(copy, 0755);
		*c = end;
		if (end == '\0')
			break;
	}
	uio_port_free(copy);
	return err;
}

static int run_mkdir(struct uio_exec *x, int argc, char **argv)
{
	unsigned int set;
	int i = options(argc, argv, "p", &set), status = 0;

	if (i < 0 || i >= argc)
		return uio_builtin_usage(x);
	for (; i < argc; i++) {
		int err = set & 1 ? make_parents(argv[i]) : uio_file_mkdir(argv[i], 0755);
		if (err < 0)
			status = fail(x, argv[i], err);
	}
	return status;
}

static int move(struct uio_exec *x, const char *from, const char *to)
{
	int err = uio_file_rename(from, to);

	if (err == -EXDEV || err == -ENOSYS || err == -EOPNOTSUPP) {
		if (copy_file(x, from, to) != 0)
			return 1;
		err = uio_file_unlink(from);
	}
	return err < 0 ? fail(x, from, err) : 0;
}

static int run_mv(struct uio_exec *x, int argc, char **argv)
{
	return run_each(x, argc, argv, move);
}

static int run_df(struct uio_exec *x, int argc, char **argv)
{
	static char host[] = "/host";
	static char *only_host[] = {host};
	int n = arguments(argc, &argv, 1, only_host), status = 0;

	uio_exec_printf(x, "%12s %12s %5s  %s\n", "KiB", "available", "used", "path");
	for (int i = 0; i < n; i++) {
		uint64_t total, available;
		int err = uio_file_space(argv[i], &total, &available);
		if (err < 0) {
			status = fail(x, argv[i], err);
			continue;
		}
		uint64_t used = total > available ? total - available : 0;
		uio_exec_printf(
			x, "%12llu %12llu %4llu%%  %s\n", (unsigned long long)(total / 1024),
			(unsigned long long)(available / 1024),
			(unsigned long long)(total >= 100 ? used / (total / 100) : 0), argv[i]);
	}
	return status;
}

/* ---- hexdump ---- */

#define DUMP_WIDTH 16u

struct dump {
	uint64_t offset;
	size_t have;
	uint8_t line[DUMP_WIDTH];
};

static void dump_line(struct uio_exec *x, struct dump *d)
{
	static const char digits[] = "0123456789abcdef";
	char hex[3 * DUMP_WIDTH + 2], text[DUMP_WIDTH + 1], *at = hex;
	size_t i;

	for (i = 0; i < DUMP_WIDTH; i++) {
		bool there = i < d->have;
		uint8_t c = d->line[i];

		*at++ = ' ';
		if (i == DUMP_WIDTH / 2)
			*at++ = ' ';
		*at++ = there ? digits[c >> 4] : ' ';
		*at++ = there ? digits[c & 15] : ' ';
		text[i] = c >= 0x20 && c < 0x7f ? (char)c : '.';
	}
	*at = '\0';
	text[d->have] = '\0';
	uio_exec_printf(x, "%08llx %s  |%s|\n", (unsigned long long)d->offset, hex, text);
	d->offset += d->have;
	d->have = 0;
}

static ssize_t take_dump(struct uio_exec *x, void *arg, const uint8_t *buf, size_t len)
{
	struct dump *d = arg;

	for (size_t i = 0; i < len && !uio_exec_stopping(x); i++) {
		d->line[d->have++] = buf[i];
		if (d->have == DUMP_WIDTH)
			dump_line(x, d);
	}
	return (ssize_t)len;
}

static int run_hexdump(struct uio_exec *x, int argc, char **argv)
{
	uint64_t left = UINT64_MAX;
	struct dump d = {0};
	int i = 1;

	if (argc > 2 && strcmp(argv[1], "-n") == 0) {
		char *end;
		left = strtoull(argv[2], &end, 0);
		if (*end != '\0' || end == argv[2])
			return uio_builtin_usage(x);
		i = 3;
	}
	if (arguments(argc, &argv, i, only_input) > 1)
		return uio_builtin_usage(x);
	int err = pass_path(x, argv[0], left, take_dump, &d);
	if (d.have > 0)
		dump_line(x, &d);
	return err < 0 ? fail(x, argv[0], err) : 0;
}

/* ---- sha256sum ---- */

static ssize_t take_digest(struct uio_exec *x, void *arg, const uint8_t *buf, size_t len)
{
	(void)x;
	uio_sha256_add(arg, buf, len);
	return (ssize_t)len;
}

static int run_sha256sum(struct uio_exec *x, int argc, char **argv)
{
	int n = arguments(argc, &argv, 1, only_input), status = 0;

	for (int i = 0; i < n && !uio_exec_stopping(x); i++) {
		uint8_t digest[UIO_SHA256_SIZE];
		struct uio_sha256 h;

		uio_sha256_begin(&h);
		int err = pass_path(x, argv[i], UINT64_MAX, take_digest, &h);
		if (err < 0) {
			status = fail(x, argv[i], err);
			continue;
		}
		uio_sha256_end(&h, digest);
		for (unsigned int k = 0; k < sizeof(digest); k++)
			uio_exec_printf(x, "%02x", digest[k]);
		uio_exec_printf(x, "  %s\n", argv[i]);
	}
	return status;
}

const struct uio_builtin uio_builtins_file[] = {
	{"ls [-l] [PATH...]\0list files", run_ls, 0, UIO_BUILTIN_ANY},
	{"cat [PATH|-]...\0print files, or standard input", run_cat, 0, UIO_BUILTIN_ANY},
	{"cp FROM... TO\0copy files; - is standard input", run_cp, 2, UIO_BUILTIN_ANY},
	{"mv FROM... TO\0rename files", run_mv, 2, UIO_BUILTIN_ANY},
	{"rm [-rf] PATH...\0remove files, with -r whole directories", run_rm, 1, UIO_BUILTIN_ANY},
	{"mkdir [-p] PATH...\0make directories, with -p their parents too", run_mkdir, 1,
	 UIO_BUILTIN_ANY},
	{"df [PATH...]\0show how full file systems are", run_df, 0, UIO_BUILTIN_ANY},
	{"sha256sum [PATH|-]...\0print SHA-256 digests of files, or of standard input",
	 run_sha256sum, 0, UIO_BUILTIN_ANY},
	{"hexdump [-n BYTES] [PATH]\0print bytes in hexadecimal", run_hexdump, 0, 3},
	{NULL, NULL, 0, 0},
};
