/* SPDX-License-Identifier: BSD-3-Clause */
/* Lines "KEY SIGNATURE MESSAGE" in hexadecimal ("-": empty) in, "good" or "bad" out: the guest's
 * Ed25519 alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uio/port.h>

#include "ed25519.h"

void uio_port_yield(void)
{
}

static size_t unhex(const char *text, uint8_t *out)
{
	size_t n = 0;
	unsigned int byte;

	for (; *text != '-' && sscanf(text, "%2x", &byte) == 1; text += 2)
		out[n++] = (uint8_t)byte;
	return n;
}

int main(void)
{
	static char key[80], signature[160], message[4 << 20];
	static uint8_t k[32], s[64], m[2 << 20];

	while (scanf("%79s %159s %4194303s", key, signature, message) == 3) {
		unhex(key, k);
		unhex(signature, s);
		size_t n = unhex(message, m), half = n / 3;
		const struct uio_piece pieces[] = {{m, half}, {m + half, n - half}};
		puts(uio_ed25519_check(s, k, pieces, 2) ? "good" : "bad");
	}
	return 0;
}
