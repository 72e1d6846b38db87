/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `uio-hosted DIR [ROOT]`: libuio and the counting application as a Linux
 * process. The sockets channel.sock, console.sock and fs.sock appear in DIR;
 * ROOT (default DIR/guest) holds the guest's own files.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosted.h"

pthread_t hosted_application_thread;

/* The application's thread is one that `ps` shows: nobody may ask before. */
static sem_t is_known;

#ifdef UIO_HOSTED_SAN
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	/* Traps of overlays are ours; stacks are switched. */
	return "allow_user_segv_handler=1:handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_"
	       "sigfpe=0:"
	       "use_sigaltstack=0:detect_stack_use_after_return=0:halt_on_error=1";
}
#endif

static void *application(void *arg)
{
	(void)arg;
	hosted_thread_adopt("count", false);
	sem_post(&is_known);
	hosted_signal_stack();
	hosted_application();
	return NULL;
}

int uio_port_signal(int sig)
{
	if (sig < 1 || sig > 64)
		return -EINVAL;
	/* The end of the process goes through main(), so that sanitizers look for leaks. */
	int err = sig == SIGTERM || sig == SIGINT ? kill(getpid(), sig)
						  : pthread_kill(hosted_application_thread, sig);
	return err > 0 ? -err : err < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
	char root[4096];
	sigset_t end;
	int sig;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: %s DIR [ROOT]\n", argv[0]);
		return 2;
	}
	snprintf(root, sizeof(root), "%s/guest", argv[1]);
	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	sigaddset(&end, SIGINT);
	pthread_sigmask(SIG_BLOCK, &end, NULL);

	struct uio_thread *boot = hosted_thread_adopt("boot", true);
	uintptr_t base;
	size_t size;
	(void)boot;
	uio_port_arena(&base, &size);
	hosted_signal_stack();
	hosted_traps_init();
	hosted_sockets(argv[1]);
	int err = hosted_files_init(argc == 3 ? argv[2] : root);
	if (err < 0) {
		fprintf(stderr, "uio-hosted: %s: %s\n", argc == 3 ? argv[2] : root, strerror(-err));
		return 1;
	}
	hosted_application_init();
	if (sem_init(&is_known, 0, 0) < 0 ||
	    pthread_create(&hosted_application_thread, NULL, application, NULL) != 0)
		return 1;
	while (sem_wait(&is_known) < 0)
		; /* a signal came in between */
	if (uio_start() < 0)
		return 1;

	printf("uio-hosted: ready\n");
	fflush(stdout);
	hosted_leave();
	sigwait(&end, &sig);
	hosted_enter();
	exit(0);
}
