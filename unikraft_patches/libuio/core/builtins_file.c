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

static void print_date(struct uio_exec *x, uint64_t ns)
{
	/* Days to a date of the civil calendar, March being a year's first month. */
	uint64_t seconds = ns / 1000000000u, days = seconds / 86400 + 719468;
	uint64_t era = days / 146097, doe = days % 146097;
	uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
	unsigned int month = (unsigned int)(mp < 10 ? mp + 3 : mp - 9);

	uio_exec_printf(x, "%04u-%02u-%02u %02u:%02u",
			(unsigned int)(yoe + era * 400 + (month <= 2)), month,
			(unsigned int)(doy - (153 * mp + 2) / 5 + 1),
			(unsigned int)(seconds / 3600 % 24), (unsigned int)(seconds / 60 % 60));
}

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
	uio_exec_printf(x, "%s %3u %10llu ", mode, (unsigned int)st.nlink,
			(unsigned long long)st.size);
	print_date(x, st.mtime_ns);
	uio_exec_printf(x, " %s\n", name);
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
	char *only_root[] = {root};
	unsigned int set;
	int i = options(argc, argv, "l", &set), status = 0;

	if (i < 0)
		return uio_builtin_usage(x, "ls");
	char **paths = i < argc ? argv + i : only_root;
	int n = i < argc ? argc - i : 1;
	for (int k = 0; k < n && !uio_exec_stopping(x); k++) {
		struct uio_stat st;
		int err = uio_file_stat(paths[k], &st);
		if (err < 0) {
			status = fail(x, paths[k], err);
		} else if ((st.mode & MODE_TYPE) == MODE_DIR) {
			if (n > 1)
				uio_exec_printf(x, "%s%s:\n", k > 0 ? "\n" : "", paths[k]);
			status |= list_dir(x, paths[k], set & 1);
		} else if (set & 1) {
			status |= print_long(x, paths[k], paths[k]);
		} else {
			uio_exec_printf(x, "%s\n", paths[k]);
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

/* From a file, or standard input if it is NULL, to a file, or standard output. */
static int copy(struct uio_exec *x, struct uio_file *from, struct uio_file *to)
{
	size_t size;
	char *buf = copy_buffer(&size);
	ssize_t n = buf != NULL ? 1 : -ENOMEM;

	while (n > 0) {
		n = from != NULL ? uio_file_read(from, buf, size) : uio_exec_read(x, buf, size);
		if (n > 0 && uio_exec_stopping(x))
			n = -EINTR;
		if (n <= 0)
			break;
		if (to == NULL) {
			n = uio_exec_write(x, 1, buf, (size_t)n);
			continue;
		}
		for (ssize_t at = 0, w; at < n; at += w) {
			w = uio_file_write(to, buf + at, (size_t)(n - at));
			if (w == 0)
				w = -EIO;
			if (w < 0) {
				n = w;
				break;
			}
		}
	}
	uio_port_free(buf);
	return (int)n;
}

static int run_cat(struct uio_exec *x, int argc, char **argv)
{
	static char input[] = "-";
	char *only_input[] = {input};
	char **paths = argc > 1 ? argv + 1 : only_input;
	int n = argc > 1 ? argc - 1 : 1, status = 0;

	for (int i = 0; i < n && !uio_exec_stopping(x); i++) {
		struct uio_file *f = NULL;
		int err = 0;
		if (strcmp(paths[i], "-") != 0)
			err = uio_file_open(&f, paths[i], O_RDONLY, 0);
		if (err >= 0)
			err = copy(x, f, NULL);
		if (f != NULL)
			uio_file_close(f);
		if (err == -EPIPE)
			return 1;
		if (err < 0)
			status = fail(x, paths[i], err);
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
		err = copy(x, in, out);
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

static int run_cp(struct uio_exec *x, int argc, char **argv)
{
	int status = 0;

	if (argc < 3)
		return uio_builtin_usage(x, "cp");
	const char *to = argv[argc - 1];
	if (argc > 3 && !is_dir(to))
		return fail(x, to, -ENOTDIR);
	for (int i = 1; i < argc - 1 && !uio_exec_stopping(x); i++) {
		char *path = destination(argv[i], to);
		status |= path != NULL ? copy_file(x, argv[i], path) : fail(x, to, -ENOMEM);
		uio_port_free(path);
	}
	return status;
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
		return uio_builtin_usage(x, "rm");
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
		return uio_builtin_usage(x, "mkdir");
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
	int status = 0;

	if (argc < 3)
		return uio_builtin_usage(x, "mv");
	const char *to = argv[argc - 1];
	if (argc > 3 && !is_dir(to))
		return fail(x, to, -ENOTDIR);
	for (int i = 1; i < argc - 1 && !uio_exec_stopping(x); i++) {
		char *path = destination(argv[i], to);
		status |= path != NULL ? move(x, argv[i], path) : fail(x, to, -ENOMEM);
		uio_port_free(path);
	}
	return status;
}

static int run_df(struct uio_exec *x, int argc, char **argv)
{
	static char host[] = "/host";
	char *only_host[] = {host};
	char **paths = argc > 1 ? argv + 1 : only_host;
	int n = argc > 1 ? argc - 1 : 1, status = 0;

	uio_exec_printf(x, "%12s %12s %5s  %s\n", "KiB", "available", "used", "path");
	for (int i = 0; i < n; i++) {
		uint64_t total, available;
		int err = uio_file_space(paths[i], &total, &available);
		if (err < 0) {
			status = fail(x, paths[i], err);
			continue;
		}
		uint64_t used = total > available ? total - available : 0;
		uio_exec_printf(
			x, "%12llu %12llu %4llu%%  %s\n", (unsigned long long)(total / 1024),
			(unsigned long long)(available / 1024),
			(unsigned long long)(total >= 100 ? used / (total / 100) : 0), paths[i]);
	}
	return status;
}

/* ---- hexdump ---- */

static void dump_line(struct uio_exec *x, uint64_t offset, const unsigned char *p, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	char line[80];
	int at = snprintf(line, sizeof(line), "%08llx ", (unsigned long long)offset);

	for (size_t i = 0; i < 16; i++) {
		line[at++] = ' ';
		if (i == 8)
			line[at++] = ' ';
		line[at++] = i < len ? digits[p[i] >> 4] : ' ';
		line[at++] = i < len ? digits[p[i] & 15] : ' ';
	}
	line[at++] = ' ';
	line[at++] = ' ';
	line[at++] = '|';
	for (size_t i = 0; i < len; i++)
		line[at++] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '.';
	line[at] = '\0';
	uio_exec_printf(x, "%s|\n", line);
}

static int run_hexdump(struct uio_exec *x, int argc, char **argv)
{
	uint64_t left = UINT64_MAX, offset = 0;
	struct uio_file *f = NULL;
	unsigned char line[16];
	size_t have = 0;
	int i = 1;

	if (i + 1 < argc && strcmp(argv[i], "-n") == 0) {
		char *end;
		left = strtoull(argv[i + 1], &end, 0);
		if (*end != '\0' || end == argv[i + 1])
			return uio_builtin_usage(x, "hexdump");
		i += 2;
	}
	if (argc > i + 1)
		return uio_builtin_usage(x, "hexdump");
	const char *path = i < argc ? argv[i] : "-";
	if (strcmp(path, "-") != 0) {
		int err = uio_file_open(&f, path, O_RDONLY, 0);
		if (err < 0)
			return fail(x, path, err);
	}
	ssize_t n = 0;
	size_t size;
	unsigned char *buf = copy_buffer(&size);
	if (buf == NULL)
		n = -ENOMEM;
	while (n >= 0 && left > 0) {
		size_t want = size < left ? size : (size_t)left;
		n = f != NULL ? uio_file_read(f, buf, want) : uio_exec_read(x, buf, want);
		if (n > 0 && uio_exec_stopping(x))
			n = -EINTR;
		if (n <= 0)
			break;
		left -= (uint64_t)n;
		for (ssize_t k = 0; k < n && !uio_exec_stopping(x); k++) {
			line[have++] = buf[k];
			if (have == sizeof(line)) {
				dump_line(x, offset, line, have);
				offset += have;
				have = 0;
			}
		}
	}
	if (have > 0)
		dump_line(x, offset, line, have);
	uio_port_free(buf);
	if (f != NULL)
		uio_file_close(f);
	return n < 0 ? fail(x, path, (int)n) : 0;
}

/* ---- sha256sum ---- */

static int digest_file(struct uio_exec *x, struct uio_file *f, uint8_t digest[UIO_SHA256_SIZE])
{
	struct uio_sha256 h;
	size_t size;
	char *buf = copy_buffer(&size);
	ssize_t n = buf != NULL ? 1 : -ENOMEM;

	uio_sha256_begin(&h);
	while (n > 0) {
		n = f != NULL ? uio_file_read(f, buf, size) : uio_exec_read(x, buf, size);
		if (n > 0)
			uio_sha256_add(&h, buf, (size_t)n);
		if (uio_exec_stopping(x))
			n = -EINTR;
	}
	uio_port_free(buf);
	uio_sha256_end(&h, digest);
	return (int)n;
}

static int run_sha256sum(struct uio_exec *x, int argc, char **argv)
{
	static char input[] = "-";
	char *only_input[] = {input};
	char **paths = argc > 1 ? argv + 1 : only_input;
	int n = argc > 1 ? argc - 1 : 1, status = 0;

	for (int i = 0; i < n && !uio_exec_stopping(x); i++) {
		struct uio_file *f = NULL;
		uint8_t digest[UIO_SHA256_SIZE];
		int err = 0;
		if (strcmp(paths[i], "-") != 0)
			err = uio_file_open(&f, paths[i], O_RDONLY, 0);
		if (err >= 0)
			err = digest_file(x, f, digest);
		if (f != NULL)
			uio_file_close(f);
		if (err < 0) {
			status = fail(x, paths[i], err);
			continue;
		}
		for (unsigned int k = 0; k < sizeof(digest); k++)
			uio_exec_printf(x, "%02x", digest[k]);
		uio_exec_printf(x, "  %s\n", paths[i]);
	}
	return status;
}

const struct uio_builtin uio_builtins_file[] = {
	{"ls", "list files", "ls [-l] [PATH...]", run_ls},
	{"cat", "print files, or standard input", "cat [PATH|-]...", run_cat},
	{"cp", "copy files; - is standard input", "cp FROM... TO", run_cp},
	{"mv", "rename files", "mv FROM... TO", run_mv},
	{"rm", "remove files, with -r whole directories", "rm [-rf] PATH...", run_rm},
	{"mkdir", "make directories, with -p their parents too", "mkdir [-p] PATH...", run_mkdir},
	{"df", "show how full file systems are", "df [PATH...]", run_df},
	{"sha256sum", "print SHA-256 digests of files, or of standard input",
	 "sha256sum [PATH|-]...", run_sha256sum},
	{"hexdump", "print bytes in hexadecimal", "hexdump [-n BYTES] [PATH]", run_hexdump},
	{NULL, NULL, NULL, NULL},
};
