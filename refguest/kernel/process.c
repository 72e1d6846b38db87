/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The application's beginning and end. Ending it ends the machine, unless the command line says
 * `exit=stay`: then its threads are gone but those of libuio go on.
 */
#include "process.h"

#include <elf.h>
#include <string.h>

#include "boot.h"
#include "memory.h"
#include "power.h"
#include "print.h"
#include "sched.h"
#include "syscall.h"

#define STACK_SIZE (1ull << 20)
#define MAX_ARGS   64

extern void _start(void);

static char *arguments[MAX_ARGS + 1];
static int argument_count;
static char *options[MAX_ARGS + 1];
static int option_count;

/** Split the command line in place: kernel options, `--`, the application's arguments. Quotes group
 * words. */
void boot_parse(char *line)
{
	bool app = false;

	arguments[argument_count++] = (char *)"app";
	while (*line) {
		char *word = line, *out = line;
		char quote = 0;

		for (; *line && (quote || *line != ' '); line++) {
			if (quote ? *line == quote : *line == '"' || *line == '\'')
				quote = quote ? 0 : *line;
			else
				*out++ = *line;
		}
		if (*line)
			line++;
		if (out == word && word[0] != '"' && word[0] != '\'')
			continue;
		*out = 0;
		if (!app && !strcmp(word, "--"))
			app = true;
		else if (app && argument_count < MAX_ARGS)
			arguments[argument_count++] = word;
		else if (!app && option_count < MAX_ARGS)
			options[option_count++] = word;
	}
}

const char *boot_option(const char *name)
{
	size_t len = strlen(name);

	for (int i = option_count - 1; i >= 0; i--) {
		if (!strncmp(options[i], name, len) && options[i][len] == '=')
			return options[i] + len + 1;
	}
	return NULL;
}

static uint64_t app_stack(uint64_t top)
{
	static const char *const environment[] = {"HOME=/", "PATH=/bin", "TERM=dumb",
						  "TMPDIR=/tmp"};
	const Elf64_Ehdr *ehdr = (const Elf64_Ehdr *)__image_start;
	uint64_t *random = (uint64_t *)(top - 16);
	uint64_t *sp = random;
	const uint64_t auxv[] = {
		AT_PAGESZ, PAGE_SIZE,
		AT_PHDR,   (uint64_t)__image_start + ehdr->e_phoff,
		AT_PHENT,  ehdr->e_phentsize,
		AT_PHNUM,  ehdr->e_phnum,
		AT_ENTRY,  (uint64_t)_start,
		AT_UID,    0,
		AT_EUID,   0,
		AT_GID,    0,
		AT_EGID,   0,
		AT_SECURE, 0,
		AT_CLKTCK, 100,
		AT_RANDOM, (uint64_t)random,
		AT_NULL,   0,
	};
	size_t env = sizeof(environment) / sizeof(environment[0]);
	size_t words = 1 + (size_t)argument_count + 1 + env + 1 + sizeof(auxv) / 8;

	random_bytes(random, 16);
	sp -= words + words % 2;
	top = (uint64_t)sp;
	*sp++ = (uint64_t)argument_count;
	for (int i = 0; i < argument_count; i++)
		*sp++ = (uint64_t)arguments[i];
	*sp++ = 0;
	for (size_t i = 0; i < env; i++)
		*sp++ = (uint64_t)environment[i];
	*sp++ = 0;
	memcpy(sp, auxv, sizeof(auxv));
	return top;
}

void process_start(void)
{
	struct thread *t = thread_create("main");
	size_t pages = page_count(STACK_SIZE) + 1;
	uintptr_t stack = frames_alloc(pages);
	struct frame frame = {.vector = FRAME_FULL, .cs = 8, .ss = 16, .rflags = RFLAGS_IF | 2};

	if (!t || !stack)
		panic("no memory for the application's first thread");
	page_protect(stack, 1, PTE_OWNED); /* guard */
	t->stack_size = STACK_SIZE;
	frame.rip = (uint64_t)_start;
	frame.rsp = app_stack(stack + pages * PAGE_SIZE);
	thread_start(t, &frame);
}

static _Noreturn void end(void)
{
	const char *option = boot_option("exit");
	struct thread *t, *next;

	if (!option || strcmp(option, "stay") != 0)
		power_off();
	for (t = all_threads; t; t = next) {
		next = t->next;
		if (!t->ours && t != current)
			thread_kill(t);
	}
	thread_exit();
}

void process_exit(int status)
{
	kprintf("refguest: application exited with status %d\n", status);
	end();
}

void process_killed(int sig)
{
	kprintf("refguest: application killed by signal %d, status %d\n", sig, 128 + sig);
	end();
}
