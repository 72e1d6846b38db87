/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The first program of a Linux guest that is to run Debian's systemd: makes a
 * root of the host's, read-only over virtio-9p, with the test's own files laid
 * over it and memory on top, and hands over to systemd.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NINEP "trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro"

static void fail(const char *what)
{
	printf("init: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	reboot(RB_POWER_OFF);
}

static void load_modules(void)
{
	char path[256];
	FILE *list = fopen("/modules/order", "r");

	if (!list)
		fail("/modules/order");
	while (fscanf(list, "%255s", path) == 1) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
			fail(path);
		close(fd);
	}
	fclose(list);
}

static void mounted(const char *what, const char *where, const char *kind, const char *options)
{
	mkdir(where, 0755);
	if (mount(what, where, kind, 0, options) < 0)
		fail(where);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	load_modules();
	mounted("host", "/host", "9p", NINEP);
	mounted("files", "/files", "9p", NINEP);
	mounted("tmpfs", "/memory", "tmpfs", "");
	mkdir("/memory/upper", 0755);
	mkdir("/memory/work", 0755);
	mounted("overlay", "/new", "overlay",
		"lowerdir=/files:/host,upperdir=/memory/upper,workdir=/memory/work");
	/* What a container leaves in its root makes systemd take this for one. */
	unlink("/new/.dockerenv");
	mounted("tmpfs", "/new/run", "tmpfs", "mode=755");
	mounted("tmpfs", "/new/tmp", "tmpfs", "");
	mounted("tmpfs", "/new/var", "tmpfs", "mode=755");
	mounted("devtmpfs", "/new/dev", "devtmpfs", "");
	if (chdir("/new") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
		fail("the new root");
	execl("/lib/systemd/systemd", "/lib/systemd/systemd", (char *)NULL);
	fail("/lib/systemd/systemd");
	return 1;
}
