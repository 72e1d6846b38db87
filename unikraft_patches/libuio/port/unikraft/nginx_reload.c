/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `kill -HUP` for nginx without a master process, the only way it runs in
 * Unikraft. nginx reads its configuration again then, but the new cycle has no
 * connections, and its listening sockets have no accept events: nginx itself
 * would start new workers for both. Here they are carried over, so that the
 * one process that there is serves the new configuration:
 *
 * - Listening sockets that stay keep their connection and its accept event.
 *   New ones get one, those that are gone lose it.
 * - Client connections between two requests move to the new configuration at
 *   once, those within a request when it ends. None is closed, unless nobody
 *   listens on its address any more, or it speaks TLS or HTTP/2: such a one
 *   keeps its configuration until it ends, and is closed if it is idle.
 * - The old cycle is freed when its last connection has left it. Until then it
 *   has descriptors of its own for its log files.
 *
 * Compiled into libnginx, with its flags; the linker leads calls of
 * ngx_init_cycle() here. The number of worker_connections and the event method
 * stay what they were at the start.
 */
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

/* Some time to leave the functions of nginx that still look at the old configuration. */
#define FREE_DELAY_MS 1

/* A cycle that has been replaced, as long as it is needed. */
typedef struct {
	ngx_connection_t dumb; /* nginx takes what a timer's data points to for a connection */
	ngx_cycle_t *cycle;
	ngx_uint_t users;
	ngx_event_t free_event;
} old_t;

/* What keeps an old cycle: a cleanup of the pool of a connection or request. */
typedef struct {
	old_t *old;
	ngx_connection_t *c; /* to be moved to the new configuration, or NULL */
} use_t;

ngx_cycle_t *__real_ngx_init_cycle(ngx_cycle_t *old_cycle);
ngx_cycle_t *__wrap_ngx_init_cycle(ngx_cycle_t *old_cycle);

/** The next open file of a list, behind *i of *part; NULL at its end. */
static ngx_open_file_t *next_file(ngx_list_part_t **part, ngx_uint_t *i)
{
	while (*part && *i >= (*part)->nelts) {
		*part = (*part)->next;
		*i = 0;
	}
	return *part ? (ngx_open_file_t *)(*part)->elts + (*i)++ : NULL;
}

static ngx_uint_t count_files(ngx_cycle_t *cycle)
{
	ngx_list_part_t *part = &cycle->open_files.part;
	ngx_uint_t i = 0, n = 0;

	while (next_file(&part, &i))
		n++;
	return n;
}

/** nginx closes the old cycle's log files, but requests in flight will write to them. */
static ngx_fd_t *duplicate_files(ngx_cycle_t *cycle)
{
	ngx_list_part_t *part = &cycle->open_files.part;
	ngx_fd_t *fds = ngx_alloc((count_files(cycle) + 1) * sizeof(*fds), cycle->log);
	ngx_open_file_t *file;
	ngx_uint_t i = 0, n = 0;

	if (fds == NULL)
		return NULL;
	while ((file = next_file(&part, &i)) != NULL) {
		fds[n] = NGX_INVALID_FILE;
		if (file->fd != NGX_INVALID_FILE && file->fd != ngx_stderr)
			fds[n] = dup(file->fd);
		n++;
	}
	return fds;
}

static void install_files(ngx_cycle_t *cycle, const ngx_fd_t *fds)
{
	ngx_list_part_t *part = &cycle->open_files.part;
	ngx_open_file_t *file;
	ngx_uint_t i = 0, n = 0;

	while ((file = next_file(&part, &i)) != NULL) {
		if (file->fd != ngx_stderr)
			file->fd = fds[n];
		n++;
	}
}

static void close_files(const ngx_fd_t *fds, ngx_uint_t n)
{
	while (n-- > 0) {
		if (fds[n] != NGX_INVALID_FILE)
			(void)ngx_close_file(fds[n]);
	}
}

/** A timer of nginx itself keeps the log of the cycle in which it was set up. */
static void move_timer_logs(const ngx_log_t *from, ngx_log_t *to)
{
	ngx_rbtree_node_t *node, *sentinel = ngx_event_timer_rbtree.sentinel;

	if (ngx_event_timer_rbtree.root == sentinel)
		return;
	for (node = ngx_rbtree_min(ngx_event_timer_rbtree.root, sentinel); node;
	     node = ngx_rbtree_next(&ngx_event_timer_rbtree, node)) {
		ngx_event_t *ev = (ngx_event_t *)((char *)node - offsetof(ngx_event_t, timer));

		if (ev->log == from)
			ev->log = to;
	}
}

static void free_old(ngx_event_t *ev)
{
	old_t *old = ev->data;
	ngx_cycle_t *cycle = old->cycle;
	ngx_cycle_t *current = (ngx_cycle_t *)ngx_cycle;
	ngx_list_part_t *part = &cycle->open_files.part;
	ngx_open_file_t *file;
	ngx_uint_t i = 0;

	while ((file = next_file(&part, &i)) != NULL) {
		if (file->flush)
			file->flush(file, current->log); /* deletes its timer, too */
		if (file->fd != NGX_INVALID_FILE && file->fd != ngx_stderr)
			(void)ngx_close_file(file->fd);
	}
	move_timer_logs(cycle->log, current->log);
	if (current->old_cycle == cycle)
		current->old_cycle = NULL;
	ngx_log_error(NGX_LOG_INFO, current->log, 0, "previous configuration freed");
	cycle->pool->log = current->log;
	ngx_destroy_pool(cycle->pool);
	ngx_free(old);
}

static void unuse(old_t *old)
{
	if (--old->users > 0)
		return;
	old->free_event.log = ngx_cycle->log;
	ngx_add_timer(&old->free_event, FREE_DELAY_MS);
}

static ngx_listening_t *find_listening(ngx_cycle_t *cycle, const ngx_listening_t *like)
{
	ngx_listening_t *ls = cycle->listening.elts;
	ngx_uint_t i;

	for (i = 0; i < cycle->listening.nelts; i++) {
		if (ls[i].type == like->type && ls[i].handler == like->handler &&
		    ngx_cmp_sockaddr(ls[i].sockaddr, ls[i].socklen, like->sockaddr, like->socklen,
				     1) == NGX_OK)
			return &ls[i];
	}
	return NULL;
}

/** What ngx_http_init_connection() would choose for c. */
static ngx_http_addr_conf_t *find_addr_conf(ngx_connection_t *c)
{
	ngx_http_port_t *port = c->listening->servers;
	ngx_http_in_addr_t *addr = port->addrs;
	ngx_uint_t i = 0;

	if (port->naddrs > 1 && ngx_connection_local_sockaddr(c, NULL, 0) != NGX_OK)
		return NULL;
#if (NGX_HAVE_INET6)
	if (c->local_sockaddr->sa_family == AF_INET6) {
		struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)c->local_sockaddr;
		ngx_http_in6_addr_t *addr6 = port->addrs;

		while (i + 1 < port->naddrs &&
		       ngx_memcmp(&addr6[i].addr6, &sin6->sin6_addr, 16) != 0)
			i++;
		return &addr6[i].conf;
	}
#endif
	while (i + 1 < port->naddrs &&
	       addr[i].addr != ((struct sockaddr_in *)c->local_sockaddr)->sin_addr.s_addr)
		i++; /* the last one is the wildcard */
	return &addr[i].conf;
}

/** Give c, which is between two requests, the current configuration. */
static ngx_int_t move_connection(ngx_cycle_t *cycle, ngx_connection_t *c, ngx_http_connection_t *hc)
{
	ngx_listening_t *ls = find_listening(cycle, c->listening);
	ngx_http_addr_conf_t *addr_conf;
	ngx_http_core_loc_conf_t *clcf;

	if (ls == NULL || hc->ssl)
		return NGX_DECLINED;
	if (c->local_sockaddr == c->listening->sockaddr) {
		c->local_sockaddr = ls->sockaddr;
		c->local_socklen = ls->socklen;
	}
	c->listening = ls;
	addr_conf = find_addr_conf(c);
	if (addr_conf == NULL)
		return NGX_ERROR;
	hc->addr_conf = addr_conf;
	hc->conf_ctx = addr_conf->default_server->ctx;
	clcf = hc->conf_ctx->loc_conf[ngx_http_core_module.ctx_index];
	ngx_set_connection_log(c, clcf->error_log);
	return NGX_OK;
}

/** The request that c is serving, or NULL. */
static ngx_http_request_t *request_of(const ngx_connection_t *c)
{
	ngx_http_request_t *r = c->data;

	/* Other things may be there, but none that begins like this. */
	if (r == NULL || c->reusable || r->signature != NGX_HTTP_MODULE || r->connection != c)
		return NULL;
	return r->main;
}

static void use_ends(void *data)
{
	use_t *use = data;

	/* A request ends. If the connection goes on, it does so with the new configuration. */
	if (use->c) {
		ngx_http_request_t *r = request_of(use->c);

		if (r)
			(void)move_connection((ngx_cycle_t *)ngx_cycle, use->c, r->http_connection);
	}
	unuse(use->old);
}

/** Keep old until pool is destroyed. */
static void use_until_end_of(ngx_pool_t *pool, old_t *old, ngx_connection_t *c)
{
	ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(pool, sizeof(use_t));
	use_t *use;

	old->users++; /* for ever, if there is no memory for the cleanup */
	if (cleanup == NULL)
		return;
	use = cleanup->data;
	use->old = old;
	use->c = c;
	cleanup->handler = use_ends;
}

/** Does c belong to the configuration of this cycle? */
static ngx_uint_t is_of(const ngx_cycle_t *cycle, const ngx_connection_t *c)
{
	ngx_listening_t *ls = cycle->listening.elts;

	return c->listening == NULL || /* to another server: said to be the latest's */
	       (c->listening >= ls && c->listening < ls + cycle->listening.nelts);
}

static void carry_client(ngx_cycle_t *cycle, old_t *old, ngx_connection_t *c)
{
	ngx_http_request_t *r;

	if (c->listening && c->listening->handler == ngx_http_init_connection) {
		r = request_of(c);
		if (r) {
			ngx_http_connection_t *hc = r->http_connection;

			if (find_listening(cycle, c->listening) == NULL || hc->ssl)
				r->keepalive = 0;
			else if (r->stream == NULL) {
				use_until_end_of(r->pool, old, c);
				return;
			}
		} else if (c->reusable && *(ngx_connection_t **)c->data != c) {
			if (move_connection(cycle, c, c->data) == NGX_OK)
				return;
		}
		if (c->reusable) { /* TLS, HTTP/2, or an address that nobody listens on */
			use_until_end_of(c->pool, old, NULL);
			c->close = 1;
			c->read->handler(c->read);
			return;
		}
	}
	if (c->pool)
		use_until_end_of(c->pool, old, NULL);
}

static void drop_listening(ngx_connection_t *c)
{
	if (c->read->active)
		ngx_del_event(c->read, NGX_READ_EVENT, NGX_CLOSE_EVENT);
	if (c->read->timer_set)
		ngx_del_timer(c->read);
	if (c->read->posted) { /* several statements */
		ngx_delete_posted_event(c->read);
	}
	ngx_free_connection(c);
	c->fd = (ngx_socket_t)-1;
}

static ngx_int_t add_listening(ngx_cycle_t *cycle, ngx_listening_t *ls)
{
	ngx_connection_t *c = ngx_get_connection(ls->fd, cycle->log);

	if (c == NULL)
		return NGX_ERROR;
	c->type = ls->type;
	c->read->accept = 1;
	c->read->handler = ls->type == SOCK_STREAM ? ngx_event_accept : ngx_event_recvmsg;
	ls->connection = c;
	return ngx_add_event(c->read, NGX_READ_EVENT, 0);
}

/** The listening sockets of the new cycle have got descriptors; now they get events. */
static void carry_listening(ngx_cycle_t *cycle, ngx_cycle_t *old)
{
	ngx_listening_t *ls = old->listening.elts;
	ngx_uint_t i;

	for (i = 0; i < old->listening.nelts; i++) {
		if (!ls[i].remain && ls[i].connection)
			drop_listening(ls[i].connection);
	}
	ls = cycle->listening.elts;
	for (i = 0; i < cycle->listening.nelts; i++) {
		if (ls[i].previous) {
			ls[i].connection = ls[i].previous->connection;
			ls[i].previous = NULL; /* it will not be there for ever */
		} else if (add_listening(cycle, &ls[i]) != NGX_OK) {
			ngx_log_error(NGX_LOG_EMERG, cycle->log, 0, "no connection to listen on %V",
				      &ls[i].addr_text);
		}
		if (ls[i].connection) {
			ngx_connection_t *c = ls[i].connection;

			c->listening = &ls[i];
			c->log = &ls[i].log;
			c->read->log = c->log;
			c->write->log = c->log;
		}
	}
}

static void move_queue(ngx_queue_t *to, ngx_queue_t *from)
{
	ngx_queue_init(to);
	ngx_queue_add(to, from);
	ngx_queue_init(from);
}

/** The connections themselves, all of them, with the event method's tables. */
static void carry_connections(ngx_cycle_t *cycle, ngx_cycle_t *old)
{
	if (cycle->connection_n != old->connection_n)
		ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
			      "worker_connections stays %ui until a restart", old->connection_n);
	cycle->connections = old->connections;
	cycle->read_events = old->read_events;
	cycle->write_events = old->write_events;
	cycle->connection_n = old->connection_n;
	cycle->free_connections = old->free_connections;
	cycle->free_connection_n = old->free_connection_n;
	cycle->files = old->files;
	cycle->files_n = old->files_n;
	move_queue(&cycle->reusable_connections_queue, &old->reusable_connections_queue);
	cycle->reusable_connections_n = old->reusable_connections_n;
}

/** What the single process does before its loop, but for the events. */
static void init_modules(ngx_cycle_t *cycle)
{
	ngx_uint_t i;

	if (ngx_set_environment(cycle, NULL) == NULL)
		ngx_log_error(NGX_LOG_ALERT, cycle->log, 0, "the environment is the old one");
	for (i = 0; cycle->modules[i]; i++) {
		if (cycle->modules[i]->init_process &&
		    cycle->modules[i] != &ngx_event_core_module &&
		    cycle->modules[i]->init_process(cycle) == NGX_ERROR)
			ngx_log_error(NGX_LOG_EMERG, cycle->log, 0, "module %s is not set up",
				      cycle->modules[i]->name);
	}
}

/** nginx's own list of old cycles is looked through by connection, which they no longer have. */
static void take_from_old_cycles(const ngx_cycle_t *cycle)
{
	ngx_cycle_t **old = ngx_old_cycles.elts;
	ngx_uint_t i;

	for (i = 0; i < ngx_old_cycles.nelts; i++) {
		if (old[i] == cycle)
			old[i] = NULL;
	}
}

static void carry_over(ngx_cycle_t *cycle, old_t *old)
{
	ngx_uint_t i;

	take_from_old_cycles(old->cycle);
	carry_listening(cycle, old->cycle);
	carry_connections(cycle, old->cycle);
	ngx_cycle = cycle; /* from here on connections are taken and given back there */
	init_modules(cycle);

	old->users = 1;
	for (i = 0; i < cycle->connection_n; i++) {
		ngx_connection_t *c = &cycle->connections[i];

		if (c->fd != (ngx_socket_t)-1 && !c->read->accept && is_of(old->cycle, c))
			carry_client(cycle, old, c);
	}
	unuse(old);
}

ngx_cycle_t *__wrap_ngx_init_cycle(ngx_cycle_t *old_cycle)
{
	ngx_cycle_t *cycle;
	ngx_fd_t *fds;
	old_t *old;

	if (ngx_process != NGX_PROCESS_SINGLE || ngx_is_init_cycle(old_cycle) ||
	    old_cycle->connections == NULL)
		return __real_ngx_init_cycle(old_cycle);

	/* Whatever could fail comes first: behind the real one there is no way back. */
	fds = duplicate_files(old_cycle);
	if (fds == NULL)
		return NULL;
	old = ngx_calloc(sizeof(*old), old_cycle->log);
	cycle = old ? __real_ngx_init_cycle(old_cycle) : NULL;
	if (cycle == NULL) {
		close_files(fds, count_files(old_cycle));
		ngx_free(fds);
		if (old)
			ngx_free(old);
		return NULL;
	}
	install_files(old_cycle, fds);
	ngx_free(fds);

	old->dumb.fd = (ngx_socket_t)-1;
	old->cycle = old_cycle;
	old->free_event.data = old;
	old->free_event.handler = free_old;
	carry_over(cycle, old);
	ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0, "new configuration in use, %ui clients stay",
		      cycle->connection_n - cycle->free_connection_n - cycle->listening.nelts);
	return cycle;
}
