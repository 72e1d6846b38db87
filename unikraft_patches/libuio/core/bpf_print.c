/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The formatter of the print helpers. The format comes from a program, so
 * nothing of it is believed; strings are read with the fault check.
 */
#include <string.h>

#include "bpf.h"

#define STRING_MAX 128u /* bytes of a %s */

struct out {
	char *buf;
	size_t len, used; /* used < len always */
};

struct spec {
	bool left, zero;
	unsigned int width;
};

static void put(struct out *o, const char *text, size_t n)
{
	if (n > o->len - 1 - o->used)
		n = o->len - 1 - o->used;
	memcpy(o->buf + o->used, text, n);
	o->used += n;
}

static void pad(struct out *o, unsigned int n, char c)
{
	while (n-- > 0)
		put(o, &c, 1);
}

static void put_field(struct out *o, const struct spec *s, const char *sign, const char *text,
		      size_t n)
{
	unsigned int total = (unsigned int)(n + strlen(sign));
	unsigned int fill = s->width > total ? s->width - total : 0;

	if (!s->left && !s->zero)
		pad(o, fill, ' ');
	put(o, sign, strlen(sign));
	if (!s->left && s->zero)
		pad(o, fill, '0');
	put(o, text, n);
	if (s->left)
		pad(o, fill, ' ');
}

static void put_number(struct out *o, const struct spec *s, const char *sign, uint64_t v,
		       unsigned int base, const char *digits)
{
	char text[22];
	size_t i = sizeof(text);

	do {
		text[--i] = digits[v % base];
		v /= base;
	} while (v != 0);
	put_field(o, s, sign, text + i, sizeof(text) - i);
}

static void put_string(struct out *o, const struct bpf_env *env, struct spec *s, uint64_t addr)
{
	char text[STRING_MAX];
	size_t n = 0;

	s->zero = false;
	if (addr == 0) {
		put_field(o, s, "", "(null)", 6);
		return;
	}
	while (n < sizeof(text) && env->probe_read != NULL &&
	       env->probe_read(text + n, addr + n, 1) == 0 && text[n] != '\0')
		n++;
	put_field(o, s, "", text, n);
}

static void put_arg(struct out *o, const struct bpf_env *env, struct spec *s, char conversion,
		    unsigned int longs, uint64_t v)
{
	static const char lower[] = "0123456789abcdef", upper[] = "0123456789ABCDEF";
	int64_t n = (int64_t)v;

	if (longs == 0 && conversion != 'p' && conversion != 's') {
		n = (int32_t)v;
		v = (uint32_t)v;
	}
	switch (conversion) {
	case 'd':
	case 'i':
		put_number(o, s, n < 0 ? "-" : "", n < 0 ? 0 - (uint64_t)n : (uint64_t)n, 10,
			   lower);
		break;
	case 'u':
		put_number(o, s, "", v, 10, lower);
		break;
	case 'x':
		put_number(o, s, "", v, 16, lower);
		break;
	case 'X':
		put_number(o, s, "", v, 16, upper);
		break;
	case 'o':
		put_number(o, s, "", v, 8, lower);
		break;
	case 'p':
		put_number(o, s, "0x", v, 16, lower);
		break;
	case 'c':
		put_field(o, s, "", &(char){(char)v}, 1);
		break;
	default: /* 's' */
		put_string(o, env, s, v);
		break;
	}
}

size_t uio_bpf_format(const struct bpf_env *env, char *buf, size_t len, const char *fmt,
		      size_t fmt_len, const uint64_t *args, unsigned int nargs)
{
	struct out o = {buf, len, 0};
	const char *end = fmt + fmt_len;
	unsigned int next = 0;

	while (fmt < end && *fmt != '\0') {
		const char *start = fmt;
		struct spec s = {false, false, 0};
		unsigned int longs = 0;

		if (*fmt++ != '%') {
			put(&o, start, 1);
			continue;
		}
		for (; fmt < end && (*fmt == '-' || *fmt == '0'); fmt++) {
			s.left = s.left || *fmt == '-';
			s.zero = s.zero || *fmt == '0';
		}
		for (; fmt < end && *fmt >= '0' && *fmt <= '9'; fmt++)
			if (s.width < 256)
				s.width = s.width * 10 + (unsigned int)(*fmt - '0');
		for (; fmt < end && (*fmt == 'l' || *fmt == 'h' || *fmt == 'z'); fmt++)
			longs += *fmt != 'h';
		if (fmt == end || *fmt == '\0') {
			put(&o, start, (size_t)(fmt - start));
			break;
		}
		if (*fmt == '%')
			put(&o, "%", 1);
		else if (memchr("diuxXopcs", *fmt, 9) != NULL)
			put_arg(&o, env, &s, *fmt, longs, next < nargs ? args[next++] : 0);
		else
			put(&o, start, (size_t)(fmt + 1 - start));
		fmt++;
	}
	buf[o.used] = '\0';
	return o.used;
}
