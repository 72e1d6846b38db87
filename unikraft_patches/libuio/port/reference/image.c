/* SPDX-License-Identifier: BSD-3-Clause */
/* Time, log, the image, and uio_start() before the application's main(). */
#include <string.h>

#include <uio/port.h>

#include "boot.h"
#include "lapic.h"
#include "print.h"
#include "signal.h"

#define NOTE_BUILD_ID 3

uint64_t uio_port_ns(void)
{
	return clock_ns();
}

uint64_t uio_port_wall_s(void)
{
	uint64_t s = (clock_wall_base + clock_ns()) / 1000000000ull;

	return s > 1000000000 ? s : 0; /* a machine without that clock counts from 1970 */
}

void uio_port_log(const char *text, size_t len)
{
	serial_write(text, len);
}

void uio_port_image(struct uio_image *out)
{
	/* struct elf_note: sizes of name and description, type, "GNU", the id. */
	const uint32_t *note = (const uint32_t *)__build_id_start;
	bool has_id =
		__build_id_end - __build_id_start > 16 && note[0] == 4 && note[2] == NOTE_BUILD_ID;

	*out = (struct uio_image){
		.base = (uintptr_t)__image_start,
		.end = (uintptr_t)__image_end,
		.text_start = (uintptr_t)__text_start,
		.text_end = (uintptr_t)__text_end,
		.slide = 0,
		.build_id = has_id ? __build_id_start + 16 : NULL,
		.build_id_len = has_id ? note[1] : 0,
		.kernel = REFGUEST_VERSION,
	};
}

int uio_port_signal(int sig)
{
	return signal_process(sig);
}

/* The kernel can be built without libuio's core. */
#pragma weak uio_start

/** In the application's first thread, after the C library has set itself up. */
__attribute__((constructor(101))) static void start(void)
{
	if (uio_start)
		uio_start();
}
