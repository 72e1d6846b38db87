/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pipelines of the shell: commands in threads, connected by pipes, files and
 * the console. A pipeline outlives its shell when the console closes, until
 * its commands have noticed that.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "context.h"
#include "file.h"
#include "hostport.h"
#include "shell.h"
#include "shell_parse.h"
#include "stream.h"

#define PIECES_MAX 64

struct stage {
	struct uio_job *job;
	struct uio_exec *x; /* NULL: ended */
	struct uio_result result;
	struct uio_pipe *in, *out;
	char *in_path, *out_path; /* in the job's text */
	bool append, sink_open;
	struct uio_file *in_file;
	struct uio_sink sink;
};

struct uio_job {
	struct uio_shell *shell; /* NULL: abandoned */
	int stages, running;
	/* the line of input that the first command is reading */
	struct uio_exec *reader;
	const char *input;
	size_t input_len;
	bool input_end;
	struct uio_pipeline_words words;
	struct stage stage[UIO_SHELL_STAGES];
	char text[]; /* of the words */
};

/* ---- streams ---- */

/* Text to the terminal: a line feed alone would not go to the first column. */
static ssize_t console_write(struct uio_exec *x, const char *buf, size_t len)
{
	static char crlf[] = "\r\n";
	const char *at = buf, *end = buf + len;

	while (at < end) {
		struct uio_sg pieces[PIECES_MAX];
		unsigned int n = 0;
		size_t total = 0;
		while (at < end && n + 2 <= PIECES_MAX && total < 60000) {
			size_t left = (size_t)(end - at) < 60000 ? (size_t)(end - at) : 60000;
			const char *lf = memchr(at, '\n', left);
			size_t part = lf != NULL ? (size_t)(lf - at) : left;
			if (part > 60000 - total) {
				part = 60000 - total;
				lf = NULL;
			}
			if (part > 0)
				pieces[n++] =
					(struct uio_sg){(void *)(uintptr_t)at, (uint32_t)part};
			total += part;
			at += part;
			if (lf != NULL) {
				pieces[n++] = (struct uio_sg){crlf, 2};
				total += 2;
				at++;
			}
		}
		if (x->cancel != 0)
			return -EINTR;
		if (uio_hostport_send(UIO_HOSTPORT_CONSOLE, pieces, n, true) < 0)
			return -EPIPE;
	}
	return (ssize_t)len;
}

static ssize_t stage_write(struct uio_exec *x, unsigned int stream, const void *buf, size_t len)
{
	struct stage *s = x->io_data;

	if (stream == 1 && s->out != NULL)
		return uio_pipe_write(s->out, x, buf, len);
	if (stream == 1 && s->sink_open)
		return uio_sink_write(&s->sink, buf, len);
	if (s->job->shell == NULL)
		return x->cancel != 0 ? -EINTR : -EPIPE;
	return console_write(x, buf, len);
}

static ssize_t console_read(struct uio_exec *x, struct uio_job *job, char *buf, size_t len)
{
	while (job->input_len == 0 && !job->input_end) {
		if (x->cancel != 0)
			return -EINTR;
		if (job->shell == NULL)
			return 0;
		job->reader = x;
		uio_context_wake();
		uio_port_event_wait(&x->wake, UINT64_MAX);
		job->reader = NULL;
	}
	job->input_end = false;
	size_t n = job->input_len < len ? job->input_len : len;
	if (n > 0)
		memcpy(buf, job->input, n);
	job->input += n;
	job->input_len -= n;
	return (ssize_t)n;
}

static ssize_t stage_read(struct uio_exec *x, void *buf, size_t len)
{
	struct stage *s = x->io_data;

	if (s->in != NULL)
		return uio_pipe_read(s->in, x, buf, len);
	if (s->in_file != NULL)
		return x->cancel != 0 ? -EINTR : uio_file_read(s->in_file, buf, len);
	return console_read(x, s->job, buf, len);
}

static const struct uio_exec_io stage_io = {.write = stage_write, .read = stage_read};

/* ---- a command's thread ---- */

static int open_files(struct uio_exec *x, struct stage *s)
{
	const char *path = s->in_path;
	int err = 0;

	if (s->in_path != NULL)
		err = uio_file_open(&s->in_file, s->in_path, O_RDONLY, 0);
	if (err >= 0 && s->out_path != NULL) {
		path = s->out_path;
		err = uio_sink_open(&s->sink, path, s->append);
		s->sink_open = err >= 0;
	}
	if (err < 0)
		uio_exec_error(x, "uio: %s: %s\n", path, uio_error_text(err));
	return err;
}

static int stage_body(struct uio_exec *x)
{
	struct stage *s = x->io_data;

	if (open_files(x, s) < 0)
		return 1;
	int status = uio_exec_run_named(x);
	uio_exec_flush(x);
	if (s->sink_open) {
		s->sink_open = false;
		int err = uio_sink_close(&s->sink);
		if (err < 0 && x->cancel == 0)
			uio_exec_error(x, "uio: %s: %s\n", s->out_path, uio_error_text(err));
		if (err < 0 && status == 0)
			status = 1;
	}
	return status;
}

static void close_ends(struct stage *s)
{
	uio_pipe_close_writer(s->out);
	uio_pipe_close_reader(s->in);
	s->out = s->in = NULL;
	if (s->in_file != NULL)
		uio_file_close(s->in_file);
	s->in_file = NULL;
}

static void stage_finish(struct uio_exec *x)
{
	struct stage *s = x->io_data;
	struct uio_job *job = s->job;

	close_ends(s);
	s->result = x->result;
	s->x = NULL;
	if (--job->running == 0) {
		if (job->shell == NULL)
			uio_port_free(job);
		else
			uio_context_wake();
	}
}

/* ---- for the shell ---- */

static bool start_stage(struct uio_job *job, int i)
{
	struct stage *s = &job->stage[i];
	const struct uio_stage_words *w = &job->words.stage[i];
	struct uio_exec_spec spec = {
		.io = &stage_io,
		.io_data = s,
		.argc = w->argc,
		.argv = w->argv,
		.tty = true,
		.rows = uio_shell_terminal.rows,
		.columns = uio_shell_terminal.columns,
		.body = stage_body,
		.finish = stage_finish,
	};

	if (uio_exec_spawn(&spec, &s->x) < 0)
		return false;
	job->running++;
	return true;
}

static bool make_pipes(struct uio_job *job)
{
	for (int i = 0; i + 1 < job->stages; i++) {
		struct uio_pipe *p = uio_pipe_new();
		if (p == NULL)
			return false;
		job->stage[i].out = p;
		job->stage[i + 1].in = p;
	}
	return true;
}

const char *uio_shell_start(struct uio_shell *sh, const char **line)
{
	struct uio_job *job = uio_port_alloc(sizeof(*job) + strlen(*line) + UIO_SHELL_STAGES + 2);

	if (job == NULL)
		return "out of memory";
	memset(job, 0, sizeof(*job));
	const char *why = uio_shell_parse(line, job->text, &job->words);
	if (why != NULL || job->words.stages == 0) {
		uio_port_free(job);
		return why;
	}
	job->shell = sh;
	job->stages = job->words.stages;
	for (int i = 0; i < job->stages; i++) {
		struct stage *s = &job->stage[i];
		s->job = job;
		s->in_path = (char *)(uintptr_t)job->words.stage[i].in;
		s->out_path = (char *)(uintptr_t)job->words.stage[i].out;
		s->append = job->words.stage[i].append;
	}
	bool ok = make_pipes(job);
	int started = 0;
	while (ok && started < job->stages && start_stage(job, started))
		started++;
	/* Commands that did not start: the others find their pipes closed. */
	for (int i = started; i < job->stages; i++)
		close_ends(&job->stage[i]);
	if (started == 0) {
		uio_port_free(job);
		return "cannot start a command now: out of memory, or too many run";
	}
	sh->job = job;
	return started < job->stages
		       ? "cannot start the whole pipeline: out of memory, or too many run"
		       : NULL;
}

static void tell(struct uio_shell *sh, const struct uio_result *r)
{
	char line[256];

	if (r->kind == UIO_EXIT_OK || r->kind == UIO_EXIT_CANCELLED)
		return;
	snprintf(line, sizeof(line), "%s\r\n", r->message);
	uio_shell_print(sh, line);
	if (r->kind != UIO_EXIT_FAULT)
		return;
	snprintf(line, sizeof(line), "  at 0x%llx, address 0x%llx, stack 0x%llx\r\n",
		 (unsigned long long)r->fault.trap.ip, (unsigned long long)r->fault.trap.address,
		 (unsigned long long)r->fault.trap.sp);
	uio_shell_print(sh, line);
}

void uio_shell_reap(struct uio_shell *sh)
{
	struct uio_job *job = sh->job;

	if (job == NULL || job->running != 0)
		return;
	for (int i = 0; i < job->stages; i++)
		tell(sh, &job->stage[i].result);
	sh->job = NULL;
	uio_port_free(job);
}

void uio_shell_interrupt(struct uio_shell *sh, int signal)
{
	struct uio_job *job = sh->job;

	if (sh->rest != NULL)
		sh->rest = "";
	for (int i = 0; job != NULL && i < job->stages; i++)
		if (job->stage[i].x != NULL)
			uio_exec_cancel(job->stage[i].x, signal);
}

void uio_shell_resize(struct uio_shell *sh)
{
	for (int i = 0; sh->job != NULL && i < sh->job->stages; i++) {
		struct uio_exec *x = sh->job->stage[i].x;
		if (x == NULL)
			continue;
		x->rows = uio_shell_terminal.rows;
		x->columns = uio_shell_terminal.columns;
	}
}

void uio_shell_abandon(struct uio_shell *sh)
{
	struct uio_job *job = sh->job;

	if (job == NULL)
		return;
	job->shell = NULL;
	sh->job = NULL;
	/* A line that was not taken lies in the shell's memory. */
	job->input_len = 0;
	if (job->running == 0) {
		uio_port_free(job);
		return;
	}
	for (int i = 0; i < job->stages; i++)
		if (job->stage[i].x != NULL)
			uio_exec_cancel(job->stage[i].x, 1);
}

/* A line lies in the editor until the command has read it all: no new one before that. */
bool uio_shell_reading(const struct uio_shell *sh)
{
	return sh->job != NULL && sh->job->reader != NULL && sh->job->input_len == 0 &&
	       !sh->job->input_end;
}

void uio_shell_input(struct uio_shell *sh, const char *bytes, size_t len)
{
	struct uio_job *job = sh->job;

	job->input = bytes;
	job->input_len = len;
	job->input_end = len == 0;
	if (job->reader != NULL)
		uio_port_event_signal(&job->reader->wake);
}
