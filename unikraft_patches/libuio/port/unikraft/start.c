/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The port's beginnings: the init call that starts the uIO context before the
 * application's main(), and what the core asks about the kernel around it:
 * its image, its log, its clock.
 */
#include <string.h>
#include <uk/essentials.h>
#include <uk/init.h>
#include <uk/print.h>
#include <uk/plat/time.h>
#include <uk/plat/common/sections.h>
#if CONFIG_LIBUKCONSOLE
#include <uk/console.h>
#endif

#include "unikraft.h"

/* Where the linker script places the image, before any relocation. */
#define LINK_BASE 0x100000ul

/* buildid.lds.S puts these around the note that the linker writes. */
extern const uint8_t uio_build_id_note[], uio_build_id_note_end[];

/* apptext.lds.S */
extern const char uio_app_etext[];

/* Header of an ELF note; name and descriptor follow, each padded to 4 bytes. */
struct note {
	uint32_t name_len, desc_len, type;
	char name[4];
	uint8_t desc[];
};
#define NT_GNU_BUILD_ID 3

static void find_build_id(struct uio_image *out)
{
	const struct note *note = (const struct note *)uio_build_id_note;
	size_t room = (size_t)(uio_build_id_note_end - uio_build_id_note);

	if (room < sizeof(*note) || note->type != NT_GNU_BUILD_ID || note->name_len != 4 ||
	    memcmp(note->name, "GNU", 4) != 0 || note->desc_len > room - sizeof(*note))
		return;
	out->build_id = note->desc;
	out->build_id_len = note->desc_len;
}

void uio_port_image(struct uio_image *out)
{
	memset(out, 0, sizeof(*out));
	out->base = __BASE_ADDR;
	out->end = (__END + UIO_PAGE_SIZE - 1) & ~(uintptr_t)(UIO_PAGE_SIZE - 1);
	out->text_start = __TEXT;
	out->text_end = (uintptr_t)uio_app_etext; /* directly behind the kernel's own */
#if CONFIG_OPTIMIZE_PIE
	out->slide = out->base - LINK_BASE;
#endif
	out->kernel = "Unikraft " STRINGIFY(UK_FULLVERSION);
	find_build_id(out);
}

uint64_t uio_port_ns(void)
{
	return ukplat_monotonic_clock();
}

uint64_t uio_port_wall_s(void)
{
	uint64_t s = ukplat_wall_clock() / 1000000000u;

	return s > 1000000000 ? s : 0; /* without a clock it counts from 1970 */
}

void uio_port_log(const char *text, size_t len)
{
#if CONFIG_LIBUKCONSOLE
	while (len > 0) {
		__ssz n = uk_console_out(text, len);

		if (n <= 0)
			return;
		text += n;
		len -= (size_t)n;
	}
#else
	uk_pr_info("%.*s", (int)len, text);
#endif
}

/*
 * An error must not keep the application from starting, so it is only logged:
 * the init table stops the boot for any negative value.
 */
static int start(struct uk_init_ctx *ctx __unused)
{
	int rc = uio_memory_init();

	uio_thread_init();
	uio_tlb_init();
#if CONFIG_LIBUIO_9PFS
	uio_ninep_transport_init();
#endif
	if (rc == 0)
		rc = uio_start();
	if (rc < 0)
		uk_pr_err("uIO is off: %s (%d)\n", strerror(-rc), rc);
	return 0;
}
uk_late_initcall(start, 0x0);
