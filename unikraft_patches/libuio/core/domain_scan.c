/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The last look at code before it becomes executable: instructions with which
 * an overlay would leave its domain, at any offset, whether or not they are
 * meant as such. The host has looked before, with a longer table
 * (overlays/encodings.py: also for what would harm the overlay itself); this
 * is for bytes that only relocation made up, and for hosts that err.
 */

#include <string.h>

#include "domain.h"

/* Two bytes after 0x0f, the second with a mask (ModRM: /reg, and memory or register operands). */
struct encoding {
	const char *name;
	uint8_t second, mask, value;
	uint8_t mod; /* 1 memory operands, 2 register ones; 0: not looked at */
};

#define ANY     0, 0, 0
#define BYTE(b) 0xff, (b), 0
#define REG(n)  0x38, (n) << 3
#define MEMORY  1
#define DIRECT  2
#define BOTH    3

static const struct encoding table[] = {
	{"wrpkru", 0x01, BYTE(0xef)},
	{"xrstor", 0xae, REG(5), MEMORY},
	{"xrstors", 0xc7, REG(3), MEMORY},
	{"wrmsr", 0x30, ANY},
	{"mov to a control register", 0x22, ANY},
	{"mov to a debug register", 0x23, ANY},
	{"lgdt", 0x01, REG(2), MEMORY},
	{"lidt", 0x01, REG(3), MEMORY},
	{"lmsw", 0x01, REG(6), BOTH},
	{"invlpg", 0x01, REG(7), MEMORY},
	{"lldt", 0x00, REG(2), BOTH},
	{"ltr", 0x00, REG(3), BOTH},
	{"xsetbv", 0x01, BYTE(0xd1)},
	{"swapgs", 0x01, BYTE(0xf8)},
	{"clac", 0x01, BYTE(0xca)},
	{"stac", 0x01, BYTE(0xcb)},
};

static bool fits(const struct encoding *e, uint8_t second, uint8_t third)
{
	bool direct = third >> 6 == 3;

	return second == e->second && (third & e->mask) == e->value &&
	       (!e->mod || e->mod & (direct ? DIRECT : MEMORY));
}

/* wrfsbase and wrgsbase are rdfsbase and such without their prefix F3; invpcid has one more byte.
 */
static const char *with_prefix(const uint8_t *at, const uint8_t *start, size_t left)
{
	bool f3 = (at - start >= 1 && at[-1] == 0xf3) ||
		  (at - start >= 2 && at[-2] == 0xf3 && (at[-1] & 0xf0) == 0x40);

	if (f3 && left >= 3 && at[1] == 0xae && (at[2] & 0xf0) == 0xd0)
		return at[2] & 8 ? "wrgsbase" : "wrfsbase";
	if (at - start >= 1 && at[-1] == 0x66 && left >= 3 && at[1] == 0x38 && at[2] == 0x82)
		return "invpcid";
	return NULL;
}

const char *uio_domain_scan(const uint8_t *code, size_t size, size_t *at)
{
	const uint8_t *end = code + size;

	for (const uint8_t *p = code; (p = memchr(p, 0x0f, (size_t)(end - p))); p++) {
		size_t left = (size_t)(end - p);
		const char *name = with_prefix(p, code, left);

		for (size_t i = 0; !name && left >= 2 && i < sizeof(table) / sizeof(table[0]); i++)
			if (left >= 3 ? fits(&table[i], p[1], p[2])
				      : !table[i].mask && table[i].second == p[1])
				name = table[i].name;
		if (name) {
			*at = (size_t)(p - code);
			return name;
		}
	}
	return NULL;
}
