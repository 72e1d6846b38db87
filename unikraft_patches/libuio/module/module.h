/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The eBPF machine as a module: a part of libuio that is not in the image. It
 * is an object (ET_REL) in a section of the kernel's ELF that is not loaded,
 * from which uiod shows it as /modules/bpf of uIO-fs. The first `bpf` command
 * has it loaded; a second after the last command it is gone again.
 *
 * It runs with all rights of libuio, so it must be what was built with this
 * image, and the image holds its SHA-256. Names it refers to are looked up in
 * a table here (module.c): of the host it needs its bytes, and nothing else.
 */
#ifndef UIO_MODULE_H
#define UIO_MODULE_H

#include "exec.h"

/* What a module hands out, as an object of the name uio_module. */
struct uio_module {
	/** The command `bpf`. */
	const struct uio_builtin *builtin;
	/** Timers, called by the context; returns when to be called again. */
	uint64_t (*tick)(uint64_t now_ns);
};

/** Of the object in the kernel's ELF (embed.S). */
extern const uint8_t uio_module_hash[32];

#endif /* UIO_MODULE_H */
