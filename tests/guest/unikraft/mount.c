/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An application for Unikraft with LIBUIO_9PFS: mounts uIO-fs at /uio1 and copies /uio1/host/in to
 * /uio1/host/out whenever `in` has another size. When the host goes away it mounts anew, at /uio2:
 * Unikraft cannot unmount what has lost its host, lib/uk9p's own assertion would stop it.
 * tests/system/test_mount_guest.py looks at what it says.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char directory[16], in_name[32], out_name[32];
static char buffer[100000]; /* more than goes into one message */

static int copy_all(int in, int out, long *total)
{
	for (;;) {
		ssize_t n = read(in, buffer, sizeof(buffer));

		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		for (ssize_t at = 0; at < n;) {
			ssize_t written = write(out, buffer + at, (size_t)(n - at));

			if (written < 0)
				return -errno;
			at += written;
		}
		*total += n;
	}
}

static int copy(long *total)
{
	int in = open(in_name, O_RDONLY);
	int out, rc;

	*total = 0;
	if (in < 0)
		return -errno;
	out = open(out_name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	rc = out < 0 ? -errno : copy_all(in, out, total);
	if (out >= 0 && close(out) < 0 && !rc)
		rc = -errno;
	close(in);
	return rc;
}

/* 0, or a negative errno: what the host says of the file. */
static int look(long *last)
{
	struct stat st;
	long total;
	int rc;

	if (stat(in_name, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (st.st_size == *last)
		return 0;
	rc = copy(&total);
	if (!rc) {
		*last = st.st_size;
		printf("mount: copied %ld bytes\n", total);
	}
	return rc;
}

static int mount_at(int number)
{
	snprintf(directory, sizeof(directory), "/uio%d", number);
	snprintf(in_name, sizeof(in_name), "%s/host/in", directory);
	snprintf(out_name, sizeof(out_name), "%s/host/out", directory);
	mkdir(directory, 0755);
	return mount("uio", directory, "9pfs", 0, NULL) == 0 ? 0 : -errno;
}

int main(void)
{
	struct timespec pause = {0, 200000000};
	int number = 0, mounted = 0, why = 0; /* the last one was lost */
	long last = -1;

	for (;; nanosleep(&pause, NULL)) {
		int rc = mounted ? look(&last) : mount_at(number + 1);

		if (rc < 0 && mounted) {
			why = -rc;
			mounted = 0;
		} else if (rc == 0 && !mounted) {
			mounted = 1;
			printf("mount: it is at /uio%d", ++number);
			printf(why ? " after: %s\n" : "%s\n", why ? strerror(why) : "");
		}
	}
}
