/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copies a SQLite database that the application has open, such as one in memory, to a file, while
 * the application goes on using it: by SQLite's own online backup, a few pages at a time, into a
 * second database in memory, whose bytes are then written. What the application commits meanwhile
 * is in the copy.
 */
// uio: name = "sqlite_backup"
// uio: version = "1.0"
// uio: description = "back up a SQLite database of the application, also one in memory, to a file"
// uio: usage = "[-d VARIABLE] [-n PAGES] FILE"
// uio: help = """
// uio: -d VARIABLE  the application's `sqlite3 *` (db)
// uio: -n PAGES     so many at a time, between which the application has its turn (64)
// uio: """
#include <fcntl.h>

#include "box.h"

static const char text[] =
	"usage: sqlite_backup [-d VARIABLE] [-n PAGES] FILE\n"
	"Copy a SQLite database that the application has open to FILE, such as /host/app.db.\n"
	"  -d VARIABLE  the application's global variable of type sqlite3 * (db)\n"
	"  -n PAGES     so many at a time, between which the application has its turn (64); more "
	"and\n"
	"               more where commits make SQLite begin anew, as those of databases in memory "
	"do\n"
	"The guest needs free memory of the database's size meanwhile. The application's SQLite "
	"must\n"
	"be thread-safe (SQLITE_THREADSAFE=1), and have the backup interface.\n"
	"Status: 0, 1 there is no copy, 2 wrong usage.\n";

/* SQLite's interface. Weak, because other applications have none: then they are NULL. */
typedef struct sqlite3 sqlite3;
typedef struct sqlite3_backup sqlite3_backup;
#define WEAK __attribute__((weak))
extern int sqlite3_open_v2(const char *name, sqlite3 **out, int flags, const char *vfs) WEAK;
extern int sqlite3_close(sqlite3 *database) WEAK;
extern const char *sqlite3_errmsg(sqlite3 *database) WEAK;
extern int sqlite3_threadsafe(void) WEAK;
extern sqlite3_backup *sqlite3_backup_init(sqlite3 *to, const char *to_name, sqlite3 *from,
					   const char *from_name) WEAK;
extern int sqlite3_backup_step(sqlite3_backup *backup, int pages) WEAK;
extern int sqlite3_backup_remaining(sqlite3_backup *backup) WEAK;
extern int sqlite3_backup_finish(sqlite3_backup *backup) WEAK;
extern unsigned char *sqlite3_serialize(sqlite3 *database, const char *schema, long long *size,
					unsigned int flags) WEAK;

#define OK               0
#define BUSY             5
#define LOCKED           6
#define DONE             101
#define OPEN_READWRITE   2
#define OPEN_CREATE      4
#define SERIALIZE_NOCOPY 1u
#define PAGES_MAX        1000000
#define PAUSE_NS         1000000u
#define CHUNK            65536u

static int copy(sqlite3 *from, sqlite3 *to, int pages)
{
	sqlite3_backup *backup = sqlite3_backup_init(to, "main", from, "main");
	int status = backup ? OK : 1, left = 0;

	while (status == OK || status == BUSY || status == LOCKED) {
		int before = left;

		status = sqlite3_backup_step(backup, pages);
		left = sqlite3_backup_remaining(backup);
		/* A commit makes SQLite start anew if the database is in memory: take more at a
		 * time, until it is done between two commits. */
		if (before && left >= before && pages < PAGES_MAX)
			pages *= 2;
		if (uio_interrupted())
			break; /* after it was asked, uIO leaves the end to us: nothing may stay
				  open */
		if (status != DONE)
			uio_sleep_ns(PAUSE_NS);
	}
	if (backup && sqlite3_backup_finish(backup) == OK && status == DONE)
		return 0;
	if (uio_interrupted())
		fprintf(stderr, "sqlite_backup: interrupted\n");
	else
		fprintf(stderr, "sqlite_backup: %s\n", sqlite3_errmsg(to));
	return 1;
}

static int fail(const char *path, long error)
{
	fprintf(stderr, "sqlite_backup: %s: %s\n", path, strerror((int)-error));
	return 1;
}

/** All of it, or no file. */
static int save(const char *path, const unsigned char *data, uint64_t size)
{
	char temporary[512];
	int fd, status = 0;

	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.part", path) >= sizeof(temporary))
		return fail(path, -36); /* ENAMETOOLONG */
	fd = uio_open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		return fail(temporary, fd);
	for (uint64_t at = 0; at < size && !status;) {
		size_t step = size - at < CHUNK ? size - at : CHUNK;
		ssize_t n = uio_write(fd, data + at, step);

		if (n < 0)
			status = fail(temporary, n);
		else if (uio_interrupted())
			status = 1;
		at += step;
	}
	if (!status) {
		int error = uio_fsync(fd);

		uio_close(fd);
		error = error ? error : uio_rename(temporary, path);
		if (error)
			status = fail(path, error);
	} else {
		uio_close(fd);
	}
	if (status)
		uio_unlink(temporary);
	return status;
}

static int backup(sqlite3 *from, const char *path, int pages)
{
	long long size = 0;
	sqlite3 *to = NULL;
	unsigned char *data;
	int status;

	/* The file system "memdb" keeps a database in one piece. */
	if (sqlite3_open_v2("uio-backup", &to, OPEN_READWRITE | OPEN_CREATE, "memdb") != OK) {
		fprintf(stderr, "sqlite_backup: no database in memory can be opened: %s\n",
			to ? sqlite3_errmsg(to) : "no memory");
		status = 1;
	} else {
		status = copy(from, to, pages);
	}
	if (!status) {
		data = sqlite3_serialize(to, "main", &size, SERIALIZE_NOCOPY);
		if (data && size > 0) {
			status = save(path, data, (uint64_t)size);
		} else {
			fprintf(stderr, "sqlite_backup: the copy is empty\n");
			status = 1;
		}
	}
	if (to)
		sqlite3_close(to);
	if (!status)
		printf("%s: %lld bytes\n", path, size);
	return status;
}

int main(int argc, char **argv)
{
	const char *variable = "db";
	struct place place;
	uint64_t pages = 64, handle;
	int i = 1;

	if (box_help(argc, argv, text))
		return 0;
	for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
		if (!strcmp(argv[i], "-d"))
			variable = argv[i + 1];
		else if (strcmp(argv[i], "-n") != 0 || !box_number(argv[i + 1], &pages) || !pages ||
			 pages > PAGES_MAX)
			return box_usage(text);
	}
	if (i + 1 != argc || argv[i][0] == '-')
		return box_usage(text);
	if (!sqlite3_backup_init || !sqlite3_backup_step || !sqlite3_backup_remaining ||
	    !sqlite3_backup_finish || !sqlite3_serialize || !sqlite3_open_v2 || !sqlite3_close ||
	    !sqlite3_errmsg) {
		fprintf(stderr,
			"sqlite_backup: the application has no SQLite, or one without backups\n");
		return 1;
	}
	if (sqlite3_threadsafe && !sqlite3_threadsafe()) {
		fprintf(stderr, "sqlite_backup: the application's SQLite is not thread-safe\n");
		return 1;
	}
	if (!box_place("sqlite_backup", variable, &place))
		return 1;
	if (uio_peek(&handle, (const void *)place.address, 8) != 8 || !handle) {
		fprintf(stderr, "sqlite_backup: %s is no open database\n", variable);
		return 1;
	}
	(void)uio_interrupted(); /* from here on we end by ourselves, with nothing left open */
	return backup((sqlite3 *)handle, argv[i], (int)pages);
}
