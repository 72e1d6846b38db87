/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Line editing: a line is shown in one row of the terminal, as much of it as
 * fits around the cursor, so that no wrapping has to be undone. Its last column
 * stays free, where terminals differ in what they do.
 */
#include "lineedit.h"

#include <stdio.h>
#include <string.h>

#include <uio/port.h>

/* What the host says of the terminal is kept within these: the echo has an end. */
#define COLUMNS_MIN     10u
#define COLUMNS_MAX     400u
#define COLUMNS_UNKNOWN 80u
#define SHOWN_MAX       (UIO_ECHO_MAX - 64u) /* bytes: the rest is for what is around them */

enum escape {
	ESC_NONE,
	ESC_START, /* after ESC */
	ESC_CSI,   /* after ESC [ */
	ESC_SS3,   /* after ESC O */
};

void uio_echo_add(struct uio_echo *e, const char *text, size_t len)
{
	if (len > e->size - e->len)
		return;
	memcpy(e->buf + e->len, text, len);
	e->len += len;
}

void uio_echo_text(struct uio_echo *e, const char *text)
{
	uio_echo_add(e, text, strlen(text));
}

/* ---- UTF-8 ---- */

static bool continuation(char c)
{
	return ((unsigned char)c & 0xc0) == 0x80;
}

static size_t next(const struct uio_lineedit *le, size_t at)
{
	if (at < le->len)
		at++;
	while (at < le->len && continuation(le->text[at]))
		at++;
	return at;
}

static size_t previous(const struct uio_lineedit *le, size_t at)
{
	if (at > 0)
		at--;
	while (at > 0 && continuation(le->text[at]))
		at--;
	return at;
}

/* Columns of the character that begins at text: 0 combining, 2 East Asian and pictographs. */
static unsigned int width(const char *text, size_t len)
{
	const unsigned char *p = (const unsigned char *)text;
	uint32_t c = p[0];

	if (c >= 0xf0 && len >= 4)
		c = (c & 7) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
	else if (c >= 0xe0 && len >= 3)
		c = (c & 15) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
	else if (c >= 0xc0 && len >= 2)
		c = (c & 31) << 6 | (p[1] & 63u);
	if ((c >= 0x300 && c <= 0x36f) || (c >= 0x200b && c <= 0x200f) ||
	    (c >= 0xfe00 && c <= 0xfe0f))
		return 0;
	if ((c >= 0x1100 && c <= 0x115f) || (c >= 0x2e80 && c <= 0xa4cf) ||
	    (c >= 0xac00 && c <= 0xd7a3) || (c >= 0xf900 && c <= 0xfaff) ||
	    (c >= 0xfe30 && c <= 0xfe6f) || (c >= 0xff00 && c <= 0xff60) ||
	    (c >= 0x1f300 && c <= 0x1faff) || (c >= 0x20000 && c <= 0x3fffd))
		return 2;
	return 1;
}

static unsigned int columns(const struct uio_lineedit *le, size_t from, size_t to)
{
	unsigned int n = 0;

	for (size_t at = from; at < to; at = next(le, at))
		n += width(le->text + at, le->len - at);
	return n;
}

/* ---- showing ---- */

void uio_lineedit_show(struct uio_lineedit *le, struct uio_echo *echo)
{
	if (!le->dirty)
		return;
	le->dirty = false;

	/*
	 * Start so far right that the cursor is in the row, then take what fits. Characters of no
	 * width would always fit: they end with the echo's room.
	 */
	unsigned int room = le->columns - (unsigned int)strlen(le->prompt);
	size_t from = le->cursor, to;
	unsigned int before = 0, shown;
	while (from > 0) {
		size_t p = previous(le, from);
		unsigned int w = width(le->text + p, le->len - p);
		if (before + w >= room || le->cursor - p > SHOWN_MAX)
			break;
		before += w;
		from = p;
	}
	for (to = le->cursor, shown = before; to < le->len; to = next(le, to)) {
		unsigned int w = width(le->text + to, le->len - to);
		if (shown + w >= room || next(le, to) - from > SHOWN_MAX)
			break;
		shown += w;
	}

	char move[24];
	int n = snprintf(move, sizeof(move), "\r\x1b[%uC",
			 before + (unsigned int)strlen(le->prompt));
	uio_echo_add(echo, "\r", 1);
	uio_echo_text(echo, le->prompt);
	uio_echo_add(echo, le->text + from, to - from);
	uio_echo_text(echo, "\x1b[K");
	if (before + strlen(le->prompt) == 0)
		uio_echo_add(echo, "\r", 1);
	else
		uio_echo_add(echo, move, (size_t)n);
}

void uio_lineedit_begin(struct uio_lineedit *le, const char *prompt, bool history,
			struct uio_echo *echo)
{
	le->prompt = prompt;
	le->history_on = history;
	le->len = le->cursor = 0;
	le->history_at = le->history_len;
	le->too_long = false;
	le->dirty = false;
	uio_echo_text(echo, prompt);
}

void uio_lineedit_init(struct uio_lineedit *le)
{
	memset(le, 0, sizeof(*le));
	le->prompt = "";
	uio_lineedit_resize(le, 0, false);
}

void uio_lineedit_resize(struct uio_lineedit *le, unsigned int columns, bool redraw)
{
	if (columns == 0)
		columns = COLUMNS_UNKNOWN;
	if (columns < COLUMNS_MIN)
		columns = COLUMNS_MIN;
	if (columns > COLUMNS_MAX)
		columns = COLUMNS_MAX;
	le->columns = (uint16_t)(columns - 1);
	if (redraw && le->len != 0)
		le->dirty = true;
}

void uio_lineedit_free(struct uio_lineedit *le)
{
	uio_port_free(le->stash);
	le->stash = NULL;
}

/* ---- changing ---- */

static void insert(struct uio_lineedit *le, const char *text, size_t len, struct uio_echo *echo)
{
	if (len > UIO_LINE_MAX - 1 - le->len) {
		if (!le->too_long)
			uio_echo_add(echo, "\a", 1);
		le->too_long = true;
		return;
	}
	memmove(le->text + le->cursor + len, le->text + le->cursor, le->len - le->cursor);
	memcpy(le->text + le->cursor, text, len);
	le->len += len;
	le->cursor += len;
	/* The usual case needs no redrawing. */
	if (!le->dirty && le->cursor == le->len &&
	    columns(le, 0, le->len) + strlen(le->prompt) < le->columns)
		uio_echo_add(echo, text, len);
	else
		le->dirty = true;
}

static void erase(struct uio_lineedit *le, size_t from, size_t to, struct uio_echo *echo)
{
	bool last = from < to && to == le->len && le->cursor == to && previous(le, to) == from;
	unsigned int w = last ? width(le->text + from, le->len - from) : 0;

	memmove(le->text + from, le->text + to, le->len - to);
	le->len -= to - from;
	le->cursor = from;
	if (le->len == 0)
		le->too_long = false;
	if (last && w == 1 && !le->dirty &&
	    columns(le, 0, le->len) + 1 + strlen(le->prompt) < le->columns)
		uio_echo_text(echo, "\b \b");
	else if (from != to)
		le->dirty = true;
}

static void move_to(struct uio_lineedit *le, size_t at)
{
	if (at != le->cursor)
		le->dirty = true;
	le->cursor = at;
}

static size_t word_start(const struct uio_lineedit *le)
{
	size_t at = le->cursor;

	while (at > 0 && le->text[at - 1] == ' ')
		at--;
	while (at > 0 && le->text[at - 1] != ' ')
		at--;
	return at;
}

static size_t word_end(const struct uio_lineedit *le)
{
	size_t at = le->cursor;

	while (at < le->len && le->text[at] == ' ')
		at++;
	while (at < le->len && le->text[at] != ' ')
		at++;
	return at;
}

/* ---- history ---- */

static size_t history_before(const struct uio_lineedit *le, size_t at)
{
	at--; /* the NUL of the line before */
	while (at > 0 && le->history[at - 1] != '\0')
		at--;
	return at;
}

static void remember(struct uio_lineedit *le)
{
	size_t need = le->len + 1;

	if (le->len == 0 || need > UIO_HISTORY_MAX)
		return;
	if (le->history_len > 0 &&
	    strcmp(le->history + history_before(le, le->history_len), le->text) == 0)
		return;
	while (le->history_len + need > UIO_HISTORY_MAX) {
		size_t first = strlen(le->history) + 1;
		le->history_len -= first;
		memmove(le->history, le->history + first, le->history_len);
	}
	memcpy(le->history + le->history_len, le->text, need);
	le->history_len += need;
}

static void replace(struct uio_lineedit *le, const char *text)
{
	le->len = strlen(text);
	memcpy(le->text, text, le->len + 1);
	le->cursor = le->len;
	le->dirty = true;
}

static void recall(struct uio_lineedit *le, int direction, struct uio_echo *echo)
{
	size_t at = le->history_at;

	if (!le->history_on || (direction < 0 ? at == 0 : at == le->history_len)) {
		uio_echo_add(echo, "\a", 1);
		return;
	}
	if (at == le->history_len) {
		le->text[le->len] = '\0';
		uio_port_free(le->stash);
		le->stash = uio_port_alloc(le->len + 1);
		if (le->stash != NULL)
			memcpy(le->stash, le->text, le->len + 1);
	}
	at = direction < 0 ? history_before(le, at) : at + strlen(le->history + at) + 1;
	le->history_at = at;
	if (at < le->history_len) {
		replace(le, le->history + at);
	} else {
		replace(le, le->stash != NULL ? le->stash : "");
		uio_lineedit_free(le);
	}
}

/* ---- bytes ---- */

static void finish_escape(struct uio_lineedit *le, uint8_t byte, struct uio_echo *echo)
{
	switch (byte) {
	case 'A':
		recall(le, -1, echo);
		break;
	case 'B':
		recall(le, 1, echo);
		break;
	case 'C':
		move_to(le, le->param == 0 ? next(le, le->cursor) : word_end(le));
		break;
	case 'D':
		move_to(le, le->param == 0 ? previous(le, le->cursor) : word_start(le));
		break;
	case 'H':
		move_to(le, 0);
		break;
	case 'F':
		move_to(le, le->len);
		break;
	case '~':
		if (le->param == 1 || le->param == 7)
			move_to(le, 0);
		else if (le->param == 4 || le->param == 8)
			move_to(le, le->len);
		else if (le->param == 3)
			erase(le, le->cursor, next(le, le->cursor), echo);
		break;
	}
}

static void escape_byte(struct uio_lineedit *le, uint8_t byte, struct uio_echo *echo)
{
	switch (le->escape) {
	case ESC_START:
		le->param = 0;
		le->escape = byte == '[' ? ESC_CSI : byte == 'O' ? ESC_SS3 : ESC_NONE;
		if (byte == 'b')
			move_to(le, word_start(le));
		else if (byte == 'f')
			move_to(le, word_end(le));
		break;
	case ESC_CSI:
		if (byte >= '0' && byte <= '9') {
			le->param = (uint8_t)(le->param * 10 + (byte - '0'));
		} else if (byte >= 0x40 && byte <= 0x7e) {
			le->escape = ESC_NONE;
			finish_escape(le, byte, echo);
		} else if (byte < 0x20) {
			le->escape = ESC_NONE;
		}
		break;
	default:
		le->escape = ESC_NONE;
		finish_escape(le, byte, echo);
	}
}

/* A byte of 0x80 or above: gather a whole valid character; what is none disappears. */
static void utf8_byte(struct uio_lineedit *le, uint8_t byte, struct uio_echo *echo)
{
	if (le->utf8_want == 0) {
		le->utf8_want = byte >= 0xf0 && byte <= 0xf4  ? 4
				: byte >= 0xe0 && byte < 0xf0 ? 3
				: byte >= 0xc2 && byte < 0xe0 ? 2
							      : 0;
		le->utf8_len = 0;
		if (le->utf8_want == 0)
			return;
	} else if ((byte & 0xc0) != 0x80 ||
		   (le->utf8_len == 1 &&
		    ((le->utf8[0] == 0xe0 && byte < 0xa0) || (le->utf8[0] == 0xed && byte > 0x9f) ||
		     (le->utf8[0] == 0xf0 && byte < 0x90) ||
		     (le->utf8[0] == 0xf4 && byte > 0x8f)))) {
		le->utf8_want = 0;
		if (byte >= 0xc2)
			utf8_byte(le, byte, echo);
		return;
	}
	le->utf8[le->utf8_len++] = byte;
	if (le->utf8_len == le->utf8_want) {
		le->utf8_want = 0;
		/* C1 controls would be commands to the terminal. */
		if (!(le->utf8[0] == 0xc2 && le->utf8[1] < 0xa0))
			insert(le, (const char *)le->utf8, le->utf8_len, echo);
	}
}

static enum uio_edit end_line(struct uio_lineedit *le, struct uio_echo *echo)
{
	move_to(le, le->len);
	uio_lineedit_show(le, echo);
	uio_echo_text(echo, "\r\n");
	uio_lineedit_free(le);
	if (le->too_long) {
		le->len = le->cursor = 0;
		return UIO_EDIT_TOO_LONG;
	}
	le->text[le->len] = '\0';
	if (le->history_on)
		remember(le);
	return UIO_EDIT_LINE;
}

enum uio_edit uio_lineedit_byte(struct uio_lineedit *le, uint8_t byte, struct uio_echo *echo)
{
	bool after_cr = le->skip_lf;

	le->skip_lf = false;
	if (byte >= 0x80) {
		le->escape = ESC_NONE;
		utf8_byte(le, byte, echo);
		return UIO_EDIT_MORE;
	}
	le->utf8_want = 0;
	if (le->escape != ESC_NONE && byte >= 0x20) {
		escape_byte(le, byte, echo);
		return UIO_EDIT_MORE;
	}
	le->escape = ESC_NONE;

	switch (byte) {
	case '\n':
		if (after_cr)
			return UIO_EDIT_MORE;
		return end_line(le, echo);
	case '\r':
		le->skip_lf = true;
		return end_line(le, echo);
	case 0x1b:
		le->escape = ESC_START;
		break;
	case 0x01: /* ^A */
		move_to(le, 0);
		break;
	case 0x02: /* ^B */
		move_to(le, previous(le, le->cursor));
		break;
	case 0x03: /* ^C */
		uio_echo_text(echo, "^C\r\n");
		uio_lineedit_free(le);
		le->len = le->cursor = 0;
		return UIO_EDIT_INTERRUPT;
	case 0x04: /* ^D */
		if (le->len == 0)
			return UIO_EDIT_EOF;
		erase(le, le->cursor, next(le, le->cursor), echo);
		break;
	case 0x05: /* ^E */
		move_to(le, le->len);
		break;
	case 0x06: /* ^F */
		move_to(le, next(le, le->cursor));
		break;
	case 0x08: /* ^H */
	case 0x7f:
		erase(le, previous(le, le->cursor), le->cursor, echo);
		break;
	case '\t':
		insert(le, " ", 1, echo);
		break;
	case 0x0b: /* ^K */
		erase(le, le->cursor, le->len, echo);
		break;
	case 0x0c: /* ^L */
		uio_echo_text(echo, "\x1b[H\x1b[2J");
		le->dirty = true;
		break;
	case 0x0e: /* ^N */
		recall(le, 1, echo);
		break;
	case 0x10: /* ^P */
		recall(le, -1, echo);
		break;
	case 0x15: /* ^U */
		erase(le, 0, le->cursor, echo);
		break;
	case 0x17: /* ^W */
		erase(le, word_start(le), le->cursor, echo);
		break;
	default:
		if (byte >= 0x20)
			insert(le, (const char *)&byte, 1, echo);
	}
	return UIO_EDIT_MORE;
}
