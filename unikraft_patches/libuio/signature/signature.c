/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guest's own check of an overlay's signatures (docs/overlays.md), for
 * kernels that do not rely on the host for it. The rule is the host's: one
 * trusted key's signature is good, and none of a trusted key's is wrong.
 */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ed25519.h"
#include "overlay_impl.h"
#include "trusted.h"

static const char domain[24] = "uIO overlay signature 1";

#define FIELDS_SIZE offsetof(struct uio_signature, signature)
_Static_assert(FIELDS_SIZE == 32, "file format");

/* Why the file is refused; read before any other thread runs. */
static char words[184];

struct writer {
	size_t at;
};

__attribute__((format(printf, 2, 3))) static void say(struct writer *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(words + w->at, sizeof(words) - w->at, fmt, ap);
	va_end(ap);
	if (n > 0)
		w->at += (size_t)n < sizeof(words) - w->at ? (size_t)n : sizeof(words) - w->at - 1;
}

static void say_id(struct writer *w, const uint8_t id[16])
{
	for (unsigned int i = 0; i < 16; i++)
		say(w, "%02x", id[i]);
}

static void say_key(struct writer *w, const struct uio_trusted_key *key)
{
	say(w, "%s (", key->name);
	say_id(w, key->id);
	say(w, ")");
}

/* The keys whose signature would have done, as far as there is room. */
static void say_wanted(struct writer *w)
{
	for (unsigned int i = 0; i < uio_trusted_key_count; i++) {
		if (sizeof(words) - w->at < sizeof(" or  ()") + 24 + 32) {
			say(w, ", …");
			return;
		}
		say(w, i ? " or " : "");
		say_key(w, &uio_trusted_keys[i]);
	}
}

/* A Unix time as a date of the Gregorian calendar, which repeats every 400 years. */
static void say_date(struct writer *w, uint64_t seconds)
{
	/* Days since the first of March of the year 0: leap days come last in a year then. */
	uint64_t days = seconds / 86400 + 719468, era = days / 146097, day = days % 146097;
	uint64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
	uint64_t of_year = day - (365 * year + year / 4 - year / 100);
	uint64_t month = (5 * of_year + 2) / 153; /* 0: March */

	day = of_year - (153 * month + 2) / 5 + 1;
	say(w, "%llu-%02llu-%02llu", (unsigned long long)(era * 400 + year + (month >= 10 ? 1 : 0)),
	    (unsigned long long)(month < 10 ? month + 3 : month - 9), (unsigned long long)day);
}

static const struct uio_trusted_key *trusted(const uint8_t id[16])
{
	for (unsigned int i = 0; i < uio_trusted_key_count; i++)
		if (!memcmp(uio_trusted_keys[i].id, id, 16))
			return &uio_trusted_keys[i];
	return NULL;
}

static bool is_right(const struct uio_trusted_key *key, const struct uio_signature *s,
		     const uint8_t *elf, size_t size)
{
	const struct uio_piece pieces[] = {{domain, sizeof(domain)}, {s, FIELDS_SIZE}, {elf, size}};

	return uio_ed25519_check(s->signature, key->raw, pieces, 3);
}

/* Right, but with an end: in the past, or a guest without a clock cannot tell. */
static const char *over(const struct uio_trusted_key *key, uint64_t not_after, uint64_t now)
{
	struct writer w = {0};

	say(&w, "its signature by ");
	say_key(&w, key);
	say(&w, now ? " expired on " : " expires, and this guest has no clock: on ");
	say_date(&w, not_after);
	return words;
}

static const char *changed(const struct uio_trusted_key *key)
{
	struct writer w = {0};

	say(&w, "it was changed after it was signed by ");
	say_key(&w, key);
	return words;
}

static const char *wanted(const struct uio_signature *stranger)
{
	struct writer w = {0};

	if (stranger) {
		say(&w, "it is signed by key ");
		say_id(&w, stranger->key_id);
		say(&w, ", not by ");
	} else {
		say(&w, "it is not signed; this kernel wants it signed by ");
	}
	say_wanted(&w);
	return words;
}

const char *uio_signature_refusal(const uint8_t *elf, size_t size, const struct uio_signature *s,
				  unsigned int n)
{
	uint64_t now = uio_port_wall_s ? uio_port_wall_s() : 0;
	const struct uio_signature *ended = NULL;
	bool good = false;

	for (unsigned int i = 0; i < n; i++) {
		const struct uio_trusted_key *key = trusted(s[i].key_id);

		if (!key)
			continue;
		if (!is_right(key, &s[i], elf, size))
			return changed(key);
		if (s[i].not_after && (!now || now >= s[i].not_after))
			ended = &s[i];
		else
			good = true;
	}
	if (good)
		return NULL;
	return ended ? over(trusted(ended->key_id), ended->not_after, now) : wanted(n ? s : NULL);
}
