/* SPDX-License-Identifier: BSD-3-Clause */
/* What the module with the eBPF machine hands out: a part of the module, not of the image. */
#include "context.h"
#include "module.h"

extern const struct uio_module uio_module;

const struct uio_module uio_module = {uio_builtins_bpf, uio_bpf_tick};
