/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Builtin commands about overlays: run one whatever its name, load, unload,
 * list.
 */
#include <errno.h>
#include <string.h>

#include "exec.h"
#include "overlay.h"

static int run_run(struct uio_exec *x, int argc, char **argv)
{
	struct uio_overlay *o;

	x->argc = argc - 1;
	x->argv = argv + 1;
	if (uio_overlay_pull(x, argv[1], &o) < 0) {
		x->has_result = true;
		return 0;
	}
	return uio_exec_run_overlay(x, o);
}

static int run_load(struct uio_exec *x, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		struct uio_overlay *o;
		if (uio_overlay_pull(x, argv[i], &o) < 0) {
			x->has_result = true;
			return 0;
		}
		uio_exec_printf(x, "%s: %llu KiB at 0x%llx\n", o->name,
				(unsigned long long)(o->size / 1024), (unsigned long long)o->base);
	}
	return 0;
}

/* The first 8 bytes in hexadecimal are enough to tell overlays apart. */
static void short_hash(const uint8_t hash[UIO_HASH_SIZE], char out[17])
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < 8; i++) {
		out[2 * i] = digits[hash[i] >> 4];
		out[2 * i + 1] = digits[hash[i] & 15];
	}
	out[16] = '\0';
}

struct search {
	const char *name;
	uint8_t hash[UIO_HASH_SIZE];
};

static int match(struct uio_overlay *o, void *arg)
{
	struct search *s = arg;
	char hash[17];

	short_hash(o->hash, hash);
	if (strcmp(o->name, s->name) != 0 && strcmp(hash, s->name) != 0)
		return 0;
	memcpy(s->hash, o->hash, UIO_HASH_SIZE);
	return 1;
}

static int run_unload(struct uio_exec *x, int argc, char **argv)
{
	int status = 0;

	for (int i = 1; i < argc; i++) {
		struct search s = {.name = argv[i]};
		int err =
			uio_overlay_foreach(match, &s) != 0 ? uio_overlay_unload(s.hash) : -ENOENT;
		if (err < 0) {
			uio_exec_error(x, "unload: %s: %s\n", argv[i],
				       err == -ENOENT  ? "not resident"
				       : err == -EBUSY ? "running"
						       : uio_error_text(err));
			status = 1;
		}
	}
	return status;
}

static int print_row(struct uio_overlay *o, void *arg)
{
	char hash[17];

	short_hash(o->hash, hash);
	uio_exec_printf(arg, "%-20s %s %7lluK 0x%08llx %5u %s%s\n", o->name, hash,
			(unsigned long long)(o->size / 1024), (unsigned long long)o->base, o->uses,
			o->pushed ? "pushed" : "pulled", o->running != 0 ? ", running" : "");
	return 0;
}

static int run_overlays(struct uio_exec *x, int argc, char **argv)
{
	(void)argc, (void)argv;
	uio_exec_printf(x, "%-20s %-16s %8s %-10s %5s %s\n", "overlay", "hash", "memory", "address",
			"uses", "state");
	uio_overlay_foreach(print_row, x);
	return 0;
}

const struct uio_builtin uio_builtins_overlay[] = {
	{"run NAME [ARGUMENT...]\0run an overlay of /bin", run_run, 1, UIO_BUILTIN_ANY},
	{"load NAME...\0load overlays of /bin without running them", run_load, 1, UIO_BUILTIN_ANY},
	{"unload NAME|HASH...\0unload overlays", run_unload, 1, UIO_BUILTIN_ANY},
	{"overlays\0list resident overlays", run_overlays, 0, 0},
	{NULL, NULL, 0, 0},
};
