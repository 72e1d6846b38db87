/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The uIO channel: frames of docs/protocol.md over org.uio.channel. The
 * context feeds it; commands and the loader send through it.
 */
#ifndef UIO_CORE_CHANNEL_H
#define UIO_CORE_CHANNEL_H

#include <uio/port.h>

/** Called by the context whenever the port may have something. Never blocks. */
void uio_channel_poll(void);

/** What SYMR says of one name. */
struct uio_symbol {
	uint64_t address;
	uint32_t size;
	uint8_t type; /* 0 unresolved, 1 function, 2 object */
};

/**
 * Ask the host for the addresses of names, on behalf of the overlay with this
 * hash, in one round trip. Blocks the calling command. 0, -ENOTCONN, -EINTR,
 * -ETIMEDOUT. Unresolved names are no error here.
 */
int uio_channel_symq(const uint8_t hash[32], const char *const *names, unsigned int n,
		     struct uio_symbol *out);

/** Tell the host that an image is no longer resident (GONE). */
void uio_channel_gone(const uint8_t hash[32]);

/** Whether a host is there and has said SYNC. */
bool uio_channel_synced(void);

/** What HELLO says of uIO's features (docs/protocol.md). overlay code adds its own at start. */
#define UIO_FEATURE_PKU       (1u << 0)
#define UIO_FEATURE_PKS       (1u << 1)
#define UIO_FEATURE_BPF       (1u << 2)
#define UIO_FEATURE_SIGNATURE (1u << 3)
#define UIO_FEATURE_PREEMPT   (1u << 4)
#define UIO_FEATURE_FAIL_STOP (1u << 5)
#define UIO_FEATURE_WX        (1u << 6)
void uio_channel_feature(uint64_t bits);
uint64_t uio_channel_features(void);

/** A LOG frame, level as syslog; also kept for `dmesg`. Rate-limited. */
void uio_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** One line of the log as a LOG frame, if the rate allows it (log.c calls it). */
void uio_channel_log(int level, const char *text, size_t len);

#endif /* UIO_CORE_CHANNEL_H */
