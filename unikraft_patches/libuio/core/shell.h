/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Between shell.c (the terminal) and shell_job.c (the commands it runs).
 */
#ifndef UIO_CORE_SHELL_H
#define UIO_CORE_SHELL_H

#include "exec.h"
#include "lineedit.h"

struct uio_job;

struct uio_shell {
	struct uio_job *job; /* in the foreground; NULL: none */
	/* the line being run, and where its next pipeline begins */
	char *line;
	const char *rest;
	/* input that nobody has wanted yet */
	size_t ahead_len;
	uint64_t full_ns;
	bool dropping;
	bool line_given; /* the editor's line went to a command */
	struct uio_echo echo;
	struct uio_lineedit edit;
	uint8_t ahead[2048];
	char echo_buf[2048];
};

/* The terminal's size as the host has told it (WINSIZE); zeros: it has not. */
extern struct uio_shell_terminal {
	uint16_t rows, columns;
} uio_shell_terminal;

/** Add to the terminal's output. */
void uio_shell_print(struct uio_shell *sh, const char *text);

/** Start the pipeline at *line and pass over it. NULL, or what is wrong. */
const char *uio_shell_start(struct uio_shell *sh, const char **line);
/** Take notice of a pipeline that has ended: tell of failures, forget it. */
void uio_shell_reap(struct uio_shell *sh);
/** Signal the foreground pipeline; what follows on the line is not run. */
void uio_shell_interrupt(struct uio_shell *sh, int signal);
/** The terminal has another size: the pipeline's commands may ask for it. */
void uio_shell_resize(struct uio_shell *sh);
/** The terminal is gone: end the pipeline, which cleans up by itself. */
void uio_shell_abandon(struct uio_shell *sh);

/** Whether a command waits for a line of input. */
bool uio_shell_reading(const struct uio_shell *sh);
/** Give it one; len 0: the end of its input. The bytes must live until it has taken them. */
void uio_shell_input(struct uio_shell *sh, const char *bytes, size_t len);

#endif /* UIO_CORE_SHELL_H */
