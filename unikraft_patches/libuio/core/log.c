/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libuio's own log: the last lines in a ring for `dmesg`, warnings also in the
 * kernel's log. The channel carries it to the host (uio_channel_log).
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "context.h"

#define RING_SIZE 4096u
#define LINE_MAX  256u

static char ring[RING_SIZE];
static size_t ring_end; /* bytes ever written */

static void ring_add(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		ring[(ring_end + i) % RING_SIZE] = text[i];
	ring_end += len;
}

void uio_log_read(void (*fn)(void *arg, const char *text, size_t len), void *arg)
{
	size_t start = ring_end > RING_SIZE ? ring_end - RING_SIZE : 0;

	/* The oldest line has lost its beginning: leave it out. */
	if (start > 0)
		while (start < ring_end && ring[start++ % RING_SIZE] != '\n')
			;
	size_t first = start % RING_SIZE;
	size_t len = ring_end - start;
	size_t part = len < RING_SIZE - first ? len : RING_SIZE - first;
	fn(arg, ring + first, part);
	if (len > part)
		fn(arg, ring, len - part);
}

/* Names from outside may be in it; a log is one line per entry and plain text. */
static void clean(char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			text[i] = '?';
}

void uio_log(int level, const char *fmt, ...)
{
	char line[LINE_MAX];
	uint64_t now = uio_port_ns();
	int head = snprintf(line, sizeof(line), "[%5llu.%06llu] ",
			    (unsigned long long)(now / 1000000000u),
			    (unsigned long long)(now / 1000u % 1000000u));
	va_list ap;

	va_start(ap, fmt);
	int body = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, fmt, ap);
	va_end(ap);
	if (body < 0)
		return;
	if ((size_t)body > sizeof(line) - (size_t)head - 2)
		body = (int)(sizeof(line) - (size_t)head - 2);
	clean(line + head, (size_t)body);
	line[head + body] = '\n';
	ring_add(line, (size_t)(head + body + 1));
	if (level <= 4) {
		uio_port_log("uio: ", 5);
		uio_port_log(line + head, (size_t)body + 1);
	}
	uio_channel_log(level, line + head, (size_t)body);
}
