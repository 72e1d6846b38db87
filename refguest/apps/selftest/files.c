/* SPDX-License-Identifier: BSD-3-Clause */
/* Files, as the application and as libuio see them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "selftest.h"

bool test_files(void)
{
	struct stat st;
	struct dirent *entry;
	char line[64] = "", big[10000];
	int entries = 0, fd;
	FILE *file;
	DIR *dir;

	CHECK(mkdir("/tmp/d", 0755) == 0);
	CHECK(mkdir("/tmp/d", 0755) == -1 && errno == EEXIST);
	CHECK(open("/tmp/d/x/y", O_RDONLY) == -1 && errno == ENOENT);
	CHECK((file = fopen("/tmp/d/a", "w")) != NULL);
	CHECK(fprintf(file, "hello %d\n", 42) == 9 && fclose(file) == 0);
	CHECK((file = fopen("/tmp/d/a", "a+")) != NULL);
	CHECK(fputs("more\n", file) >= 0 && fseek(file, 0, SEEK_SET) == 0);
	CHECK(fgets(line, sizeof(line), file) && !strcmp(line, "hello 42\n"));
	fclose(file);
	CHECK(stat("/tmp/d/a", &st) == 0 && st.st_size == 14 && S_ISREG(st.st_mode));

	CHECK((fd = open("/tmp/d/big", O_RDWR | O_CREAT | O_EXCL, 0644)) >= 0);
	memset(big, 'x', sizeof(big));
	CHECK(pwrite(fd, big, sizeof(big), 5000) == sizeof(big));
	CHECK(fstat(fd, &st) == 0 && st.st_size == 15000);
	CHECK(pread(fd, big, 5001, 0) == 5001 && big[0] == 0 && big[4999] == 0 && big[5000] == 'x');
	CHECK(ftruncate(fd, 6000) == 0 && ftruncate(fd, 9000) == 0);
	CHECK(pread(fd, big, 4, 5998) == 4 && !memcmp(big, "xx\0\0", 4));
	CHECK(unlink("/tmp/d/big") == 0 && stat("/tmp/d/big", &st) == -1);
	CHECK(pread(fd, big, 4, 5998) == 4);
	CHECK(close(fd) == 0);

	CHECK(mkdir("/tmp/d/e", 0755) == 0);
	CHECK(rename("/tmp/d", "/tmp/d/e/f") == -1 && errno == EINVAL);
	CHECK(rename("/tmp/d/a", "/tmp/d/e/b") == 0);
	CHECK(rmdir("/tmp/d/e") == -1 && errno == ENOTEMPTY);
	CHECK((dir = opendir("/tmp/d/e")) != NULL);
	while ((entry = readdir(dir)))
		entries += !strcmp(entry->d_name, "b") ? 10 : 1;
	closedir(dir);
	CHECK(entries == 12);
	CHECK(chdir("/tmp/d/e") == 0 && getcwd(line, sizeof(line)) && !strcmp(line, "/tmp/d/e"));
	CHECK(access("b", R_OK) == 0 && access("../e/b", R_OK) == 0);
	CHECK(chdir("/") == 0);
	CHECK(unlink("/tmp/d/e/b") == 0 && rmdir("/tmp/d/e") == 0 && rmdir("/tmp/d") == 0);
	return true;
}

static int count_entries(const struct uio_dirent *entry, void *arg)
{
	int *found = arg;

	if (!strcmp(entry->name, "selftest.conf") && entry->type == 8)
		++*found;
	return 0;
}

bool test_port_files(void)
{
	struct uio_stat st;
	char text[32] = "";
	int fd, found = 0;

	CHECK(uio_port_fs_stat("/etc/selftest.conf", &st) == 0 && st.size == 9);
	CHECK((st.mode & 0170000) == 0100000);
	CHECK((fd = uio_port_fs_open("/etc/selftest.conf", O_RDONLY, 0)) >= 0);
	CHECK(uio_port_fs_pread(fd, text, sizeof(text), 0) == 9 && !strcmp(text, "embedded\n"));
	CHECK(uio_port_fs_pwrite(fd, "x", 1, 0) == -EBADF);
	CHECK(uio_port_fs_close(fd) == 0 && uio_port_fs_close(fd) == -EBADF);
	CHECK(uio_port_fs_readdir("/etc", count_entries, &found) == 0 && found == 1);
	CHECK(uio_port_fs_readdir("/nowhere", count_entries, &found) == -ENOENT);
	CHECK(uio_port_fs_mkdir("/tmp/p", 0755) == 0);
	CHECK((fd = uio_port_fs_open("/tmp/p/f", O_RDWR | O_CREAT, 0600)) >= 0);
	CHECK(uio_port_fs_pwrite(fd, "abc", 3, 2) == 3 && uio_port_fs_pread(fd, text, 9, 0) == 5);
	CHECK(!memcmp(text, "\0\0abc", 5));
	CHECK(uio_port_fs_unlink("/tmp/p/f") == 0 && uio_port_fs_stat("/tmp/p/f", &st) == -ENOENT);
	CHECK(uio_port_fs_close(fd) == 0);
	return true;
}

bool test_descriptors(void)
{
	struct winsize size;
	int fd, copy;

	CHECK(isatty(1) && ioctl(1, TIOCGWINSZ, &size) == 0 && size.ws_col > 0);
	CHECK((fd = open("/dev/null", O_RDWR)) == 3);
	CHECK(!isatty(fd) && write(fd, "x", 1) == 1);
	CHECK((copy = dup(fd)) == 4 && dup2(fd, 9) == 9);
	CHECK(close(fd) == 0 && write(copy, "x", 1) == 1 && write(9, "x", 1) == 1);
	CHECK(close(copy) == 0 && close(9) == 0 && close(9) == -1 && errno == EBADF);
	CHECK(fcntl(1, F_GETFL) >= 0 && fcntl(7, F_GETFL) == -1);
	CHECK(read(0, &size, 1) == 0);
	return true;
}
