/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The string functions that the kernel uses. The C library's own may touch vector registers, which
 * belong to the interrupted application, and read the stack protector's value through %fs. Hidden,
 * so that only the kernel sees these.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

void *memcpy(void *restrict to, const void *restrict from, size_t len)
{
	void *out = to;
	size_t words = len / 8, rest = len % 8;

	__asm__ volatile("rep movsq" : "+D"(out), "+S"(from), "+c"(words) : : "memory");
	__asm__ volatile("rep movsb" : "+D"(out), "+S"(from), "+c"(rest) : : "memory");
	return to;
}

void *memset(void *to, int value, size_t len)
{
	void *out = to;
	size_t words = len / 8, rest = len % 8;
	uint64_t pattern = (uint8_t)value * 0x0101010101010101ull;

	__asm__ volatile("rep stosq" : "+D"(out), "+c"(words) : "a"(pattern) : "memory");
	__asm__ volatile("rep stosb" : "+D"(out), "+c"(rest) : "a"(pattern) : "memory");
	return to;
}

void *memmove(void *to, const void *from, size_t len)
{
	uint8_t *out = to;
	const uint8_t *in = from;

	if (out <= in || out >= in + len)
		return memcpy(to, from, len);
	while (len--) {
		out[len] = in[len];
		__asm__ volatile("" : : : "memory"); /* or the compiler makes it a call of itself */
	}
	return to;
}

int memcmp(const void *left, const void *right, size_t len)
{
	const uint8_t *l = left, *r = right;

	for (; len; len--, l++, r++) {
		if (*l != *r)
			return *l - *r;
	}
	return 0;
}

size_t strlen(const char *s)
{
	size_t len = 0;

	for (; s[len]; len++)
		__asm__ volatile("");
	return len;
}

int strncmp(const char *left, const char *right, size_t len)
{
	for (; len; len--, left++, right++) {
		if (*left != *right || !*left)
			return (uint8_t)*left - (uint8_t)*right;
	}
	return 0;
}

int strcmp(const char *left, const char *right)
{
	return strncmp(left, right, SIZE_MAX);
}

char *strcpy(char *restrict to, const char *restrict from)
{
	return memcpy(to, from, strlen(from) + 1);
}

/** As the C library's, but for the padding: one NUL is enough here. */
char *strncpy(char *restrict to, const char *restrict from, size_t len)
{
	size_t i = 0;

	for (; i < len && from[i]; i++)
		to[i] = from[i];
	if (i < len)
		to[i] = 0;
	return to;
}
