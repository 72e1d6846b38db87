/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the guest says of itself to the host: HELLO, and the list of resident
 * overlays (docs/protocol.md, section 2 and LISTR).
 */
#include "channel.h"

#include "channel_frames.h"
#include "overlay.h"

#define HELLO_MAGIC "\x00uIO\xffHEL"

static void count_builtin(const struct uio_builtin *b, void *arg)
{
	(void)b;
	++*(uint16_t *)arg;
}

static void put_builtin(const struct uio_builtin *b, void *arg)
{
	uio_put_string(arg, b->usage, uio_builtin_name(b));
}

void uio_channel_hello(uint64_t nonce, uint64_t features)
{
	uint8_t payload[768];
	struct uio_writer w = {payload, sizeof(payload)};
	struct uio_image image;
	struct uio_arena arena;
	uint16_t builtins = 0;

	uio_port_image(&image);
	uio_put(&w, HELLO_MAGIC, 8);
	uio_put_u64(&w, nonce);
	uio_put_u64(&w, features);
	uio_put_u32(&w, UIO_STDIN_WINDOW);
	uio_put_u32(&w, UIO_CHANNEL_EXECS);
	uio_put_u64(&w, uio_port_ns());
	uio_put_u64(&w, image.base);
	uio_put_u64(&w, image.slide);
	uio_overlay_arena(&arena);
	uio_put_u64(&w, arena.base);
	uio_put_u64(&w, arena.size);
	uio_put_u64(&w, arena.push_base);
	uio_put_u64(&w, arena.push_size);
	uio_put_string(&w, image.build_id, image.build_id != NULL ? image.build_id_len : 0);
	uio_put_string(&w, image.kernel, strlen(image.kernel));
	uio_builtin_foreach(count_builtin, &builtins);
	uio_put_u16(&w, builtins);
	uio_builtin_foreach(put_builtin, &w);
	uio_channel_post(UIO_FRAME_HELLO, 0, UIO_VERSION, payload, sizeof(payload) - w.left);
}

struct listing {
	struct uio_writer w;
	uint32_t n;
	size_t size;
};

static int size_overlay(struct uio_overlay *o, void *arg)
{
	struct listing *l = arg;
	size_t size = 32 + 8 + 4 + 4 + 4 + 2 + strlen(o->name);

	if (l->size + size > UIO_FRAME_MAX)
		return 1;
	l->size += size;
	l->n++;
	return 0;
}

static int list_overlay(struct uio_overlay *o, void *arg)
{
	struct listing *l = arg;

	if (l->n-- == 0)
		return 1;
	uio_put(&l->w, o->hash, 32);
	uio_put_u64(&l->w, o->base);
	uio_put_u32(&l->w, (uint32_t)o->size);
	uio_put_u32(&l->w, o->uses);
	uio_put_u32(&l->w, (o->running != 0 ? 1u : 0u) | (o->pushed ? 2u : 0u));
	uio_put_string(&l->w, o->name, strlen(o->name));
	return 0;
}

bool uio_frame_listq(const struct uio_frame *f, uint8_t *payload)
{
	struct listing l = {.n = 0};

	(void)payload;
	uio_overlay_foreach(size_overlay, &l);
	uint8_t *reply = uio_port_alloc(l.size + 1);
	uint32_t n = reply != NULL ? l.n : 0;
	if (reply != NULL) {
		l.w = (struct uio_writer){reply, l.size};
		uio_overlay_foreach(list_overlay, &l);
	}
	uio_channel_post(UIO_FRAME_LISTR, f->id, n, reply, reply != NULL ? l.size : 0);
	uio_port_free(reply);
	return true;
}
