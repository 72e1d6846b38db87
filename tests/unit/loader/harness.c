/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libuio's loader and fault handling as a Linux program that a test drives by
 * lines on standard input, answering each with a line of JSON. It is a port of
 * its own with one thread: an overlay's exceptions arrive as signals, a timer
 * plays the context that ends overlays whose time is up. It also plays the
 * host: SYMQ is answered from this program's own symbol table.
 *
 *   pull PATH [ARGUMENT…]            load an object as the guest does, run it
 *   push PATH [ARGUMENT…]            map a linked image, run it
 *   link PATH                        load an object and give it back at once
 *   loop N PATH [ARGUMENT…]          N times: load, run, unload
 *   unload                           all that is unused
 *   input TEXT | timeout MS | cancel SIGNAL MS | tty | limit BYTES
 *   state                            pages, heap blocks, resident overlays
 *   describe                         what an image must be linked for
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "channel.h"
#include "exec.h"
#include "file.h"
#include "ninep.h"
#include "overlay.h"

/* Below 2 GiB, and above what the kernel randomizes the heap of a static program into. */
#define ARENA_BASE 0x60000000ul
#define ARENA_SIZE (64ul << 20)

extern char __executable_start[], etext[], end[];

static size_t mapped_pages, heap_blocks, heap_bytes, heap_limit = 1ul << 30;
static uint64_t cancel_at;
static int cancel_signal;

/* ---- the application ---- */

long app_counter = 5;
char app_text[64] = "text of the application";

long app_sum(long a, long b, long c, long d, long e, long f, long g, long h);
long app_sum(long a, long b, long c, long d, long e, long f, long g, long h)
{
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h;
}

int app_call(int (*fn)(int), int value);
int app_call(int (*fn)(int), int value)
{
	return fn(value) + 1;
}

void app_fill(char *to, int value, size_t n);
void app_fill(char *to, int value, size_t n)
{
	memset(to, value, n);
}

__attribute__((used)) static const void *const application[] = {
	app_sum, app_call, app_fill, &app_counter, app_text, qsort,   snprintf,
	strlen,  memcpy,   strcmp,   memmove,      memset,   strcpy,  strtol,
	strchr,  rand,     abs,      atoi,         strcat,   longjmp,
};

/* ---- port: memory, time ---- */

uint64_t uio_port_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void uio_port_log(const char *text, size_t len)
{
	fwrite(text, 1, len, stderr);
}

static uint8_t build_id[20];

void uio_port_image(struct uio_image *out)
{
	*out = (struct uio_image){
		.base = (uintptr_t)__executable_start & ~4095ul,
		.end = ((uintptr_t)end + 4095) & ~4095ul,
		.text_start = (uintptr_t)__executable_start,
		.text_end = (uintptr_t)etext,
		.build_id = build_id,
		.build_id_len = sizeof(build_id),
		.kernel = "harness",
	};
}

void *uio_port_alloc(size_t size)
{
	size_t *p = size > heap_limit - heap_bytes ? NULL : malloc(size + 16);

	if (!p)
		return NULL;
	heap_blocks++;
	heap_bytes += size;
	*p = size;
	return (char *)p + 16;
}

void uio_port_free(void *ptr)
{
	if (!ptr)
		return;
	heap_blocks--;
	heap_bytes -= *(size_t *)((char *)ptr - 16);
	free((char *)ptr - 16);
}

void uio_port_meminfo(size_t *total, size_t *free_bytes)
{
	*total = heap_limit;
	*free_bytes = heap_limit - heap_bytes;
}

void uio_port_arena(uintptr_t *base, size_t *size)
{
	*base = ARENA_BASE;
	*size = ARENA_SIZE;
}

static int native(unsigned int prot)
{
	return (prot & UIO_PROT_READ ? PROT_READ : 0) | (prot & UIO_PROT_WRITE ? PROT_WRITE : 0) |
	       (prot & UIO_PROT_EXEC ? PROT_EXEC : 0);
}

int uio_port_map(uintptr_t va, size_t pages, unsigned int prot)
{
	void *p = mmap((void *)va, pages * 4096, native(prot),
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	mapped_pages += pages;
	return 0;
}

int uio_port_protect(uintptr_t va, size_t pages, unsigned int prot)
{
	if (prot & UIO_PROT_WRITE && prot & UIO_PROT_EXEC)
		return -EINVAL;
	return mprotect((void *)va, pages * 4096, native(prot)) ? -errno : 0;
}

int uio_port_unmap(uintptr_t va, size_t pages)
{
	mapped_pages -= pages;
	return munmap((void *)va, pages * 4096) ? -errno : 0;
}

/* ---- port: one thread ---- */

static struct uio_thread *self = (struct uio_thread *)&self;
static struct uio_exec *running;

struct uio_thread *uio_port_thread_self(void)
{
	return self;
}

/* Threads run at once and to their end: whoever makes one has to wait for it anyway. */
int uio_port_thread_create(struct uio_thread **out, const char *name, void (*fn)(void *), void *arg,
			   size_t stack)
{
	static char others[1024];
	static unsigned int made;
	struct uio_thread *before = self;

	(void)name, (void)stack;
	self = (struct uio_thread *)&others[made++ % sizeof(others)];
	*out = self;
	fn(arg);
	self = before;
	return 0;
}

int uio_port_thread_foreach(int (*fn)(const struct uio_thread_info *, void *), void *arg)
{
	struct uio_thread_info info = {.name = "harness", .id = 1, .state = 'R', .ours = true};

	return fn(&info, arg);
}

void uio_port_yield(void)
{
}

void uio_port_sleep(uint64_t ns)
{
	usleep((useconds_t)(ns / 1000));
}

void uio_port_event_init(struct uio_event *ev)
{
	memset(ev, 0, sizeof(*ev));
}

void uio_port_event_signal(struct uio_event *ev)
{
	__atomic_store_n(&ev->opaque[0], 1, __ATOMIC_SEQ_CST);
}

int uio_port_event_wait(struct uio_event *ev, uint64_t ns)
{
	uint64_t end_ns = uio_port_ns() + ns;

	while (!__atomic_exchange_n(&ev->opaque[0], 0, __ATOMIC_SEQ_CST)) {
		if (uio_port_ns() >= end_ns)
			return -ETIMEDOUT;
		usleep(500);
	}
	return 0;
}

/* ---- port: exceptions and diversion, as signals ---- */

static uio_trap_hook hook;
static void (*divert_to)(void *);
static void *divert_arg;

void uio_port_trap_hook(uio_trap_hook fn)
{
	hook = fn;
}

int uio_port_thread_divert(struct uio_thread *t, void (*fn)(void *), void *arg)
{
	if (t != self)
		return -EAGAIN;
	divert_to = fn;
	divert_arg = arg;
	return 0;
}

static const int reg_order[UIO_TRAP_NREGS] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI,
					      REG_RDI, REG_RBP, REG_R8,  REG_R9,  REG_R10,
					      REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static enum uio_trap_kind kind_of(int sig, unsigned int vector, uint64_t error)
{
	if (sig == SIGILL)
		return UIO_TRAP_INVALID_OPCODE;
	if (sig == SIGFPE)
		return UIO_TRAP_DIVIDE;
	if (vector == 13)
		return UIO_TRAP_PROTECTION;
	if (vector != 14)
		return UIO_TRAP_OTHER;
	return error & 16 ? UIO_TRAP_EXECUTE : error & 2 ? UIO_TRAP_WRITE : UIO_TRAP_READ;
}

static void on_exception(int sig, siginfo_t *info, void *context)
{
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct uio_trap trap = {
		.vector = (unsigned int)g[REG_TRAPNO],
		.error_code = (uint64_t)g[REG_ERR],
		.address = (uint64_t)info->si_addr,
		.ip = (uint64_t)g[REG_RIP],
		.sp = (uint64_t)g[REG_RSP],
		.flags = (uint64_t)g[REG_EFL],
	};

	trap.kind = kind_of(sig, trap.vector, trap.error_code);
	for (int i = 0; i < UIO_TRAP_NREGS; i++)
		trap.regs[i] = (uint64_t)g[reg_order[i]];
	if (!hook || !hook(&trap)) {
		signal(sig, SIG_DFL); /* it happens again, and is fatal */
		return;
	}
	for (int i = 0; i < UIO_TRAP_NREGS; i++)
		g[reg_order[i]] = (greg_t)trap.regs[i];
	g[REG_RIP] = (greg_t)trap.ip;
	g[REG_RSP] = (greg_t)trap.sp;
	g[REG_EFL] = (greg_t)trap.flags;
}

static void on_timer(int sig, siginfo_t *info, void *context)
{
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)sig, (void)info;
	if (!running)
		return;
	if (cancel_at && uio_port_ns() >= cancel_at) {
		running->cancel = cancel_signal;
		uio_port_event_signal(&running->wake);
	}
	if (!uio_exec_stopping(running) || uio_overlay_stop(running) || !divert_to)
		return;
	/* Only overlay text is left in the middle of something, as a kernel would have it. */
	if ((uint64_t)g[REG_RIP] - ARENA_BASE >= ARENA_SIZE) {
		divert_to = NULL;
		return;
	}
	g[REG_RIP] = (greg_t)(uintptr_t)divert_to;
	g[REG_RDI] = (greg_t)(uintptr_t)divert_arg;
	g[REG_RSP] = ((g[REG_RSP] - 256) & ~15l) - 8;
	divert_to = NULL;
}

/* ---- the command: exec.h ---- */

struct capture {
	char text[1 << 16];
	size_t used, total;
} captured[3];
static const char *input = "";

struct uio_exec *uio_exec_self(void)
{
	return running;
}

ssize_t uio_exec_write(struct uio_exec *x, unsigned int stream, const void *buf, size_t len)
{
	struct capture *c = &captured[stream];
	size_t n = sizeof(c->text) - c->used < len ? sizeof(c->text) - c->used : len;

	if (uio_exec_stopping(x))
		return -EINTR;
	memcpy(c->text + c->used, buf, n);
	c->used += n;
	c->total += len;
	return (ssize_t)len;
}

ssize_t uio_exec_write_last(struct uio_exec *x, const void *buf, size_t len)
{
	return uio_exec_write(x, 1, buf, len);
}

ssize_t uio_exec_read(struct uio_exec *x, void *buf, size_t len)
{
	size_t n = strlen(input) < len ? strlen(input) : len;

	(void)x;
	memcpy(buf, input, n);
	input += n;
	return (ssize_t)n;
}

void uio_exec_cancel(struct uio_exec *x, int signal)
{
	x->cancel = signal;
	uio_port_event_signal(&x->wake);
}

void uio_channel_feature(uint64_t bits)
{
	(void)bits;
}

bool uio_exec_stopping(const struct uio_exec *x)
{
	return x->cancel || uio_port_ns() >= x->deadline_ns;
}

void uio_exec_returned(struct uio_exec *x, int status)
{
	uio_exec_result(x, UIO_EXIT_OK, status, "%s", "");
}

void uio_exec_result(struct uio_exec *x, enum uio_exit_kind kind, int status, const char *fmt, ...)
{
	va_list args;

	x->result.kind = kind;
	x->result.status = status;
	va_start(args, fmt);
	vsnprintf(x->result.message, sizeof(x->result.message), fmt, args);
	va_end(args);
}

/* ---- the host: symbols of this program, the channel ---- */

static const Elf64_Sym *symbols;
static size_t nsymbols;
static const char *names;
static unsigned int gone, questions;

static void *contents(const char *path, size_t *size)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	char *data;

	if (fd < 0 || fstat(fd, &st))
		return NULL;
	data = malloc((size_t)st.st_size + 1);
	*size = (size_t)read(fd, data, (size_t)st.st_size);
	close(fd);
	return data;
}

static void read_symbols(void)
{
	size_t size;
	char *self_elf = contents("/proc/self/exe", &size);
	Elf64_Ehdr *h = (Elf64_Ehdr *)self_elf;
	Elf64_Shdr *s = (Elf64_Shdr *)(self_elf + h->e_shoff);

	for (int i = 0; i < h->e_shnum; i++) {
		char *data = self_elf + s[i].sh_offset;

		/* Note header, "GNU\0", the id */
		if (s[i].sh_type == SHT_NOTE && ((Elf64_Nhdr *)data)->n_type == NT_GNU_BUILD_ID)
			memcpy(build_id, data + sizeof(Elf64_Nhdr) + 4, sizeof(build_id));
		if (s[i].sh_type != SHT_SYMTAB)
			continue;
		symbols = (Elf64_Sym *)(self_elf + s[i].sh_offset);
		nsymbols = s[i].sh_size / sizeof(*symbols);
		names = self_elf + s[s[i].sh_link].sh_offset;
	}
}

static const Elf64_Sym *lookup(const char *name)
{
	for (size_t i = 0; i < nsymbols; i++)
		if (ELF64_ST_BIND(symbols[i].st_info) != STB_LOCAL && symbols[i].st_shndx &&
		    !strcmp(names + symbols[i].st_name, name))
			return &symbols[i];
	return NULL;
}

/* glibc chooses some functions when it starts: ask as it does. */
static uint64_t address_of(const Elf64_Sym *s)
{
	if (ELF64_ST_TYPE(s->st_info) == STT_GNU_IFUNC)
		return ((uint64_t(*)(void))(uintptr_t)s->st_value)();
	return s->st_value;
}

static bool is_function(const Elf64_Sym *s)
{
	unsigned int type = ELF64_ST_TYPE(s->st_info);

	return type == STT_FUNC || type == STT_GNU_IFUNC;
}

int uio_channel_symq(const uint8_t hash[32], const char *const *asked, unsigned int n,
		     struct uio_symbol *out)
{
	(void)hash;
	questions++;
	for (unsigned int i = 0; i < n; i++) {
		char own[300];
		const Elf64_Sym *s;

		snprintf(own, sizeof(own), "uio_libc_%s", asked[i]);
		s = lookup(own);
		if (!s)
			s = lookup(asked[i]);
		out[i] = (struct uio_symbol){0};
		if (!strcmp(asked[i], "symbol_outside"))
			out[i] = (struct uio_symbol){.address = 0x123, .type = 1};
		else if (s)
			out[i] = (struct uio_symbol){
				.address = address_of(s),
				.size = (uint32_t)s->st_size,
				.type = is_function(s) ? 1 : 2,
			};
	}
	return 0;
}

void uio_channel_gone(const uint8_t hash[32])
{
	(void)hash;
	gone++;
}

void uio_log(int level, const char *fmt, ...)
{
	(void)level, (void)fmt;
}

/* ---- uIO-fs: the test's files by their paths; see the /bin in front of them ---- */

static const char *bin_path;

int uio_ninep_identity(const char *path, struct uio_file_identity *out)
{
	struct stat st;

	(void)path;
	if (stat(bin_path, &st))
		return -errno;
	*out = (struct uio_file_identity){.path = st.st_ino,
					  .size = (uint64_t)st.st_size,
					  .mtime_ns = (uint64_t)st.st_mtim.tv_nsec};
	return 0;
}

int uio_ninep_slurp(const char *path, void **out, size_t *size, size_t max,
		    struct uio_file_identity *identity)
{
	int rc = uio_ninep_identity(path, identity);
	char *data;

	if (rc)
		return rc;
	if (identity->size > max)
		return -EFBIG;
	data = contents(bin_path, size);
	*out = uio_port_alloc(*size);
	memcpy(*out, data, *size);
	free(data);
	return 0;
}

void uio_ninep_abandon(const struct uio_thread *thread)
{
	(void)thread;
}

struct uio_file {
	int fd;
};

static int checked(int rc)
{
	return rc < 0 ? -errno : rc;
}

int uio_file_open(struct uio_file **out, const char *path, int flags, unsigned int mode)
{
	int fd = open(path, flags, mode);

	if (fd < 0)
		return -errno;
	*out = uio_port_alloc(sizeof(**out));
	(*out)->fd = fd;
	return 0;
}

ssize_t uio_file_read(struct uio_file *f, void *buf, size_t len)
{
	ssize_t n = read(f->fd, buf, len);

	return n < 0 ? -errno : n;
}

ssize_t uio_file_write(struct uio_file *f, const void *buf, size_t len)
{
	ssize_t n = write(f->fd, buf, len);

	return n < 0 ? -errno : n;
}

int64_t uio_file_seek(struct uio_file *f, int64_t offset, int whence)
{
	int64_t at = lseek(f->fd, offset, whence);

	return at < 0 ? -errno : at;
}

int uio_file_sync(struct uio_file *f)
{
	return checked(fsync(f->fd));
}

/* One thread at a time here. */
bool uio_file_is_in_use(const struct uio_file *f)
{
	(void)f;
	return false;
}

int uio_file_close(struct uio_file *f)
{
	int rc = checked(close(f->fd));

	uio_port_free(f);
	return rc;
}

int uio_file_stat(const char *path, struct uio_stat *out)
{
	struct stat st;

	if (stat(path, &st))
		return -errno;
	*out = (struct uio_stat){.size = (uint64_t)st.st_size, .mode = st.st_mode};
	return 0;
}

int uio_file_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg)
{
	struct uio_dirent entry = {.name = "entry", .ino = 1, .type = 8};

	(void)path;
	return fn(&entry, arg);
}

int uio_file_unlink(const char *path)
{
	return checked(unlink(path));
}

int uio_file_rmdir(const char *path)
{
	return checked(rmdir(path));
}

int uio_file_mkdir(const char *path, unsigned int mode)
{
	return checked(mkdir(path, mode));
}

int uio_file_rename(const char *from, const char *to)
{
	return checked(rename(from, to));
}

int uio_file_slurp(const char *path, void **out, size_t *size, size_t max)
{
	struct uio_file_identity identity;
	const char *before = bin_path;
	int rc;

	bin_path = path;
	rc = uio_ninep_slurp(path, out, size, max, &identity);
	bin_path = before;
	return rc;
}

/* ---- the test's lines ---- */

static uint64_t timeout_ms;
static bool tty;

static void print_string(const char *s, size_t n)
{
	putchar('"');
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c < ' ' || c == '"' || c == '\\' || c > '~')
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void print_result(const struct uio_result *r)
{
	printf("{\"kind\": %d, \"status\": %d, \"message\": ", (int)r->kind, r->status);
	print_string(r->message, strlen(r->message));
	printf(", \"out\": ");
	print_string(captured[1].text, captured[1].used);
	printf(", \"err\": ");
	print_string(captured[2].text, captured[2].used);
	printf(", \"out_bytes\": %zu", captured[1].total);
	if (r->has_fault) {
		const struct uio_fault *f = &r->fault;

		printf(", \"fault\": {\"kind\": %d, \"address\": %llu, \"ip\": %llu, \"sp\": %llu, "
		       "\"backtrace\": [",
		       (int)f->trap.kind, (unsigned long long)f->trap.address,
		       (unsigned long long)f->trap.ip, (unsigned long long)f->trap.sp);
		for (uint32_t i = 0; i < f->depth; i++)
			printf("%s%llu", i ? ", " : "", (unsigned long long)f->backtrace[i]);
		printf("]}");
	}
	printf("}\n");
}

static char *environment[] = {"HOME=/harness", "WORD=blue", NULL};

static void begin(struct uio_exec *x, char **words)
{
	memset(x, 0, sizeof(*x));
	x->argv = words;
	while (words[x->argc])
		x->argc++;
	x->envp = environment;
	x->thread = self;
	x->tty = tty;
	x->rows = 25;
	x->columns = 80;
	x->start_ns = uio_port_ns();
	x->deadline_ns = timeout_ms ? x->start_ns + timeout_ms * 1000000 : UINT64_MAX;
	uio_port_event_init(&x->wake);
	memset(captured, 0, sizeof(captured));
	running = x;
}

static void finish(void)
{
	running = NULL;
	cancel_at = 0;
	timeout_ms = 0;
	tty = false;
	input = "";
}

static const char *name_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static void pull(char **words, bool run)
{
	static struct uio_exec x;
	struct uio_overlay *o = NULL;

	bin_path = words[0];
	begin(&x, words);
	if (!uio_overlay_pull(&x, name_of(words[0]), &o) && run)
		uio_overlay_run(o, &x);
	finish();
	if (!run && o)
		uio_overlay_unload(o->hash);
	print_result(&x.result);
}

static void push(char **words)
{
	static struct uio_exec x;
	struct uio_overlay *o = NULL;
	struct uio_push *p = uio_push_begin();
	const char *why = NULL;
	size_t size = 0;
	char *data = contents(words[0], &size);
	int rc = 0;

	begin(&x, words);
	for (size_t at = 0, step = 1; at < size && !rc; at += step, step = step * 3 % 1021) {
		if (step > size - at)
			step = size - at;
		rc = uio_push_data(p, data + at, step);
	}
	rc = uio_push_finish(p, &o, &why);
	free(data);
	if (rc)
		uio_exec_result(&x, UIO_EXIT_REFUSED, rc, "%s", why);
	else
		uio_overlay_run(o, &x);
	finish();
	print_result(&x.result);
}

static int unload_one(struct uio_overlay *o, void *arg)
{
	(void)arg;
	uio_overlay_unload(o->hash);
	return 0;
}

static void loop(char **words)
{
	static struct uio_exec x;
	long n = strtol(words[0], NULL, 10);

	bin_path = words[1];
	for (long i = 0; i < n; i++) {
		struct uio_overlay *o;

		begin(&x, words + 1);
		if (!uio_overlay_pull(&x, name_of(words[1]), &o))
			uio_overlay_run(o, &x);
		uio_overlay_foreach(unload_one, NULL);
		if (x.result.kind)
			break;
	}
	finish();
	print_result(&x.result);
}

static int count_one(struct uio_overlay *o, void *arg)
{
	(void)o;
	++*(int *)arg;
	return 0;
}

static void print_state(void)
{
	int resident = 0;

	uio_overlay_rest(); /* what is kept for the next overlay is no leak */
	uio_overlay_foreach(count_one, &resident);
	printf("{\"pages\": %zu, \"blocks\": %zu, \"bytes\": %zu, \"resident\": %d, \"gone\": %u, "
	       "\"questions\": %u, \"counter\": %ld}\n",
	       mapped_pages, heap_blocks, heap_bytes, resident, gone, questions, app_counter);
}

static void describe(void)
{
	struct uio_arena arena;
	struct uio_image image;

	uio_overlay_arena(&arena);
	uio_port_image(&image);
	printf("{\"push_base\": %lu, \"push_size\": %lu, \"text_start\": %lu, \"text_end\": %lu, "
	       "\"base\": %lu, \"end\": %lu, \"app_counter\": %lu, \"app_sum\": %lu, \"puts\": "
	       "%lu, \"build_id\": \"",
	       arena.push_base, arena.push_size, image.text_start, image.text_end, image.base,
	       image.end, (unsigned long)&app_counter, (unsigned long)app_sum,
	       (unsigned long)lookup("uio_libc_puts")->st_value);
	for (size_t i = 0; i < sizeof(build_id); i++)
		printf("%02x", build_id[i]);
	printf("\"}\n");
}

static void obey(char **words)
{
	const char *verb = *words++;

	if (!strcmp(verb, "pull"))
		return pull(words, true);
	if (!strcmp(verb, "link"))
		return pull(words, false);
	if (!strcmp(verb, "push"))
		return push(words);
	if (!strcmp(verb, "loop"))
		return loop(words);
	if (!strcmp(verb, "describe"))
		return describe();
	if (!strcmp(verb, "unload"))
		uio_overlay_foreach(unload_one, NULL);
	else if (!strcmp(verb, "input"))
		input = strdup(words[0]);
	else if (!strcmp(verb, "timeout"))
		timeout_ms = strtoul(words[0], NULL, 10);
	else if (!strcmp(verb, "tty"))
		tty = true;
	else if (!strcmp(verb, "limit"))
		heap_limit = strtoul(words[0], NULL, 10);
	else if (!strcmp(verb, "cancel")) {
		cancel_signal = (int)strtol(words[0], NULL, 10);
		cancel_at = uio_port_ns() + strtoul(words[1], NULL, 10) * 1000000;
	}
	print_state();
}

static void take_signals(void)
{
	static char alternate[65536] __attribute__((aligned(16)));
	stack_t stack = {.ss_sp = alternate, .ss_size = sizeof(alternate)};
	struct sigaction exception = {.sa_sigaction = on_exception,
				      .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	struct sigaction timer = {.sa_sigaction = on_timer,
				  .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
	struct itimerval every = {.it_interval.tv_usec = 5000, .it_value.tv_usec = 5000};
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};

	sigaltstack(&stack, NULL);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &exception, NULL);
	sigaction(SIGALRM, &timer, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

int main(void)
{
	static char line[65536];

	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	read_symbols();
	uio_fault_init();
	take_signals();
	while (fgets(line, sizeof(line), stdin)) {
		char *words[64] = {NULL};
		int n = 0;

		for (char *word = strtok(line, " \n"); word && n < 63; word = strtok(NULL, " \n"))
			words[n++] = word;
		if (n)
			obey(words);
		fflush(stdout);
	}
	return 0;
}
