/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The end of a file in the guest (guest:/var/log/x) or on uIO-fs (/host/x), and
 * with -f what is written to it from then on.
 */
// uio: name = "logcat"
// uio: version = "1.0"
// uio: description = "the end of a file, and what is added to it"
// uio: usage = "[-f] [-n LINES] FILE"
#include <fcntl.h>

#include "box.h"

static const char text[] =
	"usage: logcat [-f] [-n LINES] FILE\n"
	"The end of a file of the guest (guest:/var/log/x) or of uIO-fs (/host/x).\n"
	"  -f        go on with what is added to it, until Ctrl-C; one that is begun anew is "
	"followed\n"
	"  -n LINES  so many lines of its end (10)\n"
	"Status: 0, 1 it cannot be read, 2 wrong usage.\n";

#define POLL_NS 200000000ull

static char buffer[16384];

static int fail(const char *path, long err)
{
	fprintf(stderr, "logcat: %s: %s\n", path, strerror((int)-err));
	return 1;
}

/** Where the last `lines` lines begin. */
static int64_t tail(int fd, int64_t size, long lines)
{
	int64_t end = size;
	bool last = true; /* a newline at the very end ends the last line */

	while (end > 0) {
		size_t piece = end < (int64_t)sizeof(buffer) ? (size_t)end : sizeof(buffer);
		ssize_t got;

		if (uio_seek(fd, end - (int64_t)piece, SEEK_SET) < 0)
			return 0;
		got = uio_read(fd, buffer, piece);
		if (got != (ssize_t)piece)
			return 0; /* it shrank just now: show all of it */
		for (size_t i = piece; i-- > 0; last = false) {
			if (buffer[i] == '\n' && !last && !--lines)
				return end - (int64_t)(piece - i) + 1;
		}
		end -= (int64_t)piece;
	}
	return 0;
}

/** Write all there is from `at` on; the new end, or a negative errno. */
static int64_t copy(int fd, int64_t at)
{
	int64_t where = uio_seek(fd, at, SEEK_SET);

	if (where < 0)
		return where;
	for (;;) {
		ssize_t got = uio_read(fd, buffer, sizeof(buffer));
		ssize_t put;

		if (got <= 0)
			return got < 0 ? got : at;
		put = uio_write(1, buffer, (size_t)got);
		if (put < 0)
			return put;
		at += got;
	}
}

int main(int argc, char **argv)
{
	bool follow = false;
	long lines = 10;
	int i = 1;
	int64_t at;
	int fd;

	if (box_help(argc, argv, text))
		return 0;
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "-f")) {
			follow = true;
		} else if (!strcmp(argv[i], "-n") && i + 1 < argc) {
			lines = strtol(argv[++i], NULL, 10);
		} else {
			break;
		}
	}
	if (i != argc - 1 || lines <= 0) {
		return box_usage(text);
	}
	fd = uio_open(argv[i], O_RDONLY, 0);
	if (fd < 0)
		return fail(argv[i], fd);
	at = uio_seek(fd, 0, SEEK_END);
	at = at < 0 ? at : copy(fd, tail(fd, at, lines));
	while (at >= 0 && follow && !uio_interrupted()) {
		struct uio_info info;
		int err = uio_stat(argv[i], &info);

		if (err)
			return fail(argv[i], err);
		if ((int64_t)info.size < at)
			at = 0; /* begun anew */
		if ((int64_t)info.size != at)
			at = copy(fd, at);
		else if (uio_sleep_ns(POLL_NS))
			break;
	}
	uio_close(fd);
	return at < 0 ? fail(argv[i], at) : 0;
}
