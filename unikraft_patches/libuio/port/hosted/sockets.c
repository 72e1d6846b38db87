/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The three host ports of the hosted guest: unix sockets that listen as
 * QEMU's chardevs do, one peer at a time. A thread outside of libuio plays
 * the interrupt: it turns the sockets' edges into the context's event.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../core/hostport.h"
#include "hosted.h"

#define PENDING_MAX (68u * 1024)
#define PIECES_MAX  64u

struct waiter {
	struct waiter *next;
	struct uio_event event;
};

static struct port {
	int listener, fd;
	unsigned int generation;
	/* what a partly taken message still has to send */
	char *pending;
	size_t pending_at, pending_len;
	struct waiter *waiters;
} ports[UIO_HOSTPORT_COUNT];

static const char *directory;
static int epoll = -1;
static struct uio_event *wake;

void hosted_sockets(const char *path)
{
	directory = path;
}

static _Noreturn void *interrupts(void *arg)
{
	struct epoll_event events[8];

	(void)arg;
	for (;;)
		if (epoll_wait(epoll, events, 8, -1) > 0)
			uio_port_event_signal(wake);
}

static void watch(int fd, uint32_t events)
{
	struct epoll_event e = {.events = events | EPOLLET};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0)
		abort();
}

static int listen_at(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || (size_t)snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s.sock",
				       directory, name) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	unlink(address.sun_path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 8) < 0)
		return -errno;
	return fd;
}

int uio_hostport_init(struct uio_event *event)
{
	static const char *const names[UIO_HOSTPORT_COUNT] = {"channel", "console", "fs", "mount"};
	pthread_t thread;
	pthread_attr_t attr;

	wake = event;
	epoll = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < UIO_HOSTPORT_COUNT; i++) {
		ports[i].fd = -1;
		ports[i].listener = listen_at(names[i]);
		if (ports[i].listener < 0)
			return ports[i].listener;
		ports[i].pending = malloc(PENDING_MAX);
		watch(ports[i].listener, EPOLLIN);
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int err = pthread_create(&thread, &attr, interrupts, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}

static void wake_waiters(struct port *p)
{
	for (struct waiter *w = p->waiters; w != NULL; w = w->next)
		uio_port_event_signal(&w->event);
}

static void hang_up(struct port *p)
{
	if (p->fd < 0)
		return;
	close(p->fd);
	p->fd = -1;
	p->pending_at = p->pending_len = 0;
	wake_waiters(p);
}

static void flush_pending(struct port *p)
{
	while (p->fd >= 0 && p->pending_at < p->pending_len) {
		ssize_t n = send(p->fd, p->pending + p->pending_at, p->pending_len - p->pending_at,
				 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			hang_up(p);
			return;
		}
		p->pending_at += (size_t)n;
	}
	if (p->waiters != NULL)
		wake_waiters(p);
}

static void look_for_hang_up(struct port *p)
{
	char byte;

	if (p->fd >= 0 && recv(p->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0)
		hang_up(p);
}

void uio_hostport_poll(void)
{
	for (int i = 0; i < UIO_HOSTPORT_COUNT; i++) {
		struct port *p = &ports[i];
		look_for_hang_up(p);
		if (p->fd < 0) {
			p->fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
			if (p->fd >= 0) {
				p->generation++;
				watch(p->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
			}
		}
		flush_pending(p);
	}
}

bool uio_hostport_connected(enum uio_hostport port)
{
	return ports[port].fd >= 0;
}

unsigned int uio_hostport_generation(enum uio_hostport port)
{
	return ports[port].generation;
}

void uio_hostport_expect(enum uio_hostport port, uint64_t bytes)
{
	(void)port, (void)bytes; /* the memory is the host's */
}

ssize_t uio_hostport_read(enum uio_hostport port, void *buf, size_t len)
{
	struct port *p = &ports[port];

	if (p->fd < 0)
		return -ENOTCONN;
	ssize_t n = recv(p->fd, buf, len, MSG_DONTWAIT);
	if (n > 0)
		return n;
	if (n < 0 && errno == EAGAIN)
		return 0;
	hang_up(p);
	/* The next peer may be waiting already, whose edge has passed. */
	uio_port_event_signal(wake);
	return -ENOTCONN;
}

int uio_hostport_wait(enum uio_hostport port)
{
	struct port *p = &ports[port];
	struct waiter w = {.next = p->waiters};
	unsigned int generation = p->generation;

	if (p->fd < 0)
		return -ENOTCONN;
	uio_port_event_init(&w.event);
	p->waiters = &w;
	uio_port_event_wait(&w.event, UINT64_MAX);
	for (struct waiter **at = &p->waiters; *at != NULL; at = &(*at)->next)
		if (*at == &w) {
			*at = w.next;
			break;
		}
	return p->fd < 0 || p->generation != generation ? -ENOTCONN : 0;
}

static int try_send(struct port *p, const struct uio_sg *pieces, unsigned int n)
{
	struct iovec iov[PIECES_MAX];
	size_t total = 0;

	if (p->fd < 0)
		return -ENOTCONN;
	if (n > PIECES_MAX)
		return -EINVAL;
	flush_pending(p);
	if (p->fd < 0)
		return -ENOTCONN;
	if (p->pending_at < p->pending_len)
		return -EAGAIN;
	for (unsigned int i = 0; i < n; i++) {
		iov[i] = (struct iovec){pieces[i].addr, pieces[i].len};
		total += pieces[i].len;
	}
	if (total > PENDING_MAX)
		return -EINVAL;
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = n};
	ssize_t sent = sendmsg(p->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (sent < 0) {
		hang_up(p);
		uio_port_event_signal(wake);
		return -ENOTCONN;
	}
	p->pending_at = p->pending_len = 0;
	size_t skip = (size_t)sent;
	for (unsigned int i = 0; i < n; i++) {
		size_t passed = skip < pieces[i].len ? skip : pieces[i].len;
		memcpy(p->pending + p->pending_len, (char *)pieces[i].addr + passed,
		       pieces[i].len - passed);
		p->pending_len += pieces[i].len - passed;
		skip -= passed;
	}
	return 0;
}

int uio_hostport_send(enum uio_hostport port, const struct uio_sg *pieces, unsigned int n,
		      bool wait)
{
	struct port *p = &ports[port];
	int err = try_send(p, pieces, n);

	while (wait && err == -EAGAIN) {
		err = uio_hostport_wait(port);
		if (err == 0)
			err = try_send(p, pieces, n);
	}
	return err;
}
