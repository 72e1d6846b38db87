/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtio console driven through the port alone: finds the port named org.uio.channel, echoes what
 * comes in until a piece ends in "quit\n". Not libuio's driver: just enough of one to know that
 * devices, queues and interrupts work.
 */
#include <string.h>

#include "selftest.h"

#define DEVICE_CONSOLE 3
#define F_MULTIPORT    (1ull << 1)
#define QUEUES         6 /* receive and transmit of port 0, of control, of port 1 */
#define BUFFER         4096

enum { PORT_READY = 3, PORT_NAME = 7, PORT_OPEN = 6, DEVICE_READY = 0, DEVICE_ADD = 1 };
enum { CONTROL_IN = 2, CONTROL_OUT = 3, DATA_IN = 4, DATA_OUT = 5 };

struct control {
	uint32_t id;
	uint16_t event, value;
	char name[64];
};

static struct uio_vq *queues[QUEUES];
static struct uio_event arrived;
static unsigned int interrupts;

static void notify(void *arg)
{
	(void)arg;
	interrupts++;
	uio_port_event_signal(&arrived);
}

/** Send and wait until the device has taken it. */
static bool send(unsigned int queue, void *data, uint32_t len)
{
	struct uio_sg sg = {data, len};

	CHECK(uio_port_vq_add(queues[queue], &sg, 1, 0, data) == 0);
	uio_port_vq_kick(queues[queue]);
	while (!uio_port_vq_get(queues[queue], NULL)) {
		if (uio_port_vq_irq_on(queues[queue]))
			uio_port_event_wait(&arrived, UINT64_MAX);
	}
	return true;
}

static bool send_control(uint32_t id, uint16_t event, uint16_t value)
{
	static struct control message;

	message = (struct control){.id = id, .event = event, .value = value};
	return send(CONTROL_OUT, &message, 8);
}

static bool offer(unsigned int queue, void *buffer, uint32_t len)
{
	struct uio_sg sg = {buffer, len};

	CHECK(uio_port_vq_add(queues[queue], &sg, 0, 1, buffer) == 0);
	uio_port_vq_kick(queues[queue]);
	return true;
}

static bool handle_control(const struct control *message, bool *open)
{
	if (message->event == DEVICE_ADD && message->id == 1)
		CHECK(send_control(1, PORT_READY, 1));
	if (message->event == PORT_NAME) {
		CHECK(message->id == 1 && !strncmp(message->name, "org.uio.channel", 15));
		CHECK(send_control(1, PORT_OPEN, 1));
	}
	if (message->event == PORT_OPEN && message->id == 1)
		*open = message->value;
	return true;
}

bool test_console(void)
{
	void (*const notifies[QUEUES])(void *) = {NULL, NULL, notify, notify, notify, notify};
	void *const args[QUEUES] = {NULL};
	static struct control controls[8];
	struct uio_vdev *device, *again;
	char *in = uio_port_dma_alloc(BUFFER), *buffer;
	uint32_t ports = 0, len;
	bool open = false, quit = false;
	uint64_t got, bytes = 0;

	uio_port_event_init(&arrived);
	CHECK(uio_port_virtio_open(63, 0, 0, &got, &device) < 0);
	CHECK(uio_port_virtio_open(DEVICE_CONSOLE, 1, F_MULTIPORT, &got, &device) < 0);
	CHECK(uio_port_virtio_open(DEVICE_CONSOLE, 0, F_MULTIPORT, &got, &device) == 0);
	CHECK(uio_port_virtio_open(DEVICE_CONSOLE, 0, F_MULTIPORT, &got, &again) < 0);
	CHECK(got & F_MULTIPORT);
	CHECK(uio_port_virtio_config(device, 4, &ports, sizeof(ports)) == 0 && ports >= 2);
	CHECK(uio_port_virtio_queues(device, QUEUES, queues, notifies, args) == 0);
	CHECK(uio_port_vq_size(queues[DATA_IN]) >= 16);
	uio_port_virtio_start(device);
	for (int i = 0; i < 8; i++)
		CHECK(offer(CONTROL_IN, &controls[i], sizeof(controls[i])));
	CHECK(offer(DATA_IN, in, BUFFER));
	CHECK(send_control(0xffffffff, DEVICE_READY, 1));
	printf("selftest: console driver started, %s\n", got >> 32 & 1 ? "modern" : "legacy");
	while (!quit) {
		struct control *message = uio_port_vq_get(queues[CONTROL_IN], NULL);

		if (message) {
			CHECK(handle_control(message, &open));
			memset(message, 0, sizeof(*message));
			CHECK(offer(CONTROL_IN, message, sizeof(*message)));
			continue;
		}
		buffer = uio_port_vq_get(queues[DATA_IN], &len);
		if (buffer) {
			CHECK(buffer == in && open);
			bytes += len;
			quit = len >= 5 && !memcmp(buffer + len - 5, "quit\n", 5);
			CHECK(send(DATA_OUT, buffer, len));
			CHECK(offer(DATA_IN, in, BUFFER));
			continue;
		}
		if (uio_port_vq_irq_on(queues[CONTROL_IN]) && uio_port_vq_irq_on(queues[DATA_IN]))
			uio_port_event_wait(&arrived, UINT64_MAX);
	}
	printf("selftest: echoed %lu bytes\n", (unsigned long)bytes);
	CHECK(interrupts > 0);
	return true;
}
