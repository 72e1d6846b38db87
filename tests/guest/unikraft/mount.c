/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An application for Unikraft with LIBUIO_9PFS: mounts uIO-fs at /uio and copies /uio/host/in to
 * /uio/host/out whenever `in` has another size. When the host goes away it mounts anew.
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

#define IN  "/uio/host/in"
#define OUT "/uio/host/out"

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
	int in = open(IN, O_RDONLY);
	int out, rc;

	*total = 0;
	if (in < 0)
		return -errno;
	out = open(OUT, O_WRONLY | O_CREAT | O_TRUNC, 0644);
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

	if (stat(IN, &st) < 0)
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

int main(void)
{
	struct timespec pause = {0, 200000000};
	int mounted = 0;
	long last = -1;

	mkdir("/uio", 0755);
	for (;; nanosleep(&pause, NULL)) {
		int rc;

		if (!mounted) {
			mounted = mount("uio", "/uio", "9pfs", 0, NULL) == 0;
			printf("mount: %s\n", mounted ? "it is there" : strerror(errno));
			continue;
		}
		rc = look(&last);
		if (rc < 0) {
			printf("mount: %s\n", strerror(-rc));
			rc = umount("/uio") < 0 ? errno : 0;
			printf("mount: taken away%s%s\n", rc ? ": " : "", rc ? strerror(rc) : "");
			mounted = 0;
		}
	}
}
