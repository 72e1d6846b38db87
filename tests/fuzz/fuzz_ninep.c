/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The 9P client against a server whose every answer is taken from the input:
 * as it should be, changed in places, or noise; at once, later and in another
 * order, twice, or to a request that was never made. The input also says which
 * operations are done and when the host comes and goes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "fuzz_port.h"
#include "hostport.h"

static const uint8_t *input;
static size_t left;
static bool connected;
static unsigned int generation;

static uint8_t stream[1 << 20]; /* from the host, not yet read */
static size_t stream_start, stream_end;

/* Replies that were put aside. */
#define HELD 8
static uint8_t held[HELD][16384];
static size_t held_size[HELD];

static uint8_t next(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

int uio_channel_symq(const uint8_t hash[32], const char *const *names, unsigned int n,
		     struct uio_symbol *out)
{
	(void)hash, (void)names, (void)n, (void)out;
	return -EIO;
}

/* ---- the host ---- */

static void push_bytes(const void *data, size_t n)
{
	if (n > sizeof(stream) - stream_end)
		n = sizeof(stream) - stream_end;
	if (data)
		memcpy(stream + stream_end, data, n);
	else
		memset(stream + stream_end, next(), n);
	stream_end += n;
}

static void put(uint64_t v, size_t width)
{
	push_bytes(&v, width);
}

/* The reply that a server would give, more or less. */
static void answer(const uint8_t *request)
{
	size_t start = stream_end;
	uint32_t asked, size;
	uint8_t type = request[4];

	push_bytes(request, 7);
	stream[start + 4] = (uint8_t)(type + 1);
	switch (type) {
	case 100:
		put(8192, 4);
		put(8, 2);
		push_bytes("9P2000.L", 8);
		break;
	case 110:
		asked = request[15];
		put(asked, 2);
		for (uint32_t i = 0; i < asked && i < 16; i++)
			push_bytes(NULL, 13);
		break;
	case 116:
		memcpy(&asked, request + 19, 4);
		size = next() * 64u; /* or all of it, so that its reader goes on */
		size = size < asked && size > 4096 ? size : asked;
		put(size, 4);
		push_bytes(NULL, size);
		break;
	case 40:
		size = next() % 4 ? 29 : 0;
		put(size, 4);
		if (size) {
			push_bytes(NULL, 13);
			put(next(), 8);
			put(8, 1);
			put(5, 2);
			push_bytes("entry", 5);
		}
		break;
	case 118:
		put(request[19] | request[20] << 8 | request[21] << 16, 4);
		break;
	case 24:
		push_bytes(NULL, 49);
		put(next() * 997u, 8);
		push_bytes(NULL, 96);
		break;
	case 8:
		push_bytes(NULL, 60);
		break;
	case 12:
	case 14:
		push_bytes(NULL, 17);
		break;
	case 72:
	case 104:
		push_bytes(NULL, 13);
		break;
	default:
		break;
	}
	size = (uint32_t)(stream_end - start);
	memcpy(stream + start, &size, 4);
}

/* What lies in the stream from here on is put aside, if there is room. */
static void hold(size_t start)
{
	for (int i = 0; i < HELD; i++) {
		if (held_size[i] || stream_end - start > sizeof(held[i]))
			continue;
		held_size[i] = stream_end - start;
		memcpy(held[i], stream + start, held_size[i]);
		stream_end = start;
		return;
	}
}

/* A reply that was put aside comes; once more later, if the input says so. */
static void release(unsigned int which)
{
	push_bytes(held[which % HELD], held_size[which % HELD]);
	if (next() & 7)
		held_size[which % HELD] = 0;
}

static void respond(const uint8_t *request)
{
	size_t start = stream_end;
	uint8_t how = next();

	if (how < 120) {
		answer(request);
	} else if (how < 160) {
		answer(request);
		hold(start);
	} else if (how < 170) {
		release(next());
		answer(request);
	} else if (how < 174) {
		answer(request);
		answer(request); /* twice */
	} else if (how < 220) {
		answer(request);
		for (int i = how & 3; i >= 0; i--) {
			size_t at = start + next();

			if (at < stream_end)
				stream[at] = next();
		}
	} else if (how < 230) {
		put(11, 4);
		put(7, 1);
		push_bytes(request + 5, 2);
		put(next(), 4);
	} else if (how < 235) { /* to one that was never made */
		answer(request);
		stream[start + 5] = next();
	} else if (how < 250) {
		for (int i = next(); i > 0; i--)
			put(next(), 1);
	} else if (how < 253) {
		connected = false;
	} /* else: silence */
}

bool uio_hostport_connected(enum uio_hostport port)
{
	(void)port;
	return connected;
}

unsigned int uio_hostport_generation(enum uio_hostport port)
{
	(void)port;
	return generation;
}

ssize_t uio_hostport_read(enum uio_hostport port, void *buf, size_t len)
{
	size_t n = stream_end - stream_start;

	(void)port;
	if (!connected)
		return -ENOTCONN;
	if (n > len)
		n = len;
	memcpy(buf, stream + stream_start, n);
	stream_start += n;
	if (stream_start == stream_end)
		stream_start = stream_end = 0;
	return (ssize_t)n;
}

void uio_hostport_expect(enum uio_hostport port, uint64_t bytes)
{
	(void)port;
	if (bytes > 64ull * 512 * 1024) /* of all tags */
		abort();
}

int uio_hostport_send(enum uio_hostport port, const struct uio_sg *pieces, unsigned int n,
		      bool wait)
{
	uint8_t head[32] = {0};
	size_t total = 0;
	uint32_t size;

	(void)port;
	if (wait)
		abort(); /* the client waits by itself */
	if (!connected)
		return -ENOTCONN;
	if (next() == 255)
		return -EAGAIN;
	for (unsigned int i = 0; i < n; i++) {
		/* All of it is read, for ASan's sake. */
		volatile uint8_t last = ((const uint8_t *)pieces[i].addr)[pieces[i].len - 1];

		(void)last;
		total += pieces[i].len;
	}
	memcpy(head, pieces[0].addr, pieces[0].len < sizeof(head) ? pieces[0].len : sizeof(head));
	memcpy(&size, head, 4);
	if (size != total || total > 68 * 1024)
		abort();
	respond(head);
	return 0;
}

/* Whoever waits gives the context its turn. */
int uio_port_event_wait(struct uio_event *ev, uint64_t ns)
{
	uint64_t most =
		left ? 50000000 : 1000000000; /* what was read ahead grows old, not at once */

	(void)ev;
	fuzz_clock += ns < most ? ns : most;
	if (!connected && next() & 1) {
		connected = true;
		generation++;
		stream_start = stream_end = 0;
	}
	for (unsigned int i = 0; connected && i < HELD; i++)
		if (held_size[i] && next() & 1)
			release(i);
	uio_ninep_poll();
	return 0;
}

/* ---- the guest's files are not what is tested ---- */

int uio_port_fs_open(const char *path, int flags, unsigned int mode)
{
	(void)path, (void)flags, (void)mode;
	return -ENOENT;
}

ssize_t uio_port_fs_pread(int fd, void *buf, size_t len, uint64_t off)
{
	(void)fd, (void)buf, (void)len, (void)off;
	return -EBADF;
}

ssize_t uio_port_fs_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	(void)fd, (void)buf, (void)len, (void)off;
	return -EBADF;
}

int uio_port_fs_close(int fd)
{
	(void)fd;
	return -EBADF;
}

int uio_port_fs_stat(const char *path, struct uio_stat *out)
{
	(void)path, (void)out;
	return -ENOENT;
}

int uio_port_fs_readdir(const char *path, int (*fn)(const struct uio_dirent *, void *), void *arg)
{
	(void)path, (void)fn, (void)arg;
	return -ENOENT;
}

int uio_port_fs_unlink(const char *path)
{
	(void)path;
	return -ENOENT;
}

int uio_port_fs_mkdir(const char *path, unsigned int mode)
{
	(void)path, (void)mode;
	return -ENOENT;
}

/* ---- operations ---- */

static int take_entry(const struct uio_dirent *entry, void *arg)
{
	int *count = arg;

	if (!entry->name[0] || strlen(entry->name) > 255)
		abort();
	return ++*count > 20;
}

static void use_file(void)
{
	static const int flags[] = {O_RDONLY, O_WRONLY | O_CREAT, O_RDWR | O_CREAT | O_EXCL,
				    O_WRONLY | O_APPEND, O_WRONLY | O_CREAT | O_TRUNC};
	struct uio_file *f, *other = NULL;
	size_t size = next() * 512u + 1;
	char *buf;

	if (uio_file_open(&f, "/host/a/../b", flags[next() % 5], 0600))
		return;
	buf = calloc(1, size); /* exact: a byte too far is noticed */
	for (int i = next() % 8; i >= 0; i--) {
		ssize_t n = 0;

		switch (next() % 7) {
		case 0:
		case 1:
		case 2: /* several in a row, which reads ahead */
			n = uio_file_read(f, buf, size);
			break;
		case 3:
			if (!other && uio_file_open(&other, "/host/b", flags[next() % 5], 0600))
				other = NULL;
			break;
		case 4:
			if (other)
				uio_file_write(other, buf, size);
			break;
		case 5:
			n = uio_file_write(f, buf, size);
			break;
		case 6:
			uio_file_seek(f, next(), next() % 4);
			break;
		default:
			uio_file_sync(f);
			break;
		}
		if (n > (ssize_t)size)
			abort();
	}
	uio_file_close(f);
	if (other)
		uio_file_close(other);
	free(buf);
}

static void operate(void)
{
	static const char *const paths[] = {"/",
					    "/bin/x",
					    "host/a/b/c",
					    "/host/../../vm",
					    "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t",
					    ""};
	const char *path = paths[next() % 6];
	struct uio_stat st;
	uint64_t total, available;
	void *data;
	size_t size;
	int count = 0;

	switch (next() % 9) {
	case 0:
		if (!uio_file_slurp(path, &data, &size, 100000)) {
			if (size > 100000)
				abort();
			uio_port_free(data);
		}
		break;
	case 1:
		use_file();
		break;
	case 2:
		uio_file_stat(path, &st);
		break;
	case 3:
		uio_file_readdir(path, take_entry, &count);
		break;
	case 4:
		uio_file_mkdir(path, 0700);
		break;
	case 5:
		uio_file_unlink(path);
		break;
	case 6:
		uio_file_rename(path, "/host/new");
		break;
	case 7:
		uio_file_space(path, &total, &available);
		break;
	default:
		connected = false;
		uio_ninep_poll();
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	input = data;
	left = size;
	memset(held_size, 0, sizeof(held_size));
	while (left) {
		if (!connected) {
			connected = true;
			generation++;
			stream_start = stream_end = 0;
		}
		uio_ninep_poll();
		operate();
	}
	connected = false;
	uio_ninep_poll();
	if (fuzz_blocks)
		abort(); /* the connection has ended, and nobody is in an operation */
	return 0;
}
