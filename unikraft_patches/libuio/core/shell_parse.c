/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Taking a line apart. A word may be quoted in part: 'as it is', "with \" and
 * \\", and \ before any character.
 */
#include "shell_parse.h"

#include <string.h>

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static bool ends_word(char c)
{
	return c == '\0' || is_blank(c) || strchr("|;<>", c) != NULL;
}

/* One word from *at to *text, NUL-terminated. NULL, or the complaint. */
static const char *take_word(const char **at, char **text)
{
	const char *c = *at;
	char *t = *text;

	while (!ends_word(*c)) {
		if (*c == '\'') {
			for (c++; *c != '\'' && *c != '\0';)
				*t++ = *c++;
			if (*c++ == '\0')
				return "a ' has no partner";
		} else if (*c == '"') {
			for (c++; *c != '"' && *c != '\0';) {
				if (*c == '\\' && (c[1] == '"' || c[1] == '\\'))
					c++;
				*t++ = *c++;
			}
			if (*c++ == '\0')
				return "a \" has no partner";
		} else {
			if (*c == '\\' && *++c == '\0')
				return "nothing follows the \\";
			*t++ = *c++;
		}
	}
	*t++ = '\0';
	*at = c;
	*text = t;
	return NULL;
}

static void skip_blanks(const char **at)
{
	while (is_blank(**at))
		++*at;
	if (**at == '#')
		*at += strlen(*at);
}

const char *uio_shell_parse(const char **line, char *text, struct uio_pipeline_words *out)
{
	struct uio_stage_words *s = &out->stage[0];
	const char *at = *line, *why;

	*s = (struct uio_stage_words){.argv = out->word};
	out->stages = 0;
	out->words = 0;
	for (;;) {
		skip_blanks(&at);
		char c = *at;
		if (c == '\0' || c == ';' || c == '|') {
			bool empty = s->argc == 0 && s->in == NULL && s->out == NULL;
			if (c == '|' || out->stages > 0 || !empty) {
				if (s->argc == 0)
					return "a command is missing";
				out->word[out->words++] = NULL;
				out->stages++;
			}
			if (c != '\0')
				at++;
			if (c != '|')
				break;
			if (out->stages == UIO_SHELL_STAGES)
				return "too many commands in one pipeline";
			s = &out->stage[out->stages];
			*s = (struct uio_stage_words){.argv = out->word + out->words};
			continue;
		}
		const char *word = text;
		if (c == '<' || c == '>') {
			bool append = c == '>' && at[1] == '>';
			at += append ? 2 : 1;
			skip_blanks(&at);
			if (ends_word(*at))
				return "a file's name is missing";
			why = take_word(&at, &text);
			if (why != NULL)
				return why;
			if (c == '<') {
				s->in = word;
			} else {
				s->out = word;
				s->append = append;
			}
			continue;
		}
		if (out->words - out->stages >= UIO_SHELL_WORDS)
			return "too many words";
		out->word[out->words] = text;
		why = take_word(&at, &text);
		if (why != NULL)
			return why;
		out->words++;
		s->argc++;
	}
	*line = at;
	return NULL;
}
