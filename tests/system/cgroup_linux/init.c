/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The first program of a Linux guest whose root is the host's, read-only over
 * virtio-9p, with cgroup v2 as distributions mount it: runs the shell script
 * /script of its initramfs, says the status, powers off.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

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
	if (mount(what, where, kind, 0, options) < 0)
		fail(where);
}

int main(void)
{
	char script[4096];
	int status = 0;
	pid_t child;
	FILE *file = fopen("/script", "r");

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!file || fread(script, 1, sizeof(script) - 1, file) == 0)
		fail("/script");
	fclose(file);
	load_modules();
	mkdir("/host", 0755);
	mounted("host", "/host", "9p", "trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro");
	mounted("proc", "/host/proc", "proc", "");
	mounted("sysfs", "/host/sys", "sysfs", "");
	mounted("cgroup2", "/host/sys/fs/cgroup", "cgroup2", "nsdelegate");
	mounted("devtmpfs", "/host/dev", "devtmpfs", "");
	mounted("tmpfs", "/host/tmp", "tmpfs", "");
	if (chroot("/host") < 0 || chdir("/tmp") < 0)
		fail("chroot");
	child = fork();
	if (child == 0) {
		execl("/bin/sh", "sh", "-c", script, (char *)NULL);
		_exit(127);
	}
	while (wait(&status) != child) /* orphans end up here too */
		;
	printf("status %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 255);
	fflush(stdout);
	reboot(RB_POWER_OFF);
	return 0;
}
