/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For the core's files that run in the midst of a function of the application
 * (Makefile.uk includes it before them): Unikraft's C libraries are compiled
 * with vector registers, which hold that function's arguments. So these files
 * get the few functions they call as code of their own.
 */
#ifndef UIO_PORT_UNIKRAFT_ISR_H
#define UIO_PORT_UNIKRAFT_ISR_H

#include <stdint.h>
#include <string.h>

#define UIO_ISR_INLINE static inline __attribute__((always_inline, unused))

UIO_ISR_INLINE void *uio_isr_memcpy(void *dst, const void *src, size_t n)
{
	void *to = dst;

	if (__builtin_constant_p(n) && n <= 16)
		return __builtin_memcpy(dst, src, n);
	__asm__ __volatile__("rep movsb" : "+D"(to), "+S"(src), "+c"(n) : : "memory");
	return dst;
}

UIO_ISR_INLINE void *uio_isr_memmove(void *dst, const void *src, size_t n)
{
	unsigned char *to = dst;
	const unsigned char *from = src;

	if (to <= from || to >= from + n)
		return uio_isr_memcpy(dst, src, n);
	while (n-- > 0)
		to[n] = from[n];
	return dst;
}

UIO_ISR_INLINE void *uio_isr_memset(void *dst, int value, size_t n)
{
	void *to = dst;

	if (__builtin_constant_p(n) && n <= 16)
		return __builtin_memset(dst, value, n);
	__asm__ __volatile__("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
	return dst;
}

UIO_ISR_INLINE int uio_isr_memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *x = a, *y = b;

	for (; n > 0; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

UIO_ISR_INLINE void *uio_isr_memchr(const void *s, int c, size_t n)
{
	const unsigned char *p = s;

	for (; n > 0; n--, p++)
		if (*p == (unsigned char)c)
			return (void *)(uintptr_t)p;
	return NULL;
}

UIO_ISR_INLINE size_t uio_isr_strnlen(const char *s, size_t max)
{
	size_t n = 0;

	while (n < max && s[n] != '\0')
		n++;
	return n;
}

#define memcpy    uio_isr_memcpy
#define memmove   uio_isr_memmove
#define memset    uio_isr_memset
#define memcmp    uio_isr_memcmp
#define memchr    uio_isr_memchr
#define strnlen   uio_isr_strnlen
#define strlen(s) uio_isr_strnlen(s, SIZE_MAX)

#endif /* UIO_PORT_UNIKRAFT_ISR_H */
