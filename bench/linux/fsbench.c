/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The Linux guest's side of the file system measurements.
 *
 *   fsbench mount PORT WHERE MSIZE        mount 9P from the virtserialport of that name
 *   fsbench seq FILE CHUNK BYTES JOBS     read so many bytes, each job its part of them
 *   fsbench random FILE CHUNK COUNT JOBS  read chunks anywhere
 *   fsbench stat DIRECTORY COUNT          stat file-0, file-1, … in it
 *   fsbench open DIRECTORY COUNT          open and close them
 *   fsbench readdir DIRECTORY             list it
 *
 * All but mount drop the kernel's caches first and print the nanoseconds it took. The kernel
 * refuses a port itself as transport of 9P (it has no read_iter), so a mount has one end of a
 * socket pair and two relays have the other; QEMU's virtio-9p needs none, which is part of the
 * comparison.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "fsbench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_port(const char *wanted)
{
	DIR *ports = opendir("/sys/class/virtio-ports");
	struct dirent *entry;

	while (ports && (entry = readdir(ports)) != NULL) {
		char path[512], name[64] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fscanf(file, "%63s", name) != 1)
			name[0] = '\0';
		fclose(file);
		if (strcmp(name, wanted) == 0) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			closedir(ports);
			return open(path, O_RDWR | O_CLOEXEC);
		}
	}
	errno = ENODEV;
	return -1;
}

static void relay(int from, int to)
{
	static char buffer[1 << 20];
	ssize_t got;

	for (int fd = 0; fd < 3; fd++)
		close(fd);
	setsid();
	while ((got = read(from, buffer, sizeof(buffer))) > 0) {
		for (ssize_t done = 0; done < got;) {
			ssize_t n = write(to, buffer + done, (size_t)(got - done));

			if (n <= 0)
				_exit(1);
			done += n;
		}
	}
	_exit(0);
}

static void mount_port(const char *port, const char *where, const char *msize)
{
	int ends[2], size = 1 << 20, fd = open_port(port);
	char options[128];

	if (fd < 0)
		fail(port);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
		fail("socketpair");
	for (int i = 0; i < 2; i++)
		setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (fork() == 0)
		relay(fd, ends[1]);
	if (fork() == 0)
		relay(ends[1], fd);
	close(ends[1]);
	snprintf(options, sizeof(options),
		 "trans=fd,rfdno=%d,wfdno=%d,version=9p2000.L,msize=%s,access=any", ends[0],
		 ends[0], msize);
	mkdir(where, 0755);
	if (mount("uio", where, "9p", MS_RDONLY, options) < 0)
		fail(where);
}

static void drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	if (fd < 0 || write(fd, "3", 1) != 1)
		fail("drop_caches");
	close(fd);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sequential(const char *path, size_t chunk, size_t from, size_t bytes)
{
	char *buffer = malloc(chunk);
	int fd = open(path, O_RDONLY);

	if (fd < 0 || !buffer)
		fail(path);
	for (size_t done = 0; done < bytes;) {
		ssize_t got = pread(fd, buffer, chunk, (off_t)(from + done));

		if (got <= 0)
			fail("read");
		done += (size_t)got;
	}
	close(fd);
}

static void anywhere(const char *path, size_t chunk, size_t count, unsigned int seed)
{
	char *buffer = malloc(chunk);
	int fd = open(path, O_RDONLY);
	struct stat st;

	if (fd < 0 || !buffer || fstat(fd, &st) < 0)
		fail(path);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	while (count--) {
		size_t at = (size_t)rand_r(&seed) % ((size_t)st.st_size / chunk);

		if (pread(fd, buffer, chunk, (off_t)(at * chunk)) != (ssize_t)chunk)
			fail("read");
	}
	close(fd);
}

static void look(const char *directory, int count, int opens)
{
	if (chdir(directory) < 0)
		fail(directory);
	for (int i = 0; i < count; i++) {
		struct stat st;
		char name[32];

		snprintf(name, sizeof(name), "file-%d", i);
		if (opens) {
			int fd = open(name, O_RDONLY);

			if (fd < 0)
				fail(name);
			close(fd);
		} else if (stat(name, &st) < 0) {
			fail(name);
		}
	}
}

static void list(const char *directory)
{
	DIR *dir = opendir(directory);

	if (!dir)
		fail(directory);
	while (readdir(dir))
		;
	closedir(dir);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	size_t third = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
	size_t fourth = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
	unsigned int jobs = argc > 5 ? (unsigned int)atoi(argv[5]) : 1;
	uint64_t start;

	if (argc == 5 && strcmp(what, "mount") == 0) {
		mount_port(argv[2], argv[3], argv[4]);
		return 0;
	}
	drop_caches();
	start = now_ns();
	if (argc == 6 && jobs > 0) {
		for (unsigned int job = 0; job < jobs; job++) {
			if (fork() != 0)
				continue;
			if (strcmp(what, "seq") == 0)
				sequential(argv[2], third, fourth / jobs * job, fourth / jobs);
			else
				anywhere(argv[2], third, fourth / jobs, job + 1);
			_exit(0);
		}
		for (unsigned int job = 0; job < jobs; job++) {
			int status;

			if (wait(&status) < 0 || status != 0)
				return 1;
		}
	} else if (argc == 4 && (strcmp(what, "stat") == 0 || strcmp(what, "open") == 0)) {
		look(argv[2], (int)third, what[0] == 'o');
	} else if (argc == 3 && strcmp(what, "readdir") == 0) {
		list(argv[2]);
	} else {
		return 2;
	}
	printf("%lu\n", (unsigned long)(now_ns() - start));
	return 0;
}
