/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uIO-fs for the application: a transport of Unikraft's uk9p over the port
 * org.uio.mount, so that mount("uio", "/uio", "9pfs", 0, NULL) works. It has a
 * session of its own; libuio's own files (core/ninep.c) are another one.
 *
 * lib/9pfs knows the default transport only. So ours becomes the default, takes
 * the device named "uio", and leaves all others to the one that was default.
 *
 * A waiting request of uk9p has no deadline. When the host goes away, all that
 * wait are answered here, with EIO; so is whatever comes later: a new host
 * knows none of the old one's files. Who mounts anew, at another directory,
 * takes the port over from the dead mount. The host's every byte is checked;
 * one that makes no sense ends the session.
 *
 * Replies are taken by the context (uio_mount_poll()), requests come in the
 * application's threads. Kernel code is not preempted, so there are no locks.
 */
#include <errno.h>
#include <string.h>
#include <uk/9p.h>
#include <uk/9pdev.h>
#include <uk/9pdev_trans.h>
#include <uk/9preq.h>
#include <uk/alloc.h>
#include <uk/plat/time.h>
#include <uk/wait.h>

#include "channel.h"
#include "hostport.h"
#include "unikraft.h"

#define DEVICE_NAME "uio"
#define PORT        UIO_HOSTPORT_MOUNT
#define MSIZE       (64u * 1024 + 24) /* a write of 64 KiB in one message of the port */
#define READ_HEAD   11u               /* of Rread and Rreaddir, in front of the data */
#define ERROR_SIZE  11u               /* of Rlerror */
#define UNDER_WAY   32u
#define CONNECT_NS  5000000000ull
#define NOBODY      (-1)

static struct {
	struct uk_9pdev *dev;    /* NULL: not mounted */
	unsigned int generation; /* of the port, when it was mounted */
	bool lost;               /* that peer is gone, or made no sense */
	bool refused;            /* a thread waits for room */
	struct uk_9preq *under_way[UNDER_WAY];
	/* the message that is coming in */
	uint8_t head[UK_9P_HEADER_SIZE];
	uint32_t have, size;
	int slot; /* of its request, or NOBODY */
} mounted;

static const struct uk_9pdev_trans *others; /* what was the default */
static struct uk_waitq connecting;

/* ---- the end of a request ---- */

static void complete(unsigned int slot, uint32_t size)
{
	struct uk_9preq *req = mounted.under_way[slot];

	mounted.under_way[slot] = NULL;
	uk_9preq_receive_cb(req, size);
	uk_9preq_put(req);
}

static void fail(unsigned int slot)
{
	struct uk_9preq *req = mounted.under_way[slot];
	uint8_t *reply = req->recv.buf;
	const uint32_t size = ERROR_SIZE, error = EIO;

	memcpy(reply, &size, sizeof(size));
	reply[4] = UK_9P_RLERROR;
	memcpy(reply + 5, &req->tag, sizeof(req->tag));
	memcpy(reply + UK_9P_HEADER_SIZE, &error, sizeof(error));
	complete(slot, size);
}

static void lose(const char *why)
{
	unsigned int n = 0;

	mounted.have = mounted.size = 0;
	mounted.slot = NOBODY;
	if (!mounted.dev || mounted.lost)
		return;
	mounted.lost = true;
	for (unsigned int i = 0; i < UNDER_WAY; i++) {
		if (mounted.under_way[i]) {
			fail(i);
			n++;
		}
	}
	uk_9pdev_xmit_notify(mounted.dev);
	uio_log(4, "mounted uIO-fs: %s; %u requests failed, mount it anew", why, n);
}

/* ---- replies ---- */

static int slot_of(uint16_t tag)
{
	for (unsigned int i = 0; i < UNDER_WAY; i++)
		if (mounted.under_way[i] && mounted.under_way[i]->tag == tag)
			return (int)i;
	return NOBODY;
}

/** Whether a message of this size and type answers the request, and fits in its memory. */
static bool is_answer(const struct uk_9preq *req, uint8_t type, uint32_t size)
{
	if (type == UK_9P_RLERROR)
		return size == ERROR_SIZE;
	if (type != req->xmit.type + 1)
		return false;
	if (req->recv.zc_buf)
		return size >= READ_HEAD && size - READ_HEAD <= req->recv.zc_size;
	return size <= UK_9P_BUFSIZE;
}

static bool begin_message(void)
{
	uint16_t tag;

	memcpy(&mounted.size, mounted.head, sizeof(mounted.size));
	memcpy(&tag, mounted.head + 5, sizeof(tag));
	mounted.slot = slot_of(tag);
	if (mounted.size < UK_9P_HEADER_SIZE || mounted.size > MSIZE)
		return false;
	if (mounted.slot == NOBODY)
		return true; /* asked for by one who has unmounted; its bytes are dropped */
	struct uk_9preq *req = mounted.under_way[mounted.slot];
	if (!is_answer(req, mounted.head[4], mounted.size))
		return false;
	memcpy(req->recv.buf, mounted.head, UK_9P_HEADER_SIZE);
	return true;
}

/** Where the next bytes of the message belong, and how many. */
static void *place_of_next(uint32_t *len)
{
	static uint8_t nowhere[256];
	struct uk_9preq *req;
	uint32_t left = mounted.size - mounted.have;

	if (mounted.have < UK_9P_HEADER_SIZE) {
		*len = UK_9P_HEADER_SIZE - mounted.have;
		return mounted.head + mounted.have;
	}
	*len = left;
	if (mounted.slot == NOBODY) {
		*len = left < sizeof(nowhere) ? left : sizeof(nowhere);
		return nowhere;
	}
	req = mounted.under_way[mounted.slot];
	if (!req->recv.zc_buf || mounted.head[4] == UK_9P_RLERROR)
		return (uint8_t *)req->recv.buf + mounted.have;
	if (mounted.have >= READ_HEAD)
		return (uint8_t *)req->recv.zc_buf + (mounted.have - READ_HEAD);
	*len = READ_HEAD - mounted.have < left ? READ_HEAD - mounted.have : left;
	return (uint8_t *)req->recv.buf + mounted.have;
}

static bool end_message(void)
{
	struct uk_9preq *req;
	uint32_t count;

	if (mounted.slot != NOBODY) {
		req = mounted.under_way[mounted.slot];
		memcpy(&count, (uint8_t *)req->recv.buf + UK_9P_HEADER_SIZE, sizeof(count));
		if (req->recv.zc_buf && mounted.head[4] != UK_9P_RLERROR &&
		    count != mounted.size - READ_HEAD)
			return false;
		complete((unsigned int)mounted.slot, mounted.size);
	}
	mounted.have = mounted.size = 0;
	mounted.slot = NOBODY;
	return true;
}

/** Take what has arrived; false: it made no sense. */
static bool take_replies(void)
{
	for (;;) {
		uint32_t len;
		void *to = place_of_next(&len);
		ssize_t n = len ? uio_hostport_read(PORT, to, len) : 0;

		if (n < 0 || (n == 0 && len))
			return true;
		mounted.have += (uint32_t)n;
		if (mounted.have == UK_9P_HEADER_SIZE && !mounted.size && !begin_message())
			return false;
		if (mounted.size && mounted.have == mounted.size && !end_message())
			return false;
	}
}

static void drain(void)
{
	uint8_t nowhere[256];

	while (uio_hostport_read(PORT, nowhere, sizeof(nowhere)) > 0)
		;
}

void uio_mount_poll(void)
{
	bool here = uio_hostport_connected(PORT);

	if (!here || uio_hostport_generation(PORT) != mounted.generation)
		lose("the host has closed the port");
	if (here)
		uk_waitq_wake_up(&connecting);
	if (here && !mounted.lost && !take_replies())
		lose("the host sent what is no answer");
	if (mounted.lost)
		drain();
	if (mounted.dev && mounted.refused) {
		mounted.refused = false;
		uk_9pdev_xmit_notify(mounted.dev);
	}
}

/* ---- what uk9p calls ---- */

static int uio_connect(struct uk_9pdev *dev, const char *name, const char *arguments)
{
	__nsec deadline = ukplat_monotonic_clock() + CONNECT_NS;

	if (strcmp(name, DEVICE_NAME) != 0) {
		if (!others)
			return -ENODEV;
		dev->ops = others->ops;
		return others->ops->connect(dev, name, arguments);
	}
	if (mounted.dev && !mounted.lost)
		return -EBUSY;
	uk_waitq_wait_event_deadline(&connecting, uio_hostport_connected(PORT), deadline);
	if (!uio_hostport_connected(PORT))
		return -ENODEV;
	if (mounted.dev && !mounted.lost)
		return -EBUSY; /* somebody was faster */
	dev->max_msize = MSIZE;
	mounted.dev = dev;
	mounted.lost = false;
	mounted.refused = false;
	if (mounted.generation != uio_hostport_generation(PORT)) {
		mounted.have = mounted.size = 0;
		mounted.slot = NOBODY;
		mounted.generation = uio_hostport_generation(PORT);
	}
	return 0;
}

static int uio_disconnect(struct uk_9pdev *dev)
{
	if (dev != mounted.dev)
		return 0; /* a dead one */
	for (unsigned int i = 0; i < UNDER_WAY; i++) {
		if (mounted.under_way[i])
			uk_9preq_put(mounted.under_way[i]);
		mounted.under_way[i] = NULL;
	}
	mounted.slot = NOBODY;
	mounted.dev = NULL;
	return 0;
}

static int uio_request(struct uk_9pdev *dev, struct uk_9preq *req)
{
	struct uio_sg pieces[2] = {
		{.addr = req->xmit.buf, .len = req->xmit.size},
		{.addr = req->xmit.zc_buf, .len = req->xmit.zc_size},
	};
	unsigned int slot = 0;
	int rc = -EAGAIN;

	if (dev != mounted.dev || mounted.lost ||
	    uio_hostport_generation(PORT) != mounted.generation)
		return -EIO;
	while (slot < UNDER_WAY && mounted.under_way[slot])
		slot++;
	if (slot < UNDER_WAY)
		rc = uio_hostport_send(PORT, pieces, req->xmit.zc_buf ? 2 : 1, false);
	if (rc == -EAGAIN) {
		mounted.refused = true;
		return -ENOSPC; /* uk9p tries again when it is notified */
	}
	if (rc < 0)
		return -EIO;
	UK_WRITE_ONCE(req->state, UK_9PREQ_SENT);
	uk_9preq_get(req);
	mounted.under_way[slot] = req;
	return 0;
}

static const struct uk_9pdev_trans_ops operations = {
	.connect = uio_connect,
	.disconnect = uio_disconnect,
	.request = uio_request,
};

static struct uk_9pdev_trans transport = {
	.name = "uio",
	.ops = &operations,
};

void uio_ninep_transport_init(void)
{
	uk_waitq_init(&connecting);
	mounted.slot = NOBODY;
	others = uk_9pdev_trans_get_default();
	transport.a = uk_alloc_get_default();
	uk_9pdev_trans_register(&transport);
	uk_9pdev_trans_set_default(&transport);
}
