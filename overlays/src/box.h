/* SPDX-License-Identifier: BSD-3-Clause */
/* What the shipped overlays share: numbers, places in memory and usage texts on the command line.
 */
#ifndef BOX_H
#define BOX_H

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uio/uio.h>

#define NS UINT64_C(1000000000)

struct place {
	uint64_t address;
	uint64_t size; /* what is left of the symbol; 0: not known */
	bool function;
};

/** `NAME --help` is answered with the text on standard output. */
static inline bool box_help(int argc, char **argv, const char *text)
{
	if (argc != 2 || (strcmp(argv[1], "--help") != 0 && strcmp(argv[1], "-h") != 0))
		return false;
	fputs(text, stdout);
	return true;
}

/** The first line of a usage text, for wrong arguments. */
static inline int box_usage(const char *text)
{
	fprintf(stderr, "%.*s\n", (int)strcspn(text, "\n"), text);
	return 2;
}

/** 12, 0x1f: the whole text. */
static inline bool box_number(const char *text, uint64_t *out)
{
	char *end;

	if (!text || !isdigit((unsigned char)*text))
		return false;
	*out = strtoull(text, &end, 0);
	return !*end;
}

/** 2, 2s, 500ms as nanoseconds, more than 0. */
static inline bool box_time(const char *text, uint64_t *ns)
{
	uint64_t unit = NS;
	char *end;

	if (!text || !isdigit((unsigned char)*text))
		return false;
	*ns = strtoull(text, &end, 10);
	if (!strcmp(end, "ms"))
		unit = NS / 1000;
	else if (!strcmp(end, "min"))
		unit = 60 * NS;
	else if (*end && strcmp(end, "s") != 0)
		return false;
	if (!*ns || *ns > 86400 * NS / unit)
		return false;
	*ns *= unit;
	return true;
}

/** "count", "table+8", "0x112233"; says what is wrong itself. */
static inline bool box_place(const char *who, const char *text, struct place *out)
{
	struct uio_symbol_info info;
	const char *plus = strchr(text, '+');
	size_t len = plus ? (size_t)(plus - text) : strlen(text);
	uint64_t offset = 0;
	char name[256];

	*out = (struct place){0};
	if (plus && !box_number(plus + 1, &offset)) {
		fprintf(stderr, "%s: '%s' is no offset\n", who, plus + 1);
		return false;
	}
	if (len >= sizeof(name)) {
		fprintf(stderr, "%s: the name is too long\n", who);
		return false;
	}
	memcpy(name, text, len);
	name[len] = '\0';
	if (box_number(name, &out->address)) {
		out->address += offset;
		return true;
	}
	if (uio_symbol(name, &info)) {
		fprintf(stderr, "%s: there is no symbol '%s'\n", who, name);
		return false;
	}
	out->address = info.address + offset;
	out->size = offset < info.size ? info.size - offset : 0;
	out->function = info.type == 1;
	return true;
}

#endif
