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
#include "virtio_console.h"

#define DEVICE_CONSOLE   3u
#define DEVICES_MAX      8u
#define F_MULTIPORT      (1ull << 1)
#define F_VERSION_1      (1ull << 32)
#define CONFIG_MAX_PORTS 4u /* offset of max_nr_ports */
#define LANES            5u /* port ids 0 to 4: each has two queues, which cost memory */
#define QUEUE_CONTROL_RX 2u
#define QUEUE_CONTROL_TX 3u
#define QUEUES_MAX       ((LANES + 1) * 2)

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

static const char *const port_names[UIO_HOSTPORT_COUNT] = {
	"org.uio.channel",
	"org.uio.console",
	"org.uio.fs",
	"org.uio.mount",
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
	if (!open)
		l->stale = true;
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
		if (i == UIO_HOSTPORT_MOUNT && uio_mount_poll == NULL)
			return;
		if (port_lane[i] != NULL && port_lane[i] != l) {
			uio_log(4, "virtio-console: a second port is named %s", port_names[i]);
			return;
		}
		if (l->rx == NULL)
			return;
		port_lane[i] = l;
		uio_lane_listen(l);
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
	l->stale = true;
	wake_waiters(l);
	if (port >= 0)
		port_lane[port] = NULL;
}

/* With or without a NUL behind it. */
static size_t name_length(const char *name, size_t room)
{
	const char *end = memchr(name, '\0', room);

	return end != NULL ? (size_t)(end - name) : room;
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
		name_port(c.id, name, name_length(name, len - sizeof(c)));
		break;
	default:
		break; /* sizes of text consoles */
	}
}

/*
 * What a peer that is gone has left is not for the next one: its keys would be
 * typed into another's shell. If that one is there already, its first bytes
 * may go too; so the channel, whose reader finds its way through anything and
 * whose peer should not have to repeat its SYNC, is spared.
 */
static void drop_stale(struct lane *l)
{
	if (l->stale && !(l->host_open && port_lane[UIO_HOSTPORT_CHANNEL] == l))
		uio_lane_discard(l);
	l->stale = false;
}

/* All control messages that are there; true if there were some. */
static bool take_controls(void)
{
	bool taken = false;
	uint32_t len;
	uint8_t *buffer;

	while ((buffer = uio_port_vq_get(control_rx, &len)) != NULL) {
		take_control(buffer, len < CONTROL_RX_SIZE ? len : CONTROL_RX_SIZE);
		offer_control(buffer);
		taken = true;
	}
	if (taken)
		uio_port_vq_kick(control_rx);
	return taken;
}

static void poll_control(void)
{
	do
		take_controls();
	while (!uio_port_vq_irq_on(control_rx));
	for (unsigned int i = 0; i < LANES; i++)
		drop_stale(&lanes[i]);
}

/* ---- sending ---- */

static struct lane *open_lane(enum uio_hostport port)
{
	struct lane *l = port_lane[port];

	return l != NULL && l->host_open ? l : NULL;
}

/* Room may be there before anybody was told to wait for it. */
static int try_send(enum uio_hostport port, const struct uio_sg *pieces, unsigned int n)
{
	struct lane *l = open_lane(port);
	bool again = false;

	if (l == NULL)
		return -ENOTCONN;
	int err = uio_lane_send(l, pieces, n, &again);
	if (again)
		uio_port_event_signal(wake);
	return err;
}

int uio_hostport_wait(enum uio_hostport port)
{
	struct lane *l = open_lane(port);
	unsigned int generation = port_generation[port];

	if (l == NULL)
		return -ENOTCONN;
	l->tx_wanted = true;
	if (uio_lane_reclaim(l) || !uio_lane_await(l))
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
	if (!uio_lane_readable(l))
		return 0;
	if (fresh) {
		/* The device tells of a new peer before that one's data, but in another queue. */
		if (take_controls())
			poll_control();
		if (open_lane(port) != l)
			return -ENOTCONN;
	}
	return (ssize_t)uio_lane_read(l, buf, len);
}

void uio_hostport_expect(enum uio_hostport port, uint64_t bytes)
{
	struct lane *l = open_lane(port);

	if (l != NULL)
		uio_lane_expect(l, bytes);
}

void uio_hostport_poll(void)
{
	poll_control();
	for (unsigned int i = 0; i < LANES; i++) {
		if (uio_lane_poll(&lanes[i]))
			wake_waiters(&lanes[i]);
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
	/* Port 0 is for a text console of the machine's (5.3.5): none of ours is ever there. */
	for (unsigned int i = QUEUE_CONTROL_RX; i < QUEUES_MAX; i++) {
		notify[i] = i == QUEUE_CONTROL_TX ? NULL : on_interrupt;
		arg[i] = &device;
	}
	err = uio_port_virtio_queues(device, (ports + 1) * 2, queue, notify, arg);
	if (err < 0)
		return err;
	/* 5.3.2: port 0 has queues 0 and 1, control 2 and 3, port n then 2n + 2 and 2n + 3. */
	control_rx = queue[QUEUE_CONTROL_RX];
	control_tx = queue[QUEUE_CONTROL_TX];
	for (uint32_t i = 1; i < ports; i++)
		uio_lane_init(&lanes[i], queue[2 * i + 2], queue[2 * i + 3]);
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
