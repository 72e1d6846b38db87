/* SPDX-License-Identifier: BSD-3-Clause */
/* Loading the module, calling it, and what it may refer to. */
#include "module.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "hits.h"
#include "overlay_impl.h"
#include "probe.h"
#include "sha256.h"

#define PATH     "/modules/bpf"
#define FILE_MAX (1024u * 1024) /* bytes */

static struct uio_resident *resident; /* NULL: not loaded */
static const struct uio_module *module;

/* All that the module needs of the image: its object has these names undefined (build.mk checks
 * that), and they are kept in the image for it. */
#define NAMES(X)                                                                                   \
	X(memchr)                                                                                  \
	X(memcmp)                                                                                  \
	X(memcpy)                                                                                  \
	X(memmove)                                                                                 \
	X(memset)                                                                                  \
	X(strcmp)                                                                                  \
	X(strcpy)                                                                                  \
	X(strlen)                                                                                  \
	X(strnlen)                                                                                 \
	X(strtoul)                                                                                 \
	X(uio_builtin_usage)                                                                       \
	X(uio_context_wake)                                                                        \
	X(uio_exec_cancel)                                                                         \
	X(uio_exec_error)                                                                          \
	X(uio_exec_hold)                                                                           \
	X(uio_exec_printf)                                                                         \
	X(uio_exec_read)                                                                           \
	X(uio_exec_result)                                                                         \
	X(uio_exec_stopping)                                                                       \
	X(uio_exec_write)                                                                          \
	X(uio_hit_entered)                                                                         \
	X(uio_hit_entry)                                                                           \
	X(uio_hit_missed)                                                                          \
	X(uio_hit_return)                                                                          \
	X(uio_hit_returned)                                                                        \
	X(uio_hit_sites)                                                                           \
	X(uio_port_alloc)                                                                          \
	X(uio_port_event_signal)                                                                   \
	X(uio_port_event_wait)                                                                     \
	X(uio_port_free)                                                                           \
	X(uio_port_hold)                                                                           \
	X(uio_port_ns)                                                                             \
	X(uio_port_signal)                                                                         \
	X(uio_port_sleep)                                                                          \
	X(uio_port_text_write)                                                                     \
	X(uio_port_thread_foreach)                                                                 \
	X(uio_port_thread_id)                                                                      \
	X(uio_probe_read)

#define NAME(name)    #name "\0"
#define ADDRESS(name) (const void *)&name,
static const char names[] = NAMES(NAME);
static const void *const addresses[] = {NAMES(ADDRESS)};

static const void *symbol(const char *name)
{
	const void *const *address = addresses;

	for (const char *at = names; *at; at += strlen(at) + 1, address++)
		if (!strcmp(at, name))
			return *address;
	return NULL;
}

/* What a pulled module is. */
static struct uio_resident *take(struct uio_exec *x, const void *file, size_t size)
{
	uint8_t hash[UIO_HASH_SIZE];

	uio_sha256(file, size, hash);
	if (memcmp(hash, uio_module_hash, sizeof(hash)) != 0) {
		uio_exec_result(x, UIO_EXIT_REFUSED, -EACCES,
				"bpf: the host's " PATH " was not built with this kernel");
		return NULL;
	}
	return uio_loader_load(x, "bpf", hash, file, size, symbol);
}

static bool load(struct uio_exec *x)
{
	struct uio_resident *taken;
	void *file;
	size_t size;
	int rc = uio_ninep_slurp(PATH, &file, &size, FILE_MAX, NULL);

	if (rc == -EINTR) {
		uio_run_stopped(x, "bpf");
		return false;
	}
	if (rc) {
		uio_exec_result(x, UIO_EXIT_ERROR, rc,
				"bpf: " PATH ", where the host has eBPF for this kernel: %s",
				uio_error_text(rc));
		return false;
	}
	taken = take(x, file, size);
	uio_port_free(file);
	if (taken && resident) {
		uio_resident_free(taken); /* another command was faster */
	} else if (taken) {
		resident = taken;
		module = (const struct uio_module *)taken->o.entry;
	}
	return taken;
}

/*
 * Code at addresses where overlays are would be preempted as they are. This is
 * the core's, which gives the CPU away where it waits and nowhere else.
 */
static int run_bpf(struct uio_exec *x, int argc, char **argv)
{
	bool pinned;
	int status;

	if (!resident && !load(x)) {
		x->has_result = true;
		return 0;
	}
	resident->o.running++;
	pinned = uio_port_pin(true);
	status = module->builtin->run(x, argc, argv);
	uio_port_pin(pinned);
	resident->o.running--;
	return status;
}

uint64_t uio_bpf_tick(uint64_t now_ns)
{
	uint64_t due = UINT64_MAX;

	if (resident) {
		bool pinned = uio_port_pin(true);

		due = module->tick(now_ns);
		uio_port_pin(pinned);
	}
	return due;
}

bool uio_module_drop(void)
{
	if (!resident || resident->o.running)
		return false;
	uio_resident_free(resident);
	resident = NULL;
	return true;
}

size_t uio_module_size(void)
{
	return resident ? resident->o.size : 0;
}

const struct uio_builtin uio_builtins_bpf[] = {
	{UIO_BUILTIN_BPF_USAGE, run_bpf, 0, UIO_BUILTIN_ANY},
	{NULL, NULL, 0, 0},
};
