/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Driver for a virtio console with MULTIPORT (virtio 1.2, section 5.3): finds
 * uIO's ports by name, whenever they appear, and moves bytes in large buffers.
 * Numbers in comments are the specification's sections.
 */
#include <errno.h>
#include <string.h>

#include "channel.h"
#include "hostport.h"

#define DEVICE_CONSOLE   3u
#define DEVICES_MAX      8u
#define F_MULTIPORT      (1ull << 1)
#define F_VERSION_1      (1ull << 32)
#define CONFIG_MAX_PORTS 4u /* offset of max_nr_ports */
#define LANES            5u /* port ids 0 to 4: each has two queues, which cost memory */
#define QUEUE_CONTROL_RX 2u
#define QUEUE_CONTROL_TX 3u
#define QUEUES_MAX       ((LANES + 1) * 2)

#define RX_SIZE     4096u
#define RX_IDLE     1u    /* buffers per port; QEMU fills at most one per turn of its loop */
#define RX_BUSY     8u    /* while data comes in bulk */
#define RX_BULK     2048u /* a buffer with so much says that it does */
#define TX_BYTES    (192u * 1024) /* on their way per port */
#define TX_MESSAGES 32u
#define TX_MAX      (68u * 1024)
#define TX_PAGES    (TX_MAX / UIO_PAGE_SIZE)
#define TX_QUIET    8192u /* less than that needs no interrupt to be taken back */

#define CONTROL_RX      32u
#define CONTROL_RX_SIZE 96u
#define CONTROL_TX      64u

/* 5.3.6.2 */
struct control {
	uint32_t id;
	uint16_t event, value;
};
_Static_assert(sizeof(struct control) == 8, "device format");

enum control_event {
	DEVICE_READY = 0,
	DEVICE_ADD = 1,
	DEVICE_REMOVE = 2,
	PORT_READY = 3,
	CONSOLE_PORT = 4,
	RESIZE = 5,
	PORT_OPEN = 6,
	PORT_NAME = 7,
};

/* A message on its way to the host, in one piece if there is such memory, else in pages. */
struct tx {
	struct tx *next; /* younger */
	uint32_t total;
	unsigned int n;
	struct uio_sg sg[TX_PAGES];
};

struct waiter {
	struct waiter *next;
	struct uio_event event;
};

/* A port id of the device, whatever is plugged in there now. */
struct lane {
	struct uio_vq *rx, *tx;
	bool ours; /* one of the named ports */
	bool host_open;
	unsigned int rx_buffers, rx_unkicked;
	/* the buffer being read */
	uint8_t *current;
	uint32_t current_at, current_len;
	struct tx *tx_oldest, **tx_end;
	uint32_t tx_bytes;
	unsigned int tx_messages;
	struct waiter *waiters;
};

static const char *const port_names[UIO_HOSTPORT_COUNT] = {
	"org.uio.channel",
	"org.uio.console",
	"org.uio.fs",
};

static struct uio_vdev *device;
static struct uio_event *wake;
static struct uio_vq *control_rx, *control_tx;
static struct control *control_out; /* CONTROL_TX slots */
static uint64_t control_out_used;
static struct lane lanes[LANES];
static struct lane *port_lane[UIO_HOSTPORT_COUNT];
static unsigned int port_generation[UIO_HOSTPORT_COUNT];

_Static_assert(CONTROL_RX *CONTROL_RX_SIZE + CONTROL_TX * sizeof(struct control) <= UIO_PAGE_SIZE,
	       "control messages share one page");

/* ---- control messages ---- */

static void send_control(uint32_t id, enum control_event event, uint16_t value)
{
	uint32_t len;
	struct control *slot;

	while ((slot = uio_port_vq_get(control_tx, &len)) != NULL)
		control_out_used &= ~(1ull << (slot - control_out));
	if (control_out_used == UINT64_MAX) {
		uio_log(4, "virtio-console: the device does not take control messages");
		return;
	}
	unsigned int i = (unsigned int)__builtin_ctzll(~control_out_used);
	slot = &control_out[i];
	*slot = (struct control){.id = id, .event = (uint16_t)event, .value = value};
	struct uio_sg sg = {slot, sizeof(*slot)};
	if (uio_port_vq_add(control_tx, &sg, 1, 0, slot) < 0)
		return;
	control_out_used |= 1ull << i;
	uio_port_vq_kick(control_tx);
}

static int offer_control(void *buffer)
{
	struct uio_sg sg = {buffer, CONTROL_RX_SIZE};

	return uio_port_vq_add(control_rx, &sg, 0, 1, buffer);
}

/* ---- receive buffers ---- */

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
	if ((l->current_len < RX_BULK / 2 && l->rx_buffers > RX_IDLE) || !offer_rx(l, buffer)) {
		uio_port_dma_free(buffer, RX_SIZE);
		l->rx_buffers--;
	}
	if (l->current_len >= RX_BULK && l->rx_buffers < RX_BUSY)
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

static void discard_rx(struct lane *l)
{
	if (l->rx == NULL || l->rx_buffers == 0)
		return;
	while (next_rx(l))
		recycle(l);
}

/* ---- ports ---- */

static void wake_waiters(struct lane *l)
{
	for (struct waiter *w = l->waiters; w != NULL; w = w->next)
		uio_port_event_signal(&w->event);
}

static int port_of(const struct lane *l)
{
	for (int i = 0; i < UIO_HOSTPORT_COUNT; i++)
		if (port_lane[i] == l)
			return i;
	return -1;
}

static void set_host_open(struct lane *l, bool open)
{
	int port = port_of(l);

	l->host_open = open;
	if (port >= 0 && open)
		port_generation[port]++;
	wake_waiters(l);
}

static void name_port(uint32_t id, const char *name, size_t len)
{
	struct lane *l = &lanes[id];

	for (int i = 0; i < UIO_HOSTPORT_COUNT; i++) {
		if (strlen(port_names[i]) != len || memcmp(port_names[i], name, len) != 0)
			continue;
		if (port_lane[i] != NULL && port_lane[i] != l) {
			uio_log(4, "virtio-console: a second port is named %s", port_names[i]);
			return;
		}
		if (l->rx == NULL)
			return;
		port_lane[i] = l;
		l->ours = true;
		grow_rx(l, RX_IDLE);
		kick_rx(l);
		send_control(id, PORT_OPEN, 1);
		if (l->host_open)
			set_host_open(l, true);
		return;
	}
}

static void remove_port(struct lane *l)
{
	int port = port_of(l);

	l->host_open = false;
	l->ours = false;
	wake_waiters(l);
	if (port >= 0)
		port_lane[port] = NULL;
}

static void take_control(const uint8_t *buffer, uint32_t len)
{
	struct control c;

	if (len < sizeof(c))
		return;
	memcpy(&c, buffer, sizeof(c));
	if (c.id >= LANES) {
		if (c.event == DEVICE_ADD) {
			uio_log(4, "virtio-console: port %u is beyond what libuio looks at",
				(unsigned int)c.id);
			send_control(c.id, PORT_READY, 0);
		}
		return;
	}
	const char *name = (const char *)buffer + sizeof(c);
	switch (c.event) {
	case DEVICE_ADD:
		send_control(c.id, PORT_READY, 1);
		break;
	case DEVICE_REMOVE:
		remove_port(&lanes[c.id]);
		break;
	case PORT_OPEN:
		set_host_open(&lanes[c.id], c.value != 0);
		break;
	case PORT_NAME:
		name_port(c.id, name, strnlen(name, len - sizeof(c)));
		break;
	default:
		break; /* sizes of text consoles */
	}
}

static void poll_control(void)
{
	bool taken = false;

	do {
		uint32_t len;
		uint8_t *buffer;
		while ((buffer = uio_port_vq_get(control_rx, &len)) != NULL) {
			take_control(buffer, len < CONTROL_RX_SIZE ? len : CONTROL_RX_SIZE);
			offer_control(buffer);
			taken = true;
		}
		if (taken)
			uio_port_vq_kick(control_rx);
	} while (!uio_port_vq_irq_on(control_rx));
	if (!taken)
		return;
	/* What a peer that is gone has left is not for the next one. */
	for (unsigned int i = 0; i < LANES; i++)
		if (!lanes[i].host_open)
			discard_rx(&lanes[i]);
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
			memcpy((uint8_t *)t->sg[page].addr + at, from, part);
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
static bool reclaim(struct lane *l)
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
		any = true;
	}
	return any;
}

static struct lane *open_lane(enum uio_hostport port)
{
	struct lane *l = port_lane[port];

	return l != NULL && l->host_open ? l : NULL;
}

static int try_send(enum uio_hostport port, const struct uio_sg *pieces, unsigned int n)
{
	struct lane *l = open_lane(port);
	uint32_t total = 0;

	if (l == NULL)
		return -ENOTCONN;
	for (unsigned int i = 0; i < n; i++) {
		if (pieces[i].len > TX_MAX - total)
			return -EINVAL;
		total += pieces[i].len;
	}
	if (total == 0)
		return 0;
	reclaim(l);
	while (l->tx_messages >= TX_MESSAGES ||
	       (l->tx_messages != 0 && l->tx_bytes + total > TX_BYTES))
		if (uio_port_vq_irq_on(l->tx))
			return -EAGAIN;
		else if (!reclaim(l))
			return -EAGAIN;

	struct tx *t = make_tx(total);
	if (t == NULL)
		/* Memory comes back with what is on its way; else there is none. */
		return l->tx_messages != 0 && uio_port_vq_irq_on(l->tx) ? -EAGAIN : -ENOMEM;
	fill_tx(t, pieces, n);
	int err = queue_tx(l, t);
	if (err < 0) {
		free_tx(t);
		if (err == -ENOSPC && l->tx_messages != 0) {
			uio_port_vq_irq_on(l->tx);
			return -EAGAIN;
		}
		return err;
	}
	t->next = NULL;
	*l->tx_end = t;
	l->tx_end = &t->next;
	l->tx_bytes += total;
	l->tx_messages++;
	uio_port_vq_kick(l->tx);
	/* Large buffers come back as soon as possible. */
	if (l->tx_bytes >= TX_QUIET && !uio_port_vq_irq_on(l->tx))
		reclaim(l);
	return 0;
}

int uio_hostport_wait(enum uio_hostport port)
{
	struct lane *l = open_lane(port);
	unsigned int generation = port_generation[port];

	if (l == NULL)
		return -ENOTCONN;
	if (reclaim(l) || !uio_port_vq_irq_on(l->tx))
		return 0;
	struct waiter w = {.next = l->waiters};
	uio_port_event_init(&w.event);
	l->waiters = &w;
	uio_port_event_wait(&w.event, UINT64_MAX);
	for (struct waiter **at = &l->waiters; *at != NULL; at = &(*at)->next)
		if (*at == &w) {
			*at = w.next;
			break;
		}
	return open_lane(port) != l || port_generation[port] != generation ? -ENOTCONN : 0;
}

int uio_hostport_send(enum uio_hostport port, const struct uio_sg *pieces, unsigned int n,
		      bool wait)
{
	int err = try_send(port, pieces, n);

	while (wait && err == -EAGAIN) {
		err = uio_hostport_wait(port);
		if (err == 0)
			err = try_send(port, pieces, n);
	}
	return err;
}

/* ---- for the context ---- */

bool uio_hostport_connected(enum uio_hostport port)
{
	return open_lane(port) != NULL;
}

unsigned int uio_hostport_generation(enum uio_hostport port)
{
	return port_generation[port];
}

ssize_t uio_hostport_read(enum uio_hostport port, void *buf, size_t len)
{
	struct lane *l = open_lane(port);

	if (l == NULL)
		return -ENOTCONN;
	bool fresh = l->current == NULL;
	if (!next_rx(l))
		return 0;
	if (fresh) {
		/* The device tells of a new peer before that one's data, but in another queue. */
		poll_control();
		if (open_lane(port) != l)
			return -ENOTCONN;
		if (l->current == NULL)
			return 0;
	}
	uint32_t n = l->current_len - l->current_at;
	if (n > len)
		n = (uint32_t)len;
	memcpy(buf, l->current + l->current_at, n);
	l->current_at += n;
	if (l->current_at == l->current_len)
		recycle(l);
	return (ssize_t)n;
}

void uio_hostport_poll(void)
{
	poll_control();
	for (unsigned int i = 0; i < LANES; i++) {
		struct lane *l = &lanes[i];
		bool any = reclaim(l);
		if (l->tx_bytes >= TX_QUIET && !uio_port_vq_irq_on(l->tx))
			any |= reclaim(l);
		if (any)
			wake_waiters(l);
	}
}

/* ---- start ---- */

static void on_interrupt(void *arg)
{
	(void)arg;
	uio_port_event_signal(wake);
}

static int find_device(void)
{
	for (unsigned int index = 0; index < DEVICES_MAX; index++) {
		uint64_t got = 0;
		int err = uio_port_virtio_open(DEVICE_CONSOLE, index, F_MULTIPORT | F_VERSION_1,
					       &got, &device);
		if (err < 0)
			return err;
		if (got & F_MULTIPORT)
			return 0;
	}
	return -ENODEV;
}

static int set_up_queues(void)
{
	static void (*notify[QUEUES_MAX])(void *);
	static void *arg[QUEUES_MAX];
	static struct uio_vq *queue[QUEUES_MAX];
	uint32_t ports = 0;

	int err = uio_port_virtio_config(device, CONFIG_MAX_PORTS, &ports, sizeof(ports));
	if (err < 0)
		return err;
	if (ports == 0)
		return -ENODEV;
	if (ports > LANES)
		ports = LANES;
	for (unsigned int i = 0; i < QUEUES_MAX; i++)
		notify[i] = i == QUEUE_CONTROL_TX ? NULL : on_interrupt;
	err = uio_port_virtio_queues(device, (ports + 1) * 2, queue, notify, arg);
	if (err < 0)
		return err;
	/* 5.3.2: port 0 has queues 0 and 1, control 2 and 3, port n then 2n + 2 and 2n + 3. */
	control_rx = queue[QUEUE_CONTROL_RX];
	control_tx = queue[QUEUE_CONTROL_TX];
	for (uint32_t i = 0; i < ports; i++) {
		lanes[i].rx = queue[i == 0 ? 0 : 2 * i + 2];
		lanes[i].tx = queue[i == 0 ? 1 : 2 * i + 3];
		lanes[i].tx_end = &lanes[i].tx_oldest;
	}
	return 0;
}

int uio_hostport_init(struct uio_event *event)
{
	wake = event;
	int err = find_device();
	if (err >= 0)
		err = set_up_queues();
	if (err < 0)
		return err;
	uint8_t *page = uio_port_dma_alloc(UIO_PAGE_SIZE);
	if (page == NULL)
		return -ENOMEM;
	control_out = (struct control *)(void *)(page + CONTROL_RX * CONTROL_RX_SIZE);
	uio_port_virtio_start(device);
	for (unsigned int i = 0; i < CONTROL_RX; i++)
		if (offer_control(page + i * CONTROL_RX_SIZE) < 0)
			break; /* a short queue */
	uio_port_vq_kick(control_rx);
	send_control(0, DEVICE_READY, 1);
	return 0;
}
