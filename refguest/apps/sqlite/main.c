/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An application with its data in memory alone: a SQLite database to which it adds rows all the
 * time, in transactions. It knows nothing of uIO; overlays find the database in `db`.
 *
 * Arguments: [ROWS to begin with (1000)] [MILLISECONDS between transactions (20)]
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <sqlite3.h>

#define ROWS_AT_ONCE 10

sqlite3 *db;
long rows; /* that are committed */

static void must(int status, const char *what)
{
	if (status == SQLITE_OK || status == SQLITE_DONE)
		return;
	printf("sqlite: %s: %s\n", what, sqlite3_errmsg(db));
	exit(1);
}

static void run(const char *sql)
{
	must(sqlite3_exec(db, sql, NULL, NULL, NULL), sql);
}

/** Each row says how many there are, so that a copy tells whether it is whole. */
static void insert(sqlite3_stmt *statement, long n)
{
	static const char words[] = "the quick brown fox jumps over the lazy dog";

	run("BEGIN");
	for (long i = 0; i < n; i++) {
		must(sqlite3_bind_int64(statement, 1, rows + i + 1), "bind");
		must(sqlite3_bind_text(statement, 2, words,
				       (int)((rows + i) % (sizeof(words) - 1)) + 1, SQLITE_STATIC),
		     "bind");
		must(sqlite3_step(statement), "insert");
		must(sqlite3_reset(statement), "reset");
	}
	run("COMMIT");
	rows += n;
}

int main(int argc, char **argv)
{
	long first = argc > 1 ? strtol(argv[1], NULL, 10) : 1000;
	long pause_ms = argc > 2 ? strtol(argv[2], NULL, 10) : 20;
	struct timespec pause = {pause_ms / 1000, pause_ms % 1000 * 1000000};
	sqlite3_stmt *statement;
	time_t said = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	must(sqlite3_open(":memory:", &db), "open");
	run("CREATE TABLE log(id INTEGER PRIMARY KEY, n INTEGER NOT NULL, word TEXT NOT NULL)");
	run("CREATE INDEX by_word ON log(word)");
	must(sqlite3_prepare_v2(db, "INSERT INTO log(n, word) VALUES(?, ?)", -1, &statement, NULL),
	     "prepare");
	insert(statement, first);
	printf("sqlite: %s, %ld rows to begin with\n", sqlite3_libversion(), rows);
	for (;;) {
		struct timespec now;

		insert(statement, ROWS_AT_ONCE);
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec != said) {
			said = now.tv_sec;
			printf("sqlite: %ld rows\n", rows);
		}
		nanosleep(&pause, NULL);
	}
}
