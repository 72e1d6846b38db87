/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A kernel for fuzz targets: memory is the sanitizers' heap, so that every
 * byte outside a block is noticed; the arena is real pages; nothing runs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "domain.h"
#include "fuzz_port.h"

/* Below ASan's shadow, and below 2 GiB. */
#define ARENA_BASE 0x60000000ul
#define ARENA_SIZE (16ul << 20)

#define WEAK __attribute__((weak))

uint64_t fuzz_clock;
size_t fuzz_pages, fuzz_blocks;

uint64_t uio_port_ns(void)
{
	return fuzz_clock += 1000;
}

void uio_port_log(const char *text, size_t len)
{
	(void)text, (void)len;
}

void uio_port_image(struct uio_image *out)
{
	static const uint8_t build_id[20] = "\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17\20\21\22\23";

	*out = (struct uio_image){.base = FUZZ_IMAGE,
				  .end = FUZZ_IMAGE + 0x100000,
				  .text_start = FUZZ_IMAGE,
				  .text_end = FUZZ_IMAGE + 0x80000,
				  .build_id = build_id,
				  .build_id_len = sizeof(build_id),
				  .kernel = "fuzz"};
}

void *uio_port_alloc(size_t size)
{
	void *p = size > (64u << 20) ? NULL : malloc(size);

	fuzz_blocks += p != NULL;
	return p;
}

void uio_port_free(void *ptr)
{
	fuzz_blocks -= ptr != NULL;
	free(ptr);
}

void uio_port_meminfo(size_t *total, size_t *free_bytes)
{
	*total = *free_bytes = 1u << 30;
}

void uio_port_arena(uintptr_t *base, size_t *size)
{
	*base = ARENA_BASE;
	*size = ARENA_SIZE;
}

int uio_port_map(uintptr_t va, size_t pages, unsigned int prot)
{
	if (va % UIO_PAGE_SIZE || va < ARENA_BASE || va - ARENA_BASE >= ARENA_SIZE ||
	    pages > (ARENA_SIZE - (va - ARENA_BASE)) / UIO_PAGE_SIZE ||
	    prot != (UIO_PROT_READ | UIO_PROT_WRITE))
		abort();
	if (mmap((void *)va, pages * UIO_PAGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		abort(); /* mapped twice */
	fuzz_pages += pages;
	return 0;
}

int uio_port_protect(uintptr_t va, size_t pages, unsigned int prot)
{
	if ((prot & UIO_PROT_WRITE && prot & UIO_PROT_EXEC) ||
	    mprotect((void *)va, pages * UIO_PAGE_SIZE, PROT_READ))
		abort();
	return 0;
}

int uio_port_unmap(uintptr_t va, size_t pages)
{
	fuzz_pages -= pages;
	return munmap((void *)va, pages * UIO_PAGE_SIZE);
}

struct uio_thread *uio_port_thread_self(void)
{
	return (struct uio_thread *)&fuzz_clock;
}

int uio_port_thread_create(struct uio_thread **out, const char *name, void (*fn)(void *), void *arg,
			   size_t stack)
{
	(void)out, (void)name, (void)fn, (void)arg, (void)stack;
	return -EAGAIN;
}

void uio_port_event_init(struct uio_event *ev)
{
	memset(ev, 0, sizeof(*ev));
}

void uio_port_event_signal(struct uio_event *ev)
{
	ev->opaque[0] = 1;
}

WEAK int uio_port_event_wait(struct uio_event *ev, uint64_t ns)
{
	(void)ev;
	fuzz_clock += ns < 1000000000 ? ns : 1000000000;
	return 0;
}

/* ---- the rest of libuio, as far as the targets need it ---- */

struct uio_exec *uio_exec_self(void)
{
	return NULL;
}

bool uio_exec_stopping(const struct uio_exec *x)
{
	return x->cancel != 0;
}

void uio_exec_result(struct uio_exec *x, enum uio_exit_kind kind, int status, const char *fmt, ...)
{
	va_list args;

	x->result.kind = kind;
	x->result.status = status;
	va_start(args, fmt);
	vsnprintf(x->result.message, sizeof(x->result.message), fmt, args);
	va_end(args);
}

void uio_log(int level, const char *fmt, ...)
{
	(void)level, (void)fmt;
}

void uio_channel_gone(const uint8_t hash[32])
{
	(void)hash;
}

void uio_channel_feature(uint64_t bits)
{
	(void)bits;
}

/* Nothing runs: there are gates to fill in and none to go through, and no stacks. */
const char uio_gate_entry[16], uio_gate_back_keys[16], uio_gate_back_plain[16];
uint64_t *uio_gate_table, uio_gate_count;

WEAK bool uio_api_has(uint64_t function)
{
	return function % 2;
}

WEAK bool uio_run_trim(void)
{
	return false;
}

WEAK void uio_run_free_stack(struct uio_resident *r)
{
	(void)r;
}

WEAK uintptr_t uio_stack_low(uintptr_t range, size_t pages)
{
	(void)pages;
	return range;
}

WEAK void uio_run_destructors(struct uio_resident *r)
{
	(void)r;
	abort(); /* nothing has run */
}

WEAK void uio_run_stopped(struct uio_exec *x, const char *name)
{
	uio_exec_result(x, UIO_EXIT_CANCELLED, -EINTR, "%s", name);
}

WEAK int uio_ninep_identity(const char *path, struct uio_file_identity *out)
{
	(void)path, (void)out;
	return -EIO;
}

WEAK int uio_ninep_slurp(const char *path, void **out, size_t *size, size_t max,
			 struct uio_file_identity *identity)
{
	(void)path, (void)out, (void)size, (void)max, (void)identity;
	return -EIO;
}
