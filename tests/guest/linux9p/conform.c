/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a POSIX program expects of a file system, checked through Linux' v9fs
 * client. Each check works in a fresh directory; one line says how it went.
 * `second` is another mount of the same tree: another client of the server.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

int conform(const char *top, const char *second);

static char other[256]; /* the directory of the check, seen through the second mount */
static char why[256];

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			snprintf(why, sizeof(why), "line %d: %s (errno %d)", __LINE__, #cond,      \
				 errno);                                                           \
			return false;                                                              \
		}                                                                                  \
	} while (0)
#define FAILS(call, code) CHECK((errno = 0, (call)) < 0 && errno == (code))

static bool make(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	CHECK(fd >= 0);
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	CHECK(close(fd) == 0);
	return true;
}

static bool holds(const char *name, const char *text)
{
	char found[256] = "";
	int fd = open(name, O_RDONLY);

	CHECK(fd >= 0);
	CHECK(read(fd, found, sizeof(found) - 1) == (ssize_t)strlen(text));
	close(fd);
	CHECK(strcmp(found, text) == 0);
	return true;
}

#define MAKE(name, text)                                                                           \
	if (!make(name, text))                                                                     \
	return false
#define HOLDS(name, text)                                                                          \
	if (!holds(name, text))                                                                    \
	return false

static bool create_and_read(void)
{
	MAKE("f", "hello");
	HOLDS("f", "hello");
	FAILS(open("f", O_CREAT | O_EXCL | O_RDWR, 0644), EEXIST);
	MAKE("f", "by");
	HOLDS("f", "by");
	FAILS(open("nothing", O_RDONLY), ENOENT);
	FAILS(open("f/below", O_RDONLY), ENOTDIR);
	FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
	FAILS(open(".", O_WRONLY), EISDIR);
	return true;
}

static bool append_and_holes(void)
{
	struct stat st;
	char byte = 'x';
	int fd = open("f", O_RDWR | O_CREAT | O_APPEND, 0644);

	CHECK(fd >= 0 && write(fd, "one", 3) == 3 && write(fd, "two", 3) == 3);
	HOLDS("f", "onetwo");
	close(fd);
	fd = open("hole", O_RDWR | O_CREAT, 0644);
	CHECK(fd >= 0 && pwrite(fd, "end", 3, 1 << 20) == 3);
	CHECK(pread(fd, &byte, 1, 4096) == 1 && byte == 0);
	CHECK(fstat(fd, &st) == 0 && st.st_size == (1 << 20) + 3);
	CHECK(pread(fd, &byte, 1, 2 << 20) == 0);
	close(fd);
	return true;
}

static bool large_file(void)
{
	enum { SIZE = 4 << 20 };
	unsigned char *data = malloc(SIZE), *back = malloc(SIZE);
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	for (size_t i = 0; i < SIZE; i++)
		data[i] = (unsigned char)(i * 2654435761u >> 13);
	CHECK(fd >= 0);
	for (size_t done = 0; done < SIZE;) {
		ssize_t n = write(fd, data + done, SIZE - done);
		CHECK(n > 0);
		done += (size_t)n;
	}
	CHECK(fsync(fd) == 0 && fdatasync(fd) == 0);
	for (size_t done = 0; done < SIZE;) {
		ssize_t n = pread(fd, back + done, SIZE - done, (off_t)done);
		CHECK(n > 0);
		done += (size_t)n;
	}
	CHECK(memcmp(data, back, SIZE) == 0);
	close(fd);
	free(data);
	free(back);
	return true;
}

static bool directories(void)
{
	char name[300];
	struct stat st;

	CHECK(mkdir("d", 0755) == 0 && mkdir("d/e", 0755) == 0);
	CHECK(stat("d", &st) == 0 && S_ISDIR(st.st_mode));
	FAILS(mkdir("d", 0755), EEXIST);
	FAILS(mkdir("no/d", 0755), ENOENT);
	FAILS(rmdir("d"), ENOTEMPTY);
	FAILS(unlink("d/e"), EISDIR);
	MAKE("f", "");
	FAILS(rmdir("f"), ENOTDIR);
	CHECK(rmdir("d/e") == 0 && rmdir("d") == 0);
	memset(name, 'n', sizeof(name));
	name[256] = '\0';
	FAILS(mkdir(name, 0755), ENAMETOOLONG);
	name[255] = '\0';
	CHECK(mkdir(name, 0755) == 0 && rmdir(name) == 0);
	return true;
}

static bool renames(void)
{
	MAKE("a", "a");
	MAKE("b", "b");
	CHECK(rename("a", "b") == 0);
	HOLDS("b", "a");
	FAILS(rename("a", "c"), ENOENT);
	CHECK(mkdir("d", 0755) == 0 && mkdir("full", 0755) == 0);
	MAKE("full/f", "");
	FAILS(rename("d", "full"), ENOTEMPTY);
	FAILS(rename("b", "d"), EISDIR);
	FAILS(rename("d", "b"), ENOTDIR);
	FAILS(rename("d", "d/below"), EINVAL);
	CHECK(rename("b", "d/b") == 0);
	HOLDS("d/b", "a");
	CHECK(rename("full", "empty") == 0);
	HOLDS("empty/f", "");
	return true;
}

static bool links(void)
{
	struct stat st;
	char target[64] = "";

	MAKE("f", "text");
	CHECK(link("f", "g") == 0 && stat("g", &st) == 0 && st.st_nlink == 2);
	CHECK(unlink("f") == 0);
	HOLDS("g", "text");
	FAILS(link("nothing", "h"), ENOENT);
	CHECK(symlink("g", "s") == 0 && readlink("s", target, sizeof(target)) == 1 &&
	      target[0] == 'g');
	HOLDS("s", "text");
	CHECK(lstat("s", &st) == 0 && S_ISLNK(st.st_mode));
	CHECK(symlink("loop", "loop") == 0);
	FAILS(open("loop", O_RDONLY), ELOOP);
	FAILS(readlink("g", target, sizeof(target)), EINVAL);
	/* Where a link leads is the client's business: this is the guest's own /proc. */
	CHECK(symlink("/proc/self/status", "abs") == 0 && access("abs", R_OK) == 0);
	return true;
}

static bool unlinked_but_open(void)
{
	char back[8] = "";
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	CHECK(fd >= 0 && write(fd, "before", 6) == 6);
	CHECK(unlink("f") == 0);
	FAILS(access("f", F_OK), ENOENT);
	CHECK(pwrite(fd, "after!", 6, 0) == 6 && pread(fd, back, 6, 0) == 6);
	CHECK(memcmp(back, "after!", 6) == 0);
	CHECK(close(fd) == 0);
	return true;
}

static bool attributes(void)
{
	struct stat st;
	struct timespec times[2] = {{.tv_sec = 1000000000, .tv_nsec = 123456789},
				    {.tv_sec = 1100000000, .tv_nsec = 987654321}};

	MAKE("f", "0123456789");
	CHECK(chmod("f", 0600) == 0 && stat("f", &st) == 0 && (st.st_mode & 07777) == 0600);
	CHECK(utimensat(AT_FDCWD, "f", times, 0) == 0 && stat("f", &st) == 0);
	/* Linux' client cuts times to seconds before it sends them (s_time_gran). */
	CHECK(st.st_mtim.tv_sec == 1100000000 && st.st_atim.tv_sec == 1000000000);
	CHECK(truncate("f", 3) == 0);
	HOLDS("f", "012");
	CHECK(truncate("f", 5000) == 0 && stat("f", &st) == 0 && st.st_size == 5000);
	CHECK(st.st_mtim.tv_sec != 1100000000);
	FAILS(truncate("f", -1), EINVAL);
	return true;
}

static bool listing(void)
{
	enum { COUNT = 500 };
	static unsigned char seen[COUNT];
	char name[300];
	int found = 0;
	DIR *dir;
	struct dirent *entry;

	memset(seen, 0, sizeof(seen));
	CHECK(mkdir("d", 0755) == 0);
	for (int i = 0; i < COUNT; i++) {
		snprintf(name, sizeof(name), "d/a-rather-long-name-%d", i);
		MAKE(name, "");
	}
	dir = opendir("d");
	CHECK(dir != NULL);
	while ((entry = readdir(dir)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		CHECK(entry->d_type == DT_REG);
		seen[atoi(entry->d_name + strlen("a-rather-long-name-"))]++;
		/* Removing what was listed must not hide what was not yet. */
		snprintf(name, sizeof(name), "d/%s", entry->d_name);
		CHECK(unlink(name) == 0);
		found++;
	}
	closedir(dir);
	CHECK(found == COUNT);
	for (int i = 0; i < COUNT; i++)
		CHECK(seen[i] == 1);
	CHECK(rmdir("d") == 0);
	return true;
}

static bool xattrs(void)
{
	char value[64] = "", names[256];

	MAKE("f", "");
	CHECK(setxattr("f", "user.one", "value", 5, 0) == 0);
	CHECK(getxattr("f", "user.one", value, sizeof(value)) == 5 &&
	      memcmp(value, "value", 5) == 0);
	FAILS(getxattr("f", "user.two", value, sizeof(value)), ENODATA);
	FAILS(getxattr("f", "user.one", value, 2), ERANGE);
	CHECK(listxattr("f", names, sizeof(names)) == 9 && strcmp(names, "user.one") == 0);
	FAILS(setxattr("f", "user.one", "v", 1, XATTR_CREATE), EEXIST);
	FAILS(setxattr("f", "user.two", "v", 1, XATTR_REPLACE), ENODATA);
	CHECK(removexattr("f", "user.one") == 0 && listxattr("f", names, sizeof(names)) == 0);
	return true;
}

static bool special_files(void)
{
	struct stat st;

	CHECK(mkfifo("fifo", 0644) == 0 && stat("fifo", &st) == 0 && S_ISFIFO(st.st_mode));
	FAILS(mknod("null", S_IFCHR | 0666, 0x103), EPERM);
	FAILS(mknod("disk", S_IFBLK | 0666, 0x800), EPERM);
	CHECK(access("null", F_OK) < 0 && access("disk", F_OK) < 0);
	return true;
}

static bool lock(const char *path, int type, int command, int *fd)
{
	struct flock want = {
		.l_type = (short)type, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};

	*fd = open(path, O_RDWR);
	return *fd >= 0 && fcntl(*fd, command, &want) == 0;
}

static bool locks_between_clients(void)
{
	struct flock asked = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 100};
	char path[300];
	int one, two, status;
	pid_t child;

	MAKE("f", "locked file, long enough");
	snprintf(path, sizeof(path), "%s/f", other);
	CHECK(lock("f", F_WRLCK, F_SETLK, &one));
	CHECK(!lock(path, F_RDLCK, F_SETLK, &two) && (errno == EAGAIN || errno == EACCES));
	CHECK(fcntl(two, F_GETLK, &asked) == 0 && asked.l_type == F_WRLCK && asked.l_start == 10 &&
	      asked.l_len == 5);
	child = fork();
	if (child == 0)
		_exit(lock(path, F_WRLCK, F_SETLKW, &two) ? 7 : 1);
	usleep(300000);
	CHECK(waitpid(child, &status, WNOHANG) == 0);
	close(one);
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
	close(two);
	return true;
}

static bool seen_by_the_other_client(void)
{
	char path[300];

	MAKE("f", "first");
	snprintf(path, sizeof(path), "%s/f", other);
	HOLDS(path, "first");
	MAKE(path, "longer than before");
	HOLDS("f", "longer than before");
	return true;
}

static bool no_way_out(void)
{
	struct stat top, up;

	/* The root's parent is the guest's own root: the server is never asked for what is above
	 * its export. */
	CHECK(symlink("../../../../../../proc", "up") == 0);
	CHECK(stat("up/self", &up) == 0 && stat("/proc/self", &top) == 0 &&
	      up.st_dev == top.st_dev);
	return true;
}

static bool at_once(void)
{
	enum { WRITERS = 4 };
	int status;

	for (int i = 0; i < WRITERS; i++) {
		if (fork() == 0) {
			char name[16], text[64];

			for (int n = 0; n < 50; n++) {
				snprintf(name, sizeof(name), "w%d-%d", i, n % 5);
				snprintf(text, sizeof(text), "writer %d round %d", i, n);
				if (!make(name, text) || !holds(name, text))
					_exit(1);
			}
			_exit(0);
		}
	}
	for (int i = 0; i < WRITERS; i++)
		CHECK(wait(&status) > 0 && status == 0);
	return true;
}

static bool space(void)
{
	struct statfs st;

	CHECK(statfs(".", &st) == 0 && st.f_type == 0x01021997 && st.f_blocks > 0 &&
	      st.f_namelen == 255);
	return true;
}

static bool mapped(void)
{
	char *map;
	int fd;

	MAKE("f", "mapped text");
	fd = open("f", O_RDONLY);
	map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK(map != MAP_FAILED && strcmp(map, "mapped text") == 0);
	munmap(map, 4096);
	close(fd);
	return true;
}

#define ROW(check)                                                                                 \
	{                                                                                          \
#check, check                                                                      \
	}
static const struct {
	const char *name;
	bool (*run)(void);
} checks[] = {
	ROW(create_and_read),
	ROW(append_and_holes),
	ROW(large_file),
	ROW(directories),
	ROW(renames),
	ROW(links),
	ROW(unlinked_but_open),
	ROW(attributes),
	ROW(listing),
	ROW(xattrs),
	ROW(special_files),
	ROW(locks_between_clients),
	ROW(seen_by_the_other_client),
	ROW(no_way_out),
	ROW(at_once),
	ROW(space),
	ROW(mapped),
};

/* Run all; how many there were. */
int conform(const char *top, const char *second)
{
	int count = (int)(sizeof(checks) / sizeof(checks[0]));

	for (int i = 0; i < count; i++) {
		if (chdir(top) < 0 || mkdir(checks[i].name, 0755) < 0 ||
		    chdir(checks[i].name) < 0) {
			printf("not ok %s: no directory for it (errno %d)\n", checks[i].name,
			       errno);
			continue;
		}
		snprintf(other, sizeof(other), "%s/%s", second, checks[i].name);
		if (checks[i].run())
			printf("ok %s\n", checks[i].name);
		else
			printf("not ok %s: %s\n", checks[i].name, why);
	}
	if (chdir("/") < 0)
		return -1;
	return count;
}
