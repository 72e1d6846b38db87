/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The only program of the Linux guest that tests ninep_server: loads the
 * modules, mounts two 9P clients over virtserialports, runs the conformance
 * checks on them, says how they went on the console and powers off.
 *
 * The kernel refuses trans=fd on the port itself, which has no read_iter, so
 * each mount gets one end of a socketpair and a relay has the other.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int conform(const char *top, const char *second);

static void fail(const char *what)
{
	printf("init: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	sync();
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

static int open_port(const char *wanted)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		DIR *ports = opendir("/sys/class/virtio-ports");
		struct dirent *entry;

		while (ports && (entry = readdir(ports)) != NULL) {
			char path[512], name[64] = "";
			FILE *file;

			snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name",
				 entry->d_name);
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
		if (ports)
			closedir(ports);
		usleep(50000);
	}
	errno = ENODEV;
	return -1;
}

static void relay(int from, int to)
{
	static char buffer[65536];
	ssize_t got;

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

static void mount_port(const char *port, const char *where)
{
	int ends[2], fd = open_port(port);
	char options[128];

	if (fd < 0)
		fail(port);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
		fail("socketpair");
	if (fork() == 0)
		relay(fd, ends[1]);
	if (fork() == 0)
		relay(ends[1], fd);
	close(ends[1]);
	snprintf(options, sizeof(options),
		 "trans=fd,rfdno=%d,wfdno=%d,version=9p2000.L,msize=524288,access=any", ends[0],
		 ends[0]);
	mkdir(where, 0755);
	if (mount("uio", where, "9p", 0, options) < 0)
		fail(where);
}

/* Run the programs of /tools/commands, one a line, each in a directory of its own on the first
 * mount. */
static void run_tools(void)
{
	char line[512];
	FILE *list = fopen("/tools/commands", "r");

	while (list && fgets(line, sizeof(line), list)) {
		char *argv[64], *word, where[64];
		int argc = 0, status = 0;

		for (word = strtok(line, " \n"); word && argc < 63; word = strtok(NULL, " \n"))
			argv[argc++] = word;
		argv[argc] = NULL;
		snprintf(where, sizeof(where), "/one/tool-%.40s", strrchr(argv[0], '/') + 1);
		mkdir(where, 0755);
		if (fork() == 0) {
			if (chdir(where) == 0)
				execv(argv[0], argv);
			_exit(127);
		}
		while (wait(&status) < 0 && errno == EINTR)
			;
		printf("%s tool %s status %d\n", status == 0 ? "ok" : "not ok", argv[0], status);
	}
	if (list)
		fclose(list);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mkdir("/tmp", 0777);
	if (mount("proc", "/proc", "proc", 0, "") < 0 ||
	    mount("sysfs", "/sys", "sysfs", 0, "") < 0 ||
	    mount("devtmpfs", "/dev", "devtmpfs", 0, "") < 0)
		fail("mount");
	mkdir("/dev/shm", 0777);
	load_modules();
	mount_port("fs0", "/one");
	mount_port("fs1", "/two");
	printf("done %d\n", conform("/one", "/two"));
	run_tools();
	fflush(stdout);
	if (umount("/one") < 0 || umount("/two") < 0)
		fail("umount");
	printf("unmounted\n");
	sync();
	reboot(RB_POWER_OFF);
	return 0;
}
