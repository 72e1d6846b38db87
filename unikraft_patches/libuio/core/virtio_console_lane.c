/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Buffers of a virtio console's port: few while it is quiet, more while data
 * comes in bulk; messages to the host in one descriptor chain each, copied
 * into memory of the device's.
 */
#include "virtio_console.h"

#include <errno.h>
#include <string.h>

#include "copy.h"

#define RX_SIZE     4096u
#define RX_IDLE     1u    /* buffers per port; QEMU fills at most one per turn of its loop */
#define RX_BUSY     8u    /* while data comes in bulk */
#define RX_BULK     2048u /* a buffer with so much says that it does */
#define RX_LONG     16u   /* while much more is known to come */
#define TX_BYTES    (192u * 1024) /* on their way per port */
#define TX_MESSAGES 32u
#define TX_MAX      (68u * 1024)
#define TX_PAGES    (TX_MAX / UIO_PAGE_SIZE)
#define TX_QUIET    8192u /* less than that needs no interrupt to be taken back */

/* A message on its way to the host, in one piece if there is such memory, else in pages. */
struct tx {
	struct tx *next; /* younger */
	uint32_t total;
	unsigned int n;
	struct uio_sg sg[TX_PAGES];
};

/* ---- receiving ---- */

static bool offer_rx(struct lane *l, void *buffer)
{
	struct uio_sg sg = {buffer, RX_SIZE};

	if (uio_port_vq_add(l->rx, &sg, 0, 1, buffer) < 0)
		return false;
	l->rx_unkicked++;
	return true;
}

static void grow_rx(struct lane *l, unsigned int to)
{
	while (l->rx_buffers < to) {
		void *buffer = uio_port_dma_alloc(RX_SIZE);
		if (buffer == NULL)
			return;
		if (!offer_rx(l, buffer)) {
			uio_port_dma_free(buffer, RX_SIZE);
			return;
		}
		l->rx_buffers++;
	}
}

static void kick_rx(struct lane *l)
{
	if (l->rx_unkicked == 0)
		return;
	l->rx_unkicked = 0;
	uio_port_vq_kick(l->rx);
}

/* The current buffer has been read: back to the device, unless quiet times need fewer. */
static void recycle(struct lane *l)
{
	void *buffer = l->current;

	l->current = NULL;
	if ((l->current_len < RX_BULK / 2 && l->rx_buffers > RX_IDLE) ||
	    l->rx_buffers > l->rx_most || !offer_rx(l, buffer)) {
		uio_port_dma_free(buffer, RX_SIZE);
		l->rx_buffers--;
	}
	if (l->current_len >= RX_BULK && l->rx_buffers < l->rx_most)
		grow_rx(l, l->rx_buffers + 1);
	if (l->rx_unkicked >= RX_BUSY / 2)
		kick_rx(l);
}

/* Have something current; false: nothing has arrived. Interrupts are on then. */
static bool next_rx(struct lane *l)
{
	if (l->current != NULL)
		return true;
	for (;;) {
		uint32_t len;
		uint8_t *buffer = uio_port_vq_get(l->rx, &len);
		if (buffer != NULL) {
			l->current = buffer;
			l->current_at = 0;
			l->current_len = len < RX_SIZE ? len : RX_SIZE;
			if (l->current_len != 0)
				return true;
			recycle(l);
			continue;
		}
		kick_rx(l);
		if (uio_port_vq_irq_on(l->rx))
			return false;
	}
}

void uio_lane_expect(struct lane *l, uint64_t bytes)
{
	l->rx_most = bytes > 2 * RX_LONG * RX_SIZE ? RX_LONG : RX_BUSY;
}

void uio_lane_discard(struct lane *l)
{
	if (l->rx_buffers == 0)
		return;
	while (next_rx(l))
		recycle(l);
}

bool uio_lane_readable(struct lane *l)
{
	return l->rx_buffers != 0 && next_rx(l);
}

size_t uio_lane_read(struct lane *l, void *buf, size_t len)
{
	if (!uio_lane_readable(l))
		return 0;
	uint32_t n = l->current_len - l->current_at;
	if (n > len)
		n = (uint32_t)len;
	uio_copy(buf, l->current + l->current_at, n);
	l->current_at += n;
	if (l->current_at == l->current_len)
		recycle(l);
	return n;
}

void uio_lane_listen(struct lane *l)
{
	grow_rx(l, RX_IDLE);
	kick_rx(l);
}

/* ---- sending ---- */

static void free_tx(struct tx *t)
{
	for (unsigned int i = 0; i < t->n; i++)
		uio_port_dma_free(t->sg[i].addr, t->sg[i].len);
	uio_port_free(t);
}

/* The sizes of sg are of the memory at first, for freeing; what is sent is told by total. */
static struct tx *make_tx(uint32_t total)
{
	struct tx *t = uio_port_alloc(sizeof(*t));
	uint32_t size = (total + UIO_PAGE_SIZE - 1) & ~(UIO_PAGE_SIZE - 1);

	if (t == NULL)
		return NULL;
	t->total = total;
	t->n = 1;
	t->sg[0] = (struct uio_sg){uio_port_dma_alloc(size), size};
	if (t->sg[0].addr != NULL)
		return t;
	for (t->n = 0; t->n * UIO_PAGE_SIZE < size; t->n++) {
		void *page = size > UIO_PAGE_SIZE ? uio_port_dma_alloc(UIO_PAGE_SIZE) : NULL;
		if (page == NULL) {
			free_tx(t);
			return NULL;
		}
		t->sg[t->n] = (struct uio_sg){page, UIO_PAGE_SIZE};
	}
	return t;
}

static void fill_tx(struct tx *t, const struct uio_sg *pieces, unsigned int n)
{
	unsigned int page = 0;
	uint32_t at = 0;

	for (unsigned int i = 0; i < n; i++) {
		const uint8_t *from = pieces[i].addr;
		for (uint32_t left = pieces[i].len; left > 0;) {
			if (at == t->sg[page].len) {
				page++;
				at = 0;
			}
			uint32_t part = t->sg[page].len - at < left ? t->sg[page].len - at : left;
			uio_copy((uint8_t *)t->sg[page].addr + at, from, part);
			from += part;
			at += part;
			left -= part;
		}
	}
}

static int queue_tx(struct lane *l, struct tx *t)
{
	struct uio_sg sg[TX_PAGES];

	memcpy(sg, t->sg, t->n * sizeof(sg[0]));
	sg[t->n - 1].len -= t->n == 1 ? sg[0].len - t->total : t->n * UIO_PAGE_SIZE - t->total;
	return uio_port_vq_add(l->tx, sg, t->n, 0, t);
}

/* Off the list; messages are taken by the device in order. */
static void take_oldest(struct lane *l)
{
	struct tx *t = l->tx_oldest;

	l->tx_oldest = t->next;
	if (l->tx_oldest == NULL)
		l->tx_end = &l->tx_oldest;
	l->tx_bytes -= t->total;
	l->tx_messages--;
	free_tx(t);
}

/*
 * Take back what the host has read; true if there was something. What is older
 * than a message that came back was lost: QEMU (7.2, discard_throttle_data())
 * drops one that is sent in part when the host's end closes.
 */
bool uio_lane_reclaim(struct lane *l)
{
	uint32_t len;
	struct tx *t;
	bool any = false;

	if (l->tx_messages == 0)
		return false;
	while ((t = uio_port_vq_get(l->tx, &len)) != NULL) {
		while (l->tx_oldest != t) {
			if (uio_port_vq_forget != NULL)
				uio_port_vq_forget(l->tx, l->tx_oldest);
			take_oldest(l);
		}
		take_oldest(l);
		l->tx_returned = any = true;
	}
	return any;
}

bool uio_lane_await(struct lane *l)
{
	return uio_port_vq_irq_on(l->tx);
}

/* Something must come back first; whether it has already is for the caller to know. */
static int no_room(struct lane *l, bool *again)
{
	l->tx_wanted = true;
	*again = !uio_lane_await(l);
	return -EAGAIN;
}

int uio_lane_send(struct lane *l, const struct uio_sg *pieces, unsigned int n, bool *again)
{
	uint32_t total = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (pieces[i].len > TX_MAX - total)
			return -EINVAL;
		total += pieces[i].len;
	}
	if (total == 0)
		return 0;
	uio_lane_reclaim(l);
	if (l->tx_messages >= TX_MESSAGES ||
	    (l->tx_messages != 0 && l->tx_bytes + total > TX_BYTES))
		return no_room(l, again);

	struct tx *t = make_tx(total);
	if (t == NULL)
		/* Memory comes back with what is on its way; else there is none. */
		return l->tx_messages != 0 ? no_room(l, again) : -ENOMEM;
	fill_tx(t, pieces, n);
	int err = queue_tx(l, t);
	if (err < 0) {
		free_tx(t);
		return err == -ENOSPC && l->tx_messages != 0 ? no_room(l, again) : err;
	}
	l->tx_wanted = false;
	t->next = NULL;
	*l->tx_end = t;
	l->tx_end = &t->next;
	l->tx_bytes += total;
	l->tx_messages++;
	uio_port_vq_kick(l->tx);
	/* Large buffers come back as soon as possible. */
	if (l->tx_bytes >= TX_QUIET && !uio_lane_await(l))
		uio_lane_reclaim(l);
	return 0;
}

bool uio_lane_poll(struct lane *l)
{
	/* Interrupts come once: ask for the next while somebody needs it, and large buffers back.
	 */
	do
		uio_lane_reclaim(l);
	while (l->tx_messages != 0 &&
	       (l->tx_wanted || l->waiters != NULL || l->tx_bytes >= TX_QUIET) &&
	       !uio_lane_await(l));

	/* Some room at a time: waking for each message costs more than the message. */
	if (!l->tx_returned || l->tx_bytes > TX_BYTES / 2 || l->tx_messages > TX_MESSAGES / 2)
		return false;
	l->tx_returned = false;
	return true;
}

void uio_lane_init(struct lane *l, struct uio_vq *rx, struct uio_vq *tx)
{
	*l = (struct lane){.rx = rx, .tx = tx, .rx_most = RX_BUSY};
	l->tx_end = &l->tx_oldest;
}
