/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chosen memory of the running application as an ELF core file, which gdb opens beside the kernel's
 * ELF with symbols: `gdb app.dbg app.core`. The application goes on meanwhile, so what takes long
 * to write is not of one moment.
 */
// uio: name = "snapshot"
// uio: version = "1.0"
// uio: description = "write chosen memory of the application to a core file for gdb"
// uio: usage = "[-o FILE] [data | stacks | SYMBOL[:LENGTH] | ADDRESS:LENGTH]…"
// uio: help = """
// uio: data    the variables of kernel and application: .data, .bss
// uio: stacks  the stacks of the application's threads, as far as they are in use
// uio: Nothing named: data stacks.
// uio: -o FILE (/host/snapshot.core)
// uio: """
#include <elf.h>
#include <errno.h>
#include <fcntl.h>

#include "box.h"

static const char text[] =
	"usage: snapshot [-o FILE] [data | stacks | SYMBOL[:LENGTH] | ADDRESS:LENGTH]…\n"
	"Write memory of the application to an ELF core file: `gdb KERNEL.dbg FILE` shows "
	"variables\n"
	"and backtraces of it.\n"
	"  data            the variables of kernel and application: .data, .bss\n"
	"  stacks          the stacks of the application's threads, from where they are, 64 KiB at "
	"most\n"
	"  SYMBOL          a variable; with :LENGTH so many bytes from there\n"
	"  ADDRESS:LENGTH  any memory, such as a buffer on the heap\n"
	"Nothing named: data stacks. -o FILE: /host/snapshot.core\n"
	"Status: 0, 1 it could not be written, 2 wrong usage.\n";

#define RANGES_MAX  512
#define THREADS_MAX 256
#define STACK_MAX   65536u
#define PAGE        4096u
#define RED_ZONE    128u

struct range {
	uint64_t address, size;
};

/* The kernel's struct elf_prstatus of x86-64 Linux: what NT_PRSTATUS holds. */
struct prstatus {
	int32_t signo, code, error;
	int16_t cursig, pad0;
	uint64_t sigpend, sighold;
	int32_t pid, ppid, pgrp, sid;
	uint64_t times[8];
	struct {
		uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi,
			orig_rax, rip, cs, eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs;
	} reg;
	int32_t fpvalid, pad1;
};
_Static_assert(sizeof(struct prstatus) == 336, "as gdb expects it");

struct note {
	Elf64_Nhdr head;
	char name[8];
	struct prstatus status;
} __attribute__((packed)); /* notes are aligned to 4 bytes */

static struct range ranges[RANGES_MAX];
static struct note notes[THREADS_MAX];
static Elf64_Phdr headers[RANGES_MAX + 1];
static unsigned int nranges, nnotes;
static uint8_t buffer[65536];

static bool add(uint64_t address, uint64_t size)
{
	if (nranges == RANGES_MAX) {
		fprintf(stderr, "snapshot: more than %d ranges\n", RANGES_MAX);
		return false;
	}
	ranges[nranges++] = (struct range){address, size};
	return true;
}

static uint64_t bound(const char *const names[])
{
	struct uio_symbol_info info;

	for (; *names; names++) {
		if (!uio_symbol(*names, &info))
			return info.address;
	}
	return 0;
}

static bool add_data(void)
{
	static const char *const low[] = {"__data_start", "_data", "data_start", NULL};
	static const char *const high[] = {"__image_end", "_end", "end", NULL};
	uint64_t start = bound(low), end = bound(high);

	if (start && start < end)
		return add(start, end - start);
	fprintf(stderr, "snapshot: this kernel has no symbols around its data\n");
	return false;
}

static int add_thread(const struct uio_thread_entry *t, void *arg)
{
	struct note *n = &notes[nnotes];

	if (t->ours || !t->ip || nnotes == THREADS_MAX)
		return 0;
	nnotes++;
	memset(n, 0, sizeof(*n));
	n->head = (Elf64_Nhdr){5, sizeof(n->status), NT_PRSTATUS};
	memcpy(n->name, "CORE", 5);
	n->status.pid = (int32_t)t->id;
	n->status.reg.rip = t->ip;
	n->status.reg.rsp = t->sp;
	n->status.reg.rbp = t->fp;
	n->status.reg.cs = 8;
	if (*(bool *)arg) {
		uint64_t start = (t->sp - RED_ZONE) & ~(uint64_t)(PAGE - 1);
		uint64_t size = 0;

		/* Up to the end of the stack, which nobody knows: to a page that is not there. */
		while (size < STACK_MAX &&
		       uio_peek(buffer, (const void *)(start + size), PAGE) == PAGE)
			size += PAGE;
		if (size && !add(start, size))
			return 1;
	}
	return 0;
}

static bool add_word(char *word, bool *stacks)
{
	char *colon = strchr(word, ':');
	struct place place;
	uint64_t size = 0;

	if (!strcmp(word, "stacks")) {
		*stacks = true;
		return true;
	}
	if (!strcmp(word, "data"))
		return add_data();
	if (colon) {
		if (!box_number(colon + 1, &size)) {
			fprintf(stderr, "snapshot: '%s' is no length\n", colon + 1);
			return false;
		}
		*colon = '\0';
	}
	if (!box_place("snapshot", word, &place))
		return false;
	size = size ? size : place.size;
	if (size)
		return add(place.address, size);
	fprintf(stderr, "snapshot: how many bytes of %s? Say %s:LENGTH\n", word, word);
	return false;
}

static int by_address(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

/** What lies in another range is in the file once. */
static void merge(void)
{
	unsigned int n = 0;

	qsort(ranges, nranges, sizeof(*ranges), by_address);
	for (unsigned int i = 0; i < nranges; i++) {
		uint64_t end = ranges[i].address + ranges[i].size;

		if (n && ranges[i].address <= ranges[n - 1].address + ranges[n - 1].size) {
			if (end > ranges[n - 1].address + ranges[n - 1].size)
				ranges[n - 1].size = end - ranges[n - 1].address;
			continue;
		}
		ranges[n++] = ranges[i];
	}
	nranges = n;
}

static bool put(int fd, const void *data, size_t size)
{
	ssize_t n = size ? uio_write(fd, data, size) : 0;

	if (n >= 0)
		return true;
	fprintf(stderr, "snapshot: cannot write: %s\n", strerror((int)-n));
	return false;
}

static bool put_headers(int fd)
{
	uint64_t at = sizeof(Elf64_Ehdr) + (nranges + 1) * sizeof(Elf64_Phdr);
	Elf64_Ehdr head = {
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_CORE,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(head),
		.e_ehsize = sizeof(head),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = (uint16_t)(nranges + 1),
	};

	headers[0] = (Elf64_Phdr){.p_type = PT_NOTE,
				  .p_offset = at,
				  .p_filesz = nnotes * sizeof(*notes),
				  .p_align = 4};
	at += headers[0].p_filesz;
	for (unsigned int i = 0; i < nranges; i++) {
		at += (ranges[i].address - at) &
		      (PAGE - 1); /* alike modulo the page, as ELF wants it */
		headers[i + 1] = (Elf64_Phdr){.p_type = PT_LOAD,
					      .p_flags = PF_R | PF_W,
					      .p_offset = at,
					      .p_vaddr = ranges[i].address,
					      .p_filesz = ranges[i].size,
					      .p_memsz = ranges[i].size,
					      .p_align = PAGE};
		at += ranges[i].size;
	}
	return put(fd, &head, sizeof(head)) && put(fd, headers, (nranges + 1) * sizeof(*headers)) &&
	       put(fd, notes, nnotes * sizeof(*notes));
}

static bool put_range(int fd, const struct range *range, uint64_t offset, uint64_t *missing)
{
	int64_t where = uio_seek(fd, (int64_t)offset, SEEK_SET);

	if (where < 0) {
		fprintf(stderr, "snapshot: cannot write: %s\n", strerror((int)-where));
		return false;
	}
	for (uint64_t done = 0; done < range->size;) {
		uint64_t left = range->size - done;
		size_t step = left < sizeof(buffer) ? left : sizeof(buffer);
		ssize_t n = uio_peek(buffer, (const void *)(range->address + done), step);
		size_t good = n > 0 ? (size_t)n : 0;

		if (good < step) { /* the rest of a page that is not there */
			size_t end = step;

			if (end - good > PAGE)
				end = good + (PAGE - (range->address + done + good) % PAGE);
			memset(buffer + good, 0, end - good);
			*missing += end - good;
			step = end;
		}
		if (!put(fd, buffer, step))
			return false;
		done += step;
	}
	return true;
}

int main(int argc, char **argv)
{
	const char *path = "/host/snapshot.core";
	uint64_t bytes = 0, missing = 0;
	bool stacks = false, good;
	int i = 1, fd;

	if (box_help(argc, argv, text))
		return 0;
	nranges = nnotes = 0;
	for (; i < argc && argv[i][0] == '-'; i += 2) {
		if (strcmp(argv[i], "-o") != 0 || i + 1 == argc)
			return box_usage(text);
		path = argv[i + 1];
	}
	if (i == argc) {
		stacks = true;
		if (!add_data())
			return 1;
	}
	for (; i < argc; i++) {
		if (!add_word(argv[i], &stacks))
			return 1;
	}
	if (uio_threads(add_thread, &stacks))
		return 1;
	merge();
	fd = uio_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0) {
		fprintf(stderr, "snapshot: %s: %s\n", path, strerror(-fd));
		return 1;
	}
	good = put_headers(fd);
	for (unsigned int r = 0; good && r < nranges; r++) {
		good = put_range(fd, &ranges[r], headers[r + 1].p_offset, &missing);
		bytes += ranges[r].size;
	}
	if (uio_close(fd) && good) {
		fprintf(stderr, "snapshot: %s: it was not written to its end\n", path);
		good = false;
	}
	if (!good) {
		uio_unlink(path);
		return 1;
	}
	printf("%s: %" PRIu64 " bytes in %u ranges, %u threads\n", path, bytes, nranges, nnotes);
	if (missing)
		fprintf(stderr, "snapshot: %" PRIu64 " bytes are not there to be read: zeros\n",
			missing);
	return 0;
}
