/* SPDX-License-Identifier: BSD-3-Clause */
/* What the fuzz targets share: see fuzz_port.c. */
#ifndef FUZZ_PORT_H
#define FUZZ_PORT_H

#include "channel.h"
#include "exec.h"
#include "ninep.h"
#include "overlay_impl.h"

#define FUZZ_IMAGE 0x400000ul /* where the kernel is said to be; nobody looks there */

extern uint64_t fuzz_clock;
extern size_t fuzz_pages, fuzz_blocks; /* in use */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif /* FUZZ_PORT_H */
