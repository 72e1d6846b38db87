/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A line editor without input or output of its own: bytes of a terminal in,
 * echo into a buffer out. UTF-8; history; any bytes whatever do no harm.
 */
#ifndef UIO_CORE_LINEEDIT_H
#define UIO_CORE_LINEEDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UIO_LINE_MAX    4096u /* bytes of a line and its NUL */
#define UIO_HISTORY_MAX 2048u

enum uio_edit {
	UIO_EDIT_MORE,      /* the line goes on */
	UIO_EDIT_LINE,      /* text and len hold a whole line */
	UIO_EDIT_INTERRUPT, /* Ctrl-C: the line is empty now */
	UIO_EDIT_EOF,       /* Ctrl-D on an empty line */
	UIO_EDIT_TOO_LONG,  /* the end of a line that did not fit: it is empty now */
};

/* Echo on its way to the terminal. Full: what comes is dropped, so the caller keeps room. */
struct uio_echo {
	size_t len, size;
	char *buf;
};
void uio_echo_add(struct uio_echo *e, const char *text, size_t len);
void uio_echo_text(struct uio_echo *e, const char *text);

/* The most that one byte of input, or uio_lineedit_show(), adds to the echo. */
#define UIO_ECHO_MAX 1024u

struct uio_lineedit {
	const char *prompt;
	bool history_on;
	bool dirty; /* the terminal does not show the line as it is */
	bool skip_lf, too_long;
	uint8_t escape; /* state of an escape sequence */
	uint8_t param;
	uint8_t utf8[4], utf8_len, utf8_want;
	uint16_t columns; /* that a line is shown in: one less than the terminal has */
	size_t len, cursor;
	/* history: lines with their NULs, oldest first */
	size_t history_len, history_at; /* history_len: the line being edited */
	char *stash;                    /* that line while an older one is shown; heap */
	char text[UIO_LINE_MAX];
	char history[UIO_HISTORY_MAX];
};

void uio_lineedit_init(struct uio_lineedit *le);
void uio_lineedit_free(struct uio_lineedit *le);
/** The terminal has so many columns; 0: not known. redraw: a line is being edited on it now. */
void uio_lineedit_resize(struct uio_lineedit *le, unsigned int columns, bool redraw);
/** Start an empty line behind this prompt, which must live. */
void uio_lineedit_begin(struct uio_lineedit *le, const char *prompt, bool history,
			struct uio_echo *echo);
enum uio_edit uio_lineedit_byte(struct uio_lineedit *le, uint8_t byte, struct uio_echo *echo);
/** Bring the terminal up to date, once after a batch of bytes. */
void uio_lineedit_show(struct uio_lineedit *le, struct uio_echo *echo);

#endif /* UIO_CORE_LINEEDIT_H */
