/* SPDX-License-Identifier: BSD-3-Clause */
/* SQLite as one object, for a machine without disks, dynamic loading and memory mapped files. */
#define SQLITE_THREADSAFE 1 /* an overlay is another thread */
#define SQLITE_OMIT_LOAD_EXTENSION
#define SQLITE_MAX_MMAP_SIZE     0
#define SQLITE_TEMP_STORE        3
#define SQLITE_DQS               0
#define SQLITE_DEFAULT_MEMSTATUS 1
#define HAVE_USLEEP              1

#pragma GCC diagnostic ignored "-Wunused-function"

#include <sqlite3.c>
