/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The byte ports to the host, whatever carries them: a virtio-console
 * device (virtio_console.c) or, in the hosted port, unix sockets. All
 * functions belong to threads of libuio; none is for interrupt context.
 */
#ifndef UIO_CORE_HOSTPORT_H
#define UIO_CORE_HOSTPORT_H

#include <uio/port.h>

enum uio_hostport {
	UIO_HOSTPORT_CHANNEL, /* org.uio.channel */
	UIO_HOSTPORT_CONSOLE, /* org.uio.console */
	UIO_HOSTPORT_FS,      /* org.uio.fs */
	UIO_HOSTPORT_MOUNT,   /* org.uio.mount, if this kernel has uio_mount_poll() */
	UIO_HOSTPORT_COUNT
};

/**
 * Find the device and its ports. wake is signalled, possibly in interrupt
 * context, whenever any port may have become readable, writable, open or
 * closed. -ENODEV without a device; ports may appear later.
 */
int uio_hostport_init(struct uio_event *wake);

/**
 * Take notice of what the device did since the last call: control messages,
 * freed transmit buffers. The context calls it each time wake was signalled.
 */
void uio_hostport_poll(void);

/**
 * Called by the context each time wake was signalled, after uio_hostport_poll():
 * who reads org.uio.mount, which only some kernels have.
 */
void uio_mount_poll(void) __attribute__((weak));

/** Whether the host holds the port open at this moment. */
bool uio_hostport_connected(enum uio_hostport port);

/** How often the port was opened by the host; a new number is a new peer. */
unsigned int uio_hostport_generation(enum uio_hostport port);

/** Take what has arrived: bytes, 0 = nothing now, -ENOTCONN. Never blocks. */
ssize_t uio_hostport_read(enum uio_hostport port, void *buf, size_t len);

/**
 * So many bytes are known to come. Memory is held ready for them, and no longer
 * than that: the device gives a buffer back only when something comes in it.
 */
void uio_hostport_expect(enum uio_hostport port, uint64_t bytes);

/**
 * Send all pieces (64 at most, 68 KiB in all) together, in one chain, or
 * nothing. The data is copied. With wait false it never blocks: -EAGAIN when
 * there is no room. With wait true it blocks until there is (the context
 * thread itself must not). -ENOTCONN when the host has closed the port, also
 * while waiting.
 */
int uio_hostport_send(enum uio_hostport port, const struct uio_sg *pieces, unsigned int n,
		      bool wait);

/**
 * Block until the port may have room again; there may be none, then wait
 * again. 0, -ENOTCONN when the host has closed the port.
 */
int uio_hostport_wait(enum uio_hostport port);

#endif /* UIO_CORE_HOSTPORT_H */
