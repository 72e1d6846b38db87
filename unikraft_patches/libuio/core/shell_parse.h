/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The shell's language: words with quotes, `|`, `;`, `<`, `>`, `>>` and `#`.
 */
#ifndef UIO_CORE_SHELL_PARSE_H
#define UIO_CORE_SHELL_PARSE_H

#include <stdbool.h>
#include <stddef.h>

#define UIO_SHELL_STAGES 8
#define UIO_SHELL_WORDS  128

struct uio_stage_words {
	int argc;
	char **argv; /* within words */
	const char *in, *out;
	bool append;
};

/* One pipeline. Strings lie in text, which belongs to the caller. */
struct uio_pipeline_words {
	int stages;
	struct uio_stage_words stage[UIO_SHELL_STAGES];
	int words;
	char *word[UIO_SHELL_WORDS + UIO_SHELL_STAGES];
};

/**
 * Take the next pipeline off *line, up to `;` or the end. Words are made in
 * text, which has room for as many bytes as the line, its NUL, and one more
 * per stage. NULL, or what is wrong with the line. No stages: nothing to do.
 */
const char *uio_shell_parse(const char **line, char *text, struct uio_pipeline_words *out);

#endif /* UIO_CORE_SHELL_PARSE_H */
