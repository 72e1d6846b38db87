/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Serial port (16550 at COM1) and formatted messages. A message is formatted into one buffer first,
 * so that lines of the kernel and of the application do not mix within.
 */
#include "print.h"

#include "cpu.h"
#include "power.h"

#include <stdbool.h>
#include <string.h>

#define COM1     0x3f8
#define FIFO     16
#define LSR      5
#define LSR_THRE 0x20

void serial_init(void)
{
	outb(COM1 + 1, 0);    /* no interrupts */
	outb(COM1 + 3, 0x80); /* divisor */
	outb(COM1 + 0, 1);    /* 115200 */
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 3); /* 8n1 */
	outb(COM1 + 2, 7); /* FIFO on and empty */
	outb(COM1 + 4, 3);
}

static void serial_wait(void)
{
	/* A port that nobody empties must not stop the guest: give up after a while. */
	for (unsigned int i = 0; i < 100000 && !(inb(COM1 + LSR) & LSR_THRE); i++)
		__asm__ volatile("pause");
}

void serial_write(const char *text, size_t len)
{
	unsigned int room = 0;

	for (size_t i = 0; i < len; i++) {
		if (text[i] == '\n' && room)
			room--;
		if (!room) {
			serial_wait();
			room = FIFO - 1;
		}
		if (text[i] == '\n')
			outb(COM1, '\r');
		outb(COM1, (uint8_t)text[i]);
		room--;
	}
}

struct line {
	char text[256];
	size_t len;
};

static void put(struct line *line, char c)
{
	if (line->len == sizeof(line->text)) {
		serial_write(line->text, line->len);
		line->len = 0;
	}
	line->text[line->len++] = c;
}

static void put_number(struct line *line, uint64_t value, unsigned int base, int width, char pad)
{
	char digits[24];
	int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	for (; width > n; width--)
		put(line, pad);
	while (n)
		put(line, digits[--n]);
}

static void put_text(struct line *line, const char *text, int width)
{
	int n = 0;

	for (; text[n]; n++)
		put(line, text[n]);
	for (; n < width; n++)
		put(line, ' ');
}

void kvprintf(const char *format, va_list ap)
{
	struct line line = {.len = 0};

	for (const char *p = format; *p; p++) {
		char pad = ' ';
		int width = 0;
		bool wide = false;
		int64_t number;

		if (*p != '%') {
			put(&line, *p);
			continue;
		}
		p++;
		if (*p == '0')
			pad = *p++;
		for (; *p >= '0' && *p <= '9'; p++)
			width = width * 10 + *p - '0';
		for (; *p == 'l' || *p == 'z'; p++)
			wide = true;
		switch (*p) {
		case 's':
			put_text(&line, va_arg(ap, const char *), width);
			break;
		case 'c':
			put(&line, (char)va_arg(ap, int));
			break;
		case 'd':
			number = wide ? va_arg(ap, long) : va_arg(ap, int);
			if (number < 0)
				put(&line, '-');
			put_number(&line, number < 0 ? -(uint64_t)number : (uint64_t)number, 10,
				   width, pad);
			break;
		case 'u':
			put_number(&line,
				   wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned int), 10,
				   width, pad);
			break;
		case 'x':
			put_number(&line,
				   wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned int), 16,
				   width, pad);
			break;
		case 'p':
			put_text(&line, "0x", 0);
			put_number(&line, (uint64_t)va_arg(ap, void *), 16, width, pad);
			break;
		default:
			put(&line, *p);
		}
	}
	serial_write(line.text, line.len);
}

void kprintf(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	kvprintf(format, ap);
	va_end(ap);
}

void panic(const char *format, ...)
{
	va_list ap;

	__asm__ volatile("cli");
	kprintf("refguest: panic: ");
	va_start(ap, format);
	kvprintf(format, ap);
	va_end(ap);
	kprintf("\n");
	power_panic();
}
