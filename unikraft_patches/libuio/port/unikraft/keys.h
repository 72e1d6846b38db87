/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Protection keys in this port: keys.c decides and switches on, sweep.c deals
 * in page tables, descriptors.c and entry.S in the ways into the kernel.
 */
#ifndef UIO_PORT_UNIKRAFT_KEYS_H
#define UIO_PORT_UNIKRAFT_KEYS_H

#include <uk/arch/lcpu.h>
#include <uk/config.h>

#include "unikraft.h"

/* ---- keys.c ---- */

#if CONFIG_LIBUIO_DOMAIN

/** From here on interrupted code's PKRU is in its registers' pad. Safe in interrupt context. */
extern bool uio_keys_on;

/** With which PKRU the code ran that was interrupted. */
static inline uint32_t uio_keys_of(const struct __regs *r)
{
	return uio_keys_on ? (uint32_t)r->pad : 0;
}

/** Let it go on with all rights. */
static inline void uio_keys_raise(struct __regs *r)
{
	r->pad = 0;
}

#else

static inline uint32_t uio_keys_of(const struct __regs *r)
{
	(void)r;
	return 0;
}

static inline void uio_keys_raise(struct __regs *r)
{
	(void)r;
}

#endif

/* ---- sweep.c ---- */

/** Give all pages that can be written UIO_KEY_KERNEL. */
void uio_sweep_all(void);
/** The same for those of a range that have just been mapped or changed. Safe in trap context. */
void uio_sweep_range(uintptr_t va, size_t bytes);
/** Give single pages, which must be mapped, a key: 0, or -EINVAL. */
int uio_sweep_tag(uintptr_t va, size_t pages, unsigned int key);
/** Let keys not matter for single pages. */
void uio_sweep_untag(uintptr_t va, size_t pages);

/* ---- descriptors.c ---- */

/**
 * Memory for descriptor tables and stacks of interrupts, which the CPU itself
 * uses whatever rights the interrupted code has: 0 or -ENOMEM.
 */
int uio_descriptors_make(void);
/** Interrupts and exceptions come over entry.S from now on. */
void uio_descriptors_use(void);

/* ---- entry.S ---- */

/** Go on where the interrupted code was that r describes. */
__attribute__((noreturn)) void uio_entry_resume(const struct __regs *r);

#endif /* UIO_PORT_UNIKRAFT_KEYS_H */
