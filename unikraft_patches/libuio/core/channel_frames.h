/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Between channel.c (session and frames) and those who know what frames mean:
 * channel_exec.c, channel_symq.c, channel_hello.c. The wire format is docs/protocol.md's,
 * little-endian as is every CPU that libuio runs on.
 */
#ifndef UIO_CORE_CHANNEL_FRAMES_H
#define UIO_CORE_CHANNEL_FRAMES_H

#include <string.h>

#include <uio/port.h>

#include "exec.h"

#define UIO_FRAME_MAX   65536u
#define UIO_FRAME_MAGIC 0x4975u
#define UIO_VERSION     1u

#define UIO_STDIN_WINDOW  65536u /* bytes of standard input buffered per command */
#define UIO_CHANNEL_EXECS 16u    /* commands of the host at once */

enum uio_frame_type {
	UIO_FRAME_SYNC = 0x01,
	UIO_FRAME_HELLO = 0x02,
	UIO_FRAME_PING = 0x03,
	UIO_FRAME_PONG = 0x04,
	UIO_FRAME_RESET = 0x05,
	UIO_FRAME_EXEC = 0x10,
	UIO_FRAME_IMAGE = 0x11,
	UIO_FRAME_CANCEL = 0x12,
	UIO_FRAME_WINSIZE = 0x13,
	UIO_FRAME_DATA = 0x20,
	UIO_FRAME_CREDIT = 0x21,
	UIO_FRAME_EXIT = 0x22,
	UIO_FRAME_SYMQ = 0x30,
	UIO_FRAME_SYMR = 0x31,
	UIO_FRAME_LISTQ = 0x32,
	UIO_FRAME_LISTR = 0x33,
	UIO_FRAME_UNLOAD = 0x34,
	UIO_FRAME_LOG = 0x40,
	UIO_FRAME_GONE = 0x41,
};

struct uio_frame {
	uint32_t length;
	uint16_t magic;
	uint8_t type, flags;
	uint32_t id, arg;
};
_Static_assert(sizeof(struct uio_frame) == 16, "wire format");

/* Reads a payload piece by piece; once anything did not fit, ok stays false. */
struct uio_cursor {
	const uint8_t *at;
	size_t left;
	bool ok;
};

static inline const void *uio_take(struct uio_cursor *c, size_t len)
{
	if (!c->ok || c->left < len) {
		c->ok = false;
		return NULL;
	}
	const void *p = c->at;
	c->at += len;
	c->left -= len;
	return p;
}

static inline void uio_take_to(struct uio_cursor *c, void *out, size_t len)
{
	const void *p = uio_take(c, len);

	if (p != NULL)
		memcpy(out, p, len);
	else
		memset(out, 0, len);
}

static inline uint16_t uio_take_u16(struct uio_cursor *c)
{
	uint16_t v;

	uio_take_to(c, &v, sizeof(v));
	return v;
}

static inline uint32_t uio_take_u32(struct uio_cursor *c)
{
	uint32_t v;

	uio_take_to(c, &v, sizeof(v));
	return v;
}

/* Makes a payload; what does not fit is left out. */
struct uio_writer {
	uint8_t *at;
	size_t left;
};

static inline void uio_put(struct uio_writer *w, const void *data, size_t len)
{
	if (len > w->left)
		len = w->left;
	if (len == 0)
		return;
	memcpy(w->at, data, len);
	w->at += len;
	w->left -= len;
}

static inline void uio_put_u16(struct uio_writer *w, uint16_t v)
{
	uio_put(w, &v, sizeof(v));
}

static inline void uio_put_u32(struct uio_writer *w, uint32_t v)
{
	uio_put(w, &v, sizeof(v));
}

static inline void uio_put_u64(struct uio_writer *w, uint64_t v)
{
	uio_put(w, &v, sizeof(v));
}

static inline void uio_put_string(struct uio_writer *w, const void *text, size_t len)
{
	uio_put_u16(w, (uint16_t)len);
	uio_put(w, text, len);
}

/** The channel's session: a new number after each SYNC with a new nonce, reset or disconnection. */
uint32_t uio_channel_session(void);

/**
 * A frame from the context or any thread: sent now if there is room, else by
 * the context later, in order. While more than 64 KiB of answers wait, nothing
 * is taken in, so that they do not grow. False without memory or peer.
 */
bool uio_channel_post(uint8_t type, uint32_t id, uint32_t arg, const void *payload, size_t len);

/** A frame from a command's thread, which waits for room. 0, -ENOTCONN, -EPIPE (old session). */
int uio_channel_send(uint32_t session, uint8_t type, uint32_t id, uint32_t arg, const void *payload,
		     size_t len);

/**
 * EXIT, and in front of it the last output if there is any, as one message:
 * what a command's thread sends last. As uio_channel_send().
 */
int uio_channel_send_end(uint32_t session, uint32_t id, const void *out, size_t out_len,
			 uint32_t kind, const void *payload, size_t len);

/** HELLO, about this guest (channel_hello.c). */
void uio_channel_hello(uint64_t nonce, uint64_t features);
/** The session is over: nobody will answer (channel_symq.c). */
void uio_channel_symq_reset(void);

/** The host broke the protocol: RESET with the reason, then wait for SYNC. */
void uio_channel_broken(const char *why);

/*
 * What the frames do. A handler gets whole payloads; the two
 * streamed kinds, DATA and IMAGE, get a check of the header first and then
 * the bytes as they come. A false answer has called uio_channel_broken().
 */
bool uio_frame_symr(const struct uio_frame *f, uint8_t *payload);
bool uio_frame_listq(const struct uio_frame *f, uint8_t *payload);
bool uio_frame_exec(const struct uio_frame *f, uint8_t *payload);
bool uio_frame_cancel(const struct uio_frame *f, uint8_t *payload);
bool uio_frame_winsize(const struct uio_frame *f, uint8_t *payload);
bool uio_frame_credit(const struct uio_frame *f, uint8_t *payload);
bool uio_frame_unload(const struct uio_frame *f, uint8_t *payload);
bool uio_frame_data_begin(const struct uio_frame *f);
void uio_frame_data_bytes(const struct uio_frame *f, const uint8_t *bytes, size_t len);
bool uio_frame_image_begin(const struct uio_frame *f);
void uio_frame_image_bytes(const struct uio_frame *f, const uint8_t *bytes, size_t len);
/** The session is over: cancel its commands, drop its images. */
void uio_channel_exec_reset(void);

#endif /* UIO_CORE_CHANNEL_FRAMES_H */
