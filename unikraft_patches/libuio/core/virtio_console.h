/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Between virtio_console.c (the device, its ports and who holds them open) and
 * virtio_console_lane.c (buffers of one port id's two queues).
 */
#ifndef UIO_CORE_VIRTIO_CONSOLE_H
#define UIO_CORE_VIRTIO_CONSOLE_H

#include <uio/port.h>

struct tx;

struct waiter {
	struct waiter *next;
	struct uio_event event;
};

/* A port id of the device, whatever is plugged in there now. */
struct lane {
	struct uio_vq *rx, *tx;
	bool host_open;
	bool stale; /* the host has closed it since its data was last looked at */
	unsigned int rx_buffers, rx_unkicked;
	unsigned int rx_most; /* so many buffers are worth having */
	/* the buffer being read */
	uint8_t *current;
	uint32_t current_at, current_len;
	/* messages on their way, oldest first */
	struct tx *tx_oldest, **tx_end;
	uint32_t tx_bytes;
	unsigned int tx_messages;
	bool tx_wanted;   /* somebody found no room */
	bool tx_returned; /* there is more since those who wait were woken */
	struct waiter *waiters;
};

void uio_lane_init(struct lane *l, struct uio_vq *rx, struct uio_vq *tx);
/** Offer the device the buffers of a quiet port. */
void uio_lane_listen(struct lane *l);
/** Bytes that have arrived, up to len: 0 = none, and an interrupt comes with the next. */
size_t uio_lane_read(struct lane *l, void *buf, size_t len);
/** So many bytes are known to come: for many more buffers are kept ready, and given back in time.
 */
void uio_lane_expect(struct lane *l, uint64_t bytes);
/** Whether uio_lane_read() has something. */
bool uio_lane_readable(struct lane *l);
/** Throw away what has arrived. */
void uio_lane_discard(struct lane *l);
/**
 * Send pieces together or not at all: 0, -EINVAL (too long), -ENOMEM, or
 * -EAGAIN: no room now; an interrupt comes, or *again is set, when to retry.
 */
int uio_lane_send(struct lane *l, const struct uio_sg *pieces, unsigned int n, bool *again);
/** Take back what the device has sent; true if there was something. */
bool uio_lane_reclaim(struct lane *l);
/** Have an interrupt when something comes back; false: something has already. */
bool uio_lane_await(struct lane *l);

/** After an interrupt: take back what was sent; true if those who wait for room should look. */
bool uio_lane_poll(struct lane *l);

#endif /* UIO_CORE_VIRTIO_CONSOLE_H */
