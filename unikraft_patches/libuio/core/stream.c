/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pipes in memory and output into files, for the shell's `|` and `>`.
 */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "file.h"

#define PIPE_SIZE 4096u
#define SINK_SIZE 8192u

struct uio_pipe {
	bool writer_open, reader_open;
	/* whom to wake; NULL: that end's command does not wait */
	struct uio_event *writer, *reader;
	size_t head, fill;
	char buf[PIPE_SIZE];
};

struct uio_pipe *uio_pipe_new(void)
{
	struct uio_pipe *p = uio_port_alloc(sizeof(*p));

	if (p != NULL) {
		memset(p, 0, offsetof(struct uio_pipe, buf));
		p->writer_open = p->reader_open = true;
	}
	return p;
}

static void wake(struct uio_event *ev)
{
	if (ev != NULL)
		uio_port_event_signal(ev);
}

/* Wait on the command's own event, which cancellation signals too. */
static void wait_at(struct uio_event **end, struct uio_exec *x)
{
	*end = &x->wake;
	uio_port_event_wait(&x->wake, UINT64_MAX);
	*end = NULL;
}

ssize_t uio_pipe_write(struct uio_pipe *p, struct uio_exec *x, const void *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		if (x->cancel != 0)
			return -EINTR;
		if (!p->reader_open)
			return -EPIPE;
		if (p->fill == PIPE_SIZE) {
			wait_at(&p->writer, x);
			continue;
		}
		size_t tail = (p->head + p->fill) % PIPE_SIZE;
		size_t n = PIPE_SIZE - p->fill;
		if (n > len - done)
			n = len - done;
		if (n > PIPE_SIZE - tail)
			n = PIPE_SIZE - tail;
		memcpy(p->buf + tail, (const char *)buf + done, n);
		p->fill += n;
		done += n;
		wake(p->reader);
	}
	return (ssize_t)len;
}

ssize_t uio_pipe_read(struct uio_pipe *p, struct uio_exec *x, void *buf, size_t len)
{
	while (p->fill == 0) {
		if (x->cancel != 0)
			return -EINTR;
		if (!p->writer_open)
			return 0;
		wait_at(&p->reader, x);
	}
	size_t n = p->fill < len ? p->fill : len;
	if (n > PIPE_SIZE - p->head)
		n = PIPE_SIZE - p->head;
	memcpy(buf, p->buf + p->head, n);
	p->head = (p->head + n) % PIPE_SIZE;
	p->fill -= n;
	wake(p->writer);
	return (ssize_t)n;
}

void uio_pipe_close_writer(struct uio_pipe *p)
{
	if (p == NULL)
		return;
	p->writer_open = false;
	wake(p->reader);
	if (!p->reader_open)
		uio_port_free(p);
}

void uio_pipe_close_reader(struct uio_pipe *p)
{
	if (p == NULL)
		return;
	p->reader_open = false;
	wake(p->writer);
	if (!p->writer_open)
		uio_port_free(p);
}

/* ---- files ---- */

int uio_sink_open(struct uio_sink *s, const char *path, bool append)
{
	*s = (struct uio_sink){.buf = uio_port_alloc(SINK_SIZE)};
	int err = uio_file_open(&s->file, path, O_WRONLY | O_CREAT | (append ? 0 : O_TRUNC), 0644);
	if (err >= 0 && append) {
		int64_t at = uio_file_seek(s->file, 0, 2 /* SEEK_END */);
		err = at < 0 ? (int)at : 0;
	}
	if (err < 0) {
		if (s->file != NULL)
			uio_file_close(s->file);
		s->file = NULL;
		uio_port_free(s->buf);
	}
	return err;
}

static int write_out(struct uio_sink *s, const char *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = uio_file_write(s->file, buf + done, len - done);
		if (n <= 0)
			return n == 0 ? -EIO : (int)n;
		done += (size_t)n;
	}
	return 0;
}

static int flush(struct uio_sink *s)
{
	size_t len = s->len;

	s->len = 0;
	return write_out(s, s->buf, len);
}

ssize_t uio_sink_write(struct uio_sink *s, const void *buf, size_t len)
{
	int err = 0;

	if (s->buf == NULL || len >= SINK_SIZE || len > SINK_SIZE - s->len)
		err = flush(s);
	if (err >= 0 && (s->buf == NULL || len >= SINK_SIZE)) {
		err = write_out(s, buf, len);
	} else if (err >= 0) {
		memcpy(s->buf + s->len, buf, len);
		s->len += len;
	}
	return err < 0 ? err : (ssize_t)len;
}

int uio_sink_close(struct uio_sink *s)
{
	int err = flush(s);
	int closed = uio_file_close(s->file);

	uio_port_free(s->buf);
	return err < 0 ? err : closed;
}
