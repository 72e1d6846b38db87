# SPDX-License-Identifier: BSD-3-Clause
# SQLite's amalgamation is no part of this repository: it comes out of the npm package that carries it, into the build
# directory, once.
SQLITE_PACKAGE := better-sqlite3@12.11.1
SQLITE_SHA256  := 60d2f39a3726cd6b9021da6f4e868608d66fbb6528a9f513dc8ffcc640493422
SQLITE_DIR     := $(O)/sqlite-source

.DEFAULT_GOAL := all

# As system headers, because its warnings are not ours; -O1, because it is large.
APP_CFLAGS   += -O1 -isystem $(SQLITE_DIR)
# What an overlay may want of SQLite, though the application does not.
KEEP_SYMBOLS += sqlite3_backup_init sqlite3_backup_step sqlite3_backup_finish sqlite3_backup_remaining \
                sqlite3_backup_pagecount sqlite3_serialize sqlite3_open_v2 sqlite3_close sqlite3_errmsg sqlite3_errcode \
                sqlite3_errstr sqlite3_exec sqlite3_free sqlite3_prepare_v2 sqlite3_step sqlite3_finalize \
                sqlite3_column_text sqlite3_column_int64 sqlite3_column_count sqlite3_column_name sqlite3_libversion

$(SQLITE_DIR)/sqlite3.c:
	@command -v npm >/dev/null || { echo "refguest: npm is missing, and SQLite's source comes by it: apt-get install npm" >&2; exit 1; }
	@mkdir -p $(SQLITE_DIR)
	@cd $(SQLITE_DIR) && npm pack --silent $(SQLITE_PACKAGE) >/dev/null || \
	  { echo "refguest: npm pack $(SQLITE_PACKAGE) failed; see above (is the registry reachable?)" >&2; exit 1; }
	@cd $(SQLITE_DIR) && tar -xzf better-sqlite3-*.tgz --strip-components=3 package/deps/sqlite3/sqlite3.c package/deps/sqlite3/sqlite3.h
	@cd $(SQLITE_DIR) && rm -f better-sqlite3-*.tgz && { echo "$(SQLITE_SHA256)  sqlite3.c" | sha256sum --check --quiet || \
	  { rm -f sqlite3.c; echo "refguest: sqlite3.c of $(SQLITE_PACKAGE) is not the expected one" >&2; exit 1; }; }
	@touch $@

$(work)/app/amalgamation.c.o $(work)/app/main.c.o: $(SQLITE_DIR)/sqlite3.c
