/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The shell on org.uio.console. It lives in the context, so it never blocks:
 * bytes come in, echo goes out, commands run in threads of their own and tell
 * their end. While one runs, input is kept for it or for the next line; Ctrl-C
 * is seen at once. shell_job.c has the commands and their streams.
 */
#include <errno.h>
#include <string.h>

#include "context.h"
#include "hostport.h"
#include "shell.h"

#define PROMPT     "uio> "
#define READ_SIZE  512u
#define FULL_LIMIT 1000000000ull /* full and not read for so long: make room for a Ctrl-C */

static struct uio_shell *shell;
static unsigned int shell_generation;
struct uio_shell_terminal uio_shell_terminal;

void uio_shell_print(struct uio_shell *sh, const char *text)
{
	uio_echo_text(&sh->echo, text);
}

/* ---- out ---- */

/* True if all of the echo is on its way. */
static bool flush_echo(struct uio_shell *sh)
{
	struct uio_sg piece = {sh->echo_buf, (uint32_t)sh->echo.len};

	if (sh->echo.len == 0)
		return true;
	if (uio_hostport_send(UIO_HOSTPORT_CONSOLE, &piece, 1, false) == -EAGAIN)
		return false;
	sh->echo.len = 0;
	return true;
}

static bool has_room(const struct uio_shell *sh)
{
	return sh->echo.size - sh->echo.len >= UIO_ECHO_MAX;
}

static void prompt(struct uio_shell *sh)
{
	uio_lineedit_begin(&sh->edit, PROMPT, true, &sh->echo);
}

/* ---- in ---- */

/* While a command runs, Ctrl-C and Ctrl-\ act when they arrive, before what was typed ahead. */
static void look_for_interrupts(struct uio_shell *sh, size_t fresh)
{
	for (size_t i = sh->ahead_len; i > sh->ahead_len - fresh; i--) {
		uint8_t c = sh->ahead[i - 1];
		if (c != 0x03 && c != 0x1c)
			continue;
		sh->ahead_len -= i;
		memmove(sh->ahead, sh->ahead + i, sh->ahead_len);
		sh->dropping = false;
		if (has_room(sh))
			uio_shell_print(sh, c == 0x03 ? "^C\r\n" : "^\\\r\n");
		uio_shell_interrupt(sh, c == 0x03 ? 2 : 9);
		return;
	}
}

/* Lost lines are worse than late ones, but worst is a command that cannot be stopped. */
static void drop_excess(struct uio_shell *sh)
{
	if (sh->dropping)
		return;
	sh->dropping = true;
	while (sh->ahead_len > 0 && sh->ahead[sh->ahead_len - 1] != '\n' &&
	       sh->ahead[sh->ahead_len - 1] != '\r')
		sh->ahead_len--;
	if (has_room(sh))
		uio_shell_print(sh, "\a");
}

static bool fill(struct uio_shell *sh, uint64_t now)
{
	uint8_t spare[READ_SIZE], *to = sh->ahead + sh->ahead_len;
	size_t room = sizeof(sh->ahead) - sh->ahead_len;

	if (sh->job == NULL)
		sh->dropping = false;
	if (room > 0 && !sh->dropping) {
		ssize_t n = uio_hostport_read(UIO_HOSTPORT_CONSOLE, to, room);
		if (n <= 0)
			return false;
		sh->ahead_len += (size_t)n;
		sh->full_ns = sh->ahead_len == sizeof(sh->ahead) ? now : 0;
		if (sh->job != NULL)
			look_for_interrupts(sh, (size_t)n);
		return true;
	}
	if (sh->job == NULL)
		return false;
	if (!sh->dropping && now - sh->full_ns < FULL_LIMIT)
		return false;
	drop_excess(sh);
	ssize_t n = uio_hostport_read(UIO_HOSTPORT_CONSOLE, spare, sizeof(spare));
	for (ssize_t i = n - 1; i >= 0; i--)
		if (spare[i] == 0x03 || spare[i] == 0x1c) {
			sh->ahead[0] = spare[i];
			sh->ahead_len = 1;
			look_for_interrupts(sh, 1);
			break;
		}
	return n > 0;
}

/* ---- lines ---- */

/* Start the next pipeline of the line; when there is none left, prompt. */
static void go_on(struct uio_shell *sh)
{
	while (sh->job == NULL && sh->rest != NULL) {
		if (*sh->rest == '\0') {
			uio_port_free(sh->line);
			sh->line = NULL;
			sh->rest = NULL;
			prompt(sh);
			return;
		}
		/* What the terminal has yet to show must not be overtaken by a command's output. */
		if (!has_room(sh) || !flush_echo(sh))
			return;
		const char *why = uio_shell_start(sh, &sh->rest);
		if (why != NULL) {
			uio_shell_print(sh, "uio: ");
			uio_shell_print(sh, why);
			uio_shell_print(sh, "\r\n");
			sh->rest = "";
		}
	}
}

static void take_line(struct uio_shell *sh)
{
	sh->line = uio_port_alloc(sh->edit.len + 1);
	if (sh->line == NULL) {
		uio_shell_print(sh, "uio: out of memory\r\n");
		prompt(sh);
		return;
	}
	memcpy(sh->line, sh->edit.text, sh->edit.len + 1);
	sh->rest = sh->line;
	go_on(sh);
}

static void shell_edit(struct uio_shell *sh, enum uio_edit what)
{
	switch (what) {
	case UIO_EDIT_LINE:
		take_line(sh);
		break;
	case UIO_EDIT_TOO_LONG:
		uio_shell_print(sh, "uio: the line is too long\r\n");
		prompt(sh);
		break;
	case UIO_EDIT_INTERRUPT:
		prompt(sh);
		break;
	default:
		break;
	}
}

/* A running command reads: edit a line for it. */
static void input_edit(struct uio_shell *sh, enum uio_edit what)
{
	switch (what) {
	case UIO_EDIT_LINE:
		sh->edit.text[sh->edit.len] = '\n';
		sh->line_given = true;
		uio_shell_input(sh, sh->edit.text, sh->edit.len + 1);
		break;
	case UIO_EDIT_INTERRUPT:
		uio_shell_interrupt(sh, 2);
		break;
	case UIO_EDIT_EOF:
		uio_shell_input(sh, NULL, 0);
		break;
	default:
		break;
	}
}

/* Whether input is to be edited now, and for whom. */
static bool wants_input(struct uio_shell *sh)
{
	if (sh->job == NULL)
		return sh->rest == NULL;
	if (!uio_shell_reading(sh))
		return false;
	if (sh->edit.history_on || sh->line_given)
		uio_lineedit_begin(&sh->edit, "", false, &sh->echo);
	sh->line_given = false;
	return true;
}

static void edit_ahead(struct uio_shell *sh)
{
	size_t used = 0;
	bool idle = sh->job == NULL;

	while (used < sh->ahead_len && has_room(sh) && wants_input(sh)) {
		bool for_job = sh->job != NULL;
		enum uio_edit what = uio_lineedit_byte(&sh->edit, sh->ahead[used++], &sh->echo);
		if (for_job)
			input_edit(sh, what);
		else
			shell_edit(sh, what);
	}
	sh->ahead_len -= used;
	memmove(sh->ahead, sh->ahead + used, sh->ahead_len);
	/* What came in one piece with the command's line may hold its Ctrl-C. */
	if (idle && sh->job != NULL)
		look_for_interrupts(sh, sh->ahead_len);
	if (has_room(sh))
		uio_lineedit_show(&sh->edit, &sh->echo);
}

/* ---- the console comes and goes ---- */

static void open_shell(void)
{
	shell = uio_port_alloc(sizeof(*shell));
	if (shell == NULL)
		return;
	memset(shell, 0, sizeof(*shell));
	shell->echo = (struct uio_echo){.buf = shell->echo_buf, .size = sizeof(shell->echo_buf)};
	uio_lineedit_init(&shell->edit);
	uio_lineedit_resize(&shell->edit, uio_shell_terminal.columns, false);
	prompt(shell);
}

static void close_shell(void)
{
	if (shell == NULL)
		return;
	uio_shell_abandon(shell);
	uio_lineedit_free(&shell->edit);
	uio_port_free(shell->line);
	uio_port_free(shell);
	shell = NULL;
}

/* Whether the terminal's row shows the editor's line, and not what a command says. */
static bool line_is_shown(const struct uio_shell *sh)
{
	if (sh->job == NULL)
		return sh->rest == NULL;
	return uio_shell_reading(sh) && !sh->edit.history_on && !sh->line_given;
}

void uio_console_resize(uint16_t rows, uint16_t columns)
{
	uio_shell_terminal = (struct uio_shell_terminal){rows, columns};
	if (shell == NULL)
		return;
	uio_lineedit_resize(&shell->edit, columns, line_is_shown(shell));
	uio_shell_resize(shell);
}

uint64_t uio_console_poll(uint64_t now)
{
	unsigned int generation = uio_hostport_generation(UIO_HOSTPORT_CONSOLE);

	if (!uio_hostport_connected(UIO_HOSTPORT_CONSOLE) || generation != shell_generation) {
		close_shell();
		shell_generation = generation;
	}
	if (!uio_hostport_connected(UIO_HOSTPORT_CONSOLE))
		return UINT64_MAX;
	if (shell == NULL)
		open_shell();
	if (shell == NULL)
		return UINT64_MAX;

	struct uio_shell *sh = shell;
	uio_shell_reap(sh);
	go_on(sh);
	/* A turn's worth; the rest after the others had theirs. */
	for (int turn = 0; turn < 16; turn++) {
		bool fresh = fill(sh, now);
		edit_ahead(sh);
		if (!flush_echo(sh))
			return UINT64_MAX; /* room for more wakes the context */
		if (!fresh && (sh->ahead_len == 0 || !wants_input(sh))) {
			bool full = sh->job != NULL && sh->ahead_len == sizeof(sh->ahead);
			return full && !sh->dropping ? sh->full_ns + FULL_LIMIT : UINT64_MAX;
		}
	}
	uio_context_wake();
	return UINT64_MAX;
}
