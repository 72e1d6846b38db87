/* SPDX-License-Identifier: BSD-3-Clause */
/* Exceptions in code of the arena, each caught by the hook and unwound. */
#include <setjmp.h>
#include <string.h>

#include "selftest.h"

static jmp_buf out;
static struct uio_trap seen;
static uintptr_t code_start;
static char unwind_stack[4096] __attribute__((aligned(16)));

static void unwind(void)
{
	longjmp(out, 1);
}

static bool hook(struct uio_trap *trap)
{
	bool ours = trap->ip - code_start < UIO_PAGE_SIZE || trap->kind == UIO_TRAP_EXECUTE;

	seen = *trap;
	if (!ours)
		return false;
	trap->ip = (uintptr_t)unwind;
	/* The stack pointer may be anything: unwind on a stack of its own. */
	trap->sp = (uintptr_t)unwind_stack + sizeof(unwind_stack) - 8;
	return true;
}

struct attempt {
	const char *name, *code;
	size_t len;
	enum uio_trap_kind kind;
	uint64_t address;
};

#define CODE(bytes) bytes, sizeof(bytes) - 1

/* rdi is the address. */
static const struct attempt attempts[] = {
	{"read null", CODE("\x8b\x07\xc3"), UIO_TRAP_READ, 0},
	{"write null", CODE("\x89\x07\xc3"), UIO_TRAP_WRITE, 8},
	{"write to text", CODE("\x89\x07\xc3"), UIO_TRAP_WRITE, (uint64_t)test_traps},
	{"write to rodata", CODE("\x89\x07\xc3"), UIO_TRAP_WRITE, (uint64_t)attempts},
	{"write to own text", CODE("\x89\x07\xc3"), UIO_TRAP_WRITE, 1},
	{"execute data", CODE("\xff\xe7"), UIO_TRAP_EXECUTE, (uint64_t)&seen},
	{"execute null", CODE("\xff\xe7"), UIO_TRAP_EXECUTE, 0},
	{"non-canonical", CODE("\x8b\x07\xc3"), UIO_TRAP_PROTECTION, 0x8000000000000000},
	{"ud2", CODE("\x0f\x0b"), UIO_TRAP_INVALID_OPCODE, 0},
	{"divide", CODE("\x31\xd2\x31\xc9\xf7\xf1\xc3"), UIO_TRAP_DIVIDE, 0},
	{"stack overflow", CODE("\x48\x89\xfc\x50\xc3"), UIO_TRAP_STACK, 0x70100000},
};

static bool good;

static bool try(const struct attempt *attempt)
{
	void (*code)(uint64_t) =
		(void (*)(uint64_t))(uintptr_t)map_code(attempt->code, attempt->len);
	uint64_t address = attempt->address == 1 ? (uint64_t)(uintptr_t)code : attempt->address;
	volatile bool caught = false;

	CHECK(code);
	code_start = (uintptr_t)code;
	memset(&seen, 0, sizeof(seen));
	if (!setjmp(out))
		code(address);
	else
		caught = true;
	unmap_code((void *)(uintptr_t)code);
	if (!caught || seen.kind != attempt->kind)
		printf("selftest: %s: kind %d, address %lx, error %lx\n", attempt->name,
		       (int)seen.kind, (unsigned long)seen.address, (unsigned long)seen.error_code);
	CHECK(caught);
	CHECK(seen.kind == attempt->kind);
	if (seen.vector == 14 && attempt->kind != UIO_TRAP_STACK)
		CHECK(seen.address == address);
	CHECK(seen.regs[5] == address); /* rdi */
	return true;
}

static void all(void *arg)
{
	(void)arg;
	good = true;
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++)
			good = try(&attempts[i]) && good;
	}
}

bool test_traps(void)
{
	uio_port_trap_hook(hook);
	CHECK(run_ours(all, NULL));
	uio_port_trap_hook(NULL);
	return good;
}
