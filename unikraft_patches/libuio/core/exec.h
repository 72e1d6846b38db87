/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A running command, whoever asked for it: the channel (EXEC), or a line of
 * the console's shell. It has arguments, three streams, a deadline, and a
 * list of what it must give back at its end. Each has a thread to itself, which
 * may serve another command after it.
 */
#ifndef UIO_CORE_EXEC_H
#define UIO_CORE_EXEC_H

#include <uio/port.h>

/* How a command ended: arg of EXIT (docs/protocol.md, section 4). */
enum uio_exit_kind {
	UIO_EXIT_OK = 0,
	UIO_EXIT_NOT_FOUND,
	UIO_EXIT_REFUSED,
	UIO_EXIT_ERROR,
	UIO_EXIT_FAULT,
	UIO_EXIT_TIMEOUT,
	UIO_EXIT_CANCELLED,
	UIO_EXIT_NEED_IMAGE,
};

#define UIO_FAULT_DEPTH 16

struct uio_fault {
	struct uio_trap trap;
	uint32_t depth;
	uint64_t backtrace[UIO_FAULT_DEPTH]; /* return addresses, innermost first */
};

struct uio_result {
	enum uio_exit_kind kind;
	int32_t status; /* own status, or a negative errno */
	char message[192];
	bool has_fault;
	struct uio_fault fault;
};

struct uio_exec;

struct uio_overlay;

/* Where the streams of a command lead. All may block and all end early, with -EINTR, when it is
 * cancelled. */
struct uio_exec_io {
	/** stream 1 or 2. Writes all of it: len, or -EINTR, -EPIPE (reader gone). */
	ssize_t (*write)(struct uio_exec *x, unsigned int stream, const void *buf, size_t len);
	/** Standard input: bytes, 0 = end, -EINTR. */
	ssize_t (*read)(struct uio_exec *x, void *buf, size_t len);
	/** Whether read() would return at once. NULL: this kind of input cannot tell. */
	bool (*ready)(struct uio_exec *x);
	/** Whether finish() sends len gathered bytes of standard output along. NULL: never. */
	bool (*takes_rest)(struct uio_exec *x, size_t len);
};

/* Something a command holds that is given back at its end, however it ends. */
struct uio_resource {
	struct uio_resource *next;
	void (*release)(struct uio_resource *r);
};

struct uio_exec {
	struct uio_exec *next; /* of all commands */
	const struct uio_exec_io *io;
	void *io_data;
	uint32_t id; /* of the channel's request; 0: from the console */
	int argc;
	char **argv; /* argc strings and NULL */
	char **envp;
	bool tty;
	uint16_t rows, columns;
	uint64_t start_ns, deadline_ns; /* UINT64_MAX: none */
	struct uio_thread *thread;
	volatile int cancel; /* signal number; 0: go on */
	bool timed_out;
	struct uio_event wake;       /* credit, input or cancel for this command */
	struct uio_overlay *overlay; /* running now */
	void *recover; /* overlay.h: where a fault or divert unwinds to; NULL: it is in libuio's own
			  code */
	struct uio_resource *resources;
	/* exec.c's own */
	unsigned int number; /* what `ps` and `kill` call it */
	bool has_result;
	bool spoils_thread; /* no other command may use its thread after it */
	int (*body)(struct uio_exec *x);
	void (*finish)(struct uio_exec *x);
	uint64_t end_ns;
	uint64_t stop_ns; /* from when overlay code is to be stopped; UINT64_MAX: never */
	char *out;        /* what uio_exec_printf() has gathered */
	size_t out_len;
	struct uio_result result; /* last: what is large makes what is behind it far */
};

/* A command to start. Arguments and environment are copied. */
struct uio_exec_spec {
	const struct uio_exec_io *io;
	void *io_data;
	uint32_t id;
	int argc;
	char *const *argv;
	int envc;
	char *const *envp;
	bool tty;
	uint16_t rows, columns;
	uint32_t timeout_ms;
	/** What it does; returns the exit status. NULL: what argv[0] names, a builtin or an
	 * overlay. */
	int (*body)(struct uio_exec *x);
	/** Last call in the command's thread, when everything is given back; x is freed after it.
	 */
	void (*finish)(struct uio_exec *x);
};

#define UIO_EXEC_MAX 24 /* commands at once */

/** Start a command in a thread of its own. 0, -ENOMEM, -EAGAIN (too many). */
int uio_exec_spawn(const struct uio_exec_spec *spec, struct uio_exec **out);
/**
 * Ask a command to end: blocking calls return -EINTR at once, and the context
 * calls uio_overlay_stop() until it works.
 */
void uio_exec_cancel(struct uio_exec *x, int signal);
/** Keep deadlines; called by the context. Returns when to be called again, UINT64_MAX: never. */
uint64_t uio_exec_tick(uint64_t now_ns);
/** Run what argv[0] names: a builtin or an overlay, which is pulled. Sets the result. */
int uio_exec_run_named(struct uio_exec *x);
/** Run an overlay under its manifest's time limit. Sets the result; gives its status. */
int uio_exec_run_overlay(struct uio_exec *x, struct uio_overlay *o);

/** The command that the calling thread runs; NULL: none. */
struct uio_exec *uio_exec_self(void);
/** Call fn for each running command until it returns non-zero; returns that. */
int uio_exec_foreach(int (*fn)(struct uio_exec *x, void *arg), void *arg);

ssize_t uio_exec_write(struct uio_exec *x, unsigned int stream, const void *buf, size_t len);
ssize_t uio_exec_read(struct uio_exec *x, void *buf, size_t len);
/**
 * To standard output; any length. The number of bytes, or a negative errno. A
 * builtin's output is gathered and goes out in large pieces: before anything
 * else is written or read, at its end, and with uio_exec_flush(). An overlay's
 * goes out at once.
 */
int uio_exec_printf(struct uio_exec *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int uio_exec_flush(struct uio_exec *x);
/** An overlay's last output: goes with the end of the command, if there is room for it. */
ssize_t uio_exec_write_last(struct uio_exec *x, const void *buf, size_t len);
/** To standard error. */
int uio_exec_error(struct uio_exec *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** Whether to stop now: cancelled, or past the deadline. Long loops ask it. */
bool uio_exec_stopping(const struct uio_exec *x);

/** Set the result: kind, status and a message. */
void uio_exec_result(struct uio_exec *x, enum uio_exit_kind kind, int status, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/** Set the result of one that has ended by itself. */
void uio_exec_returned(struct uio_exec *x, int status);

void uio_exec_hold(struct uio_exec *x, struct uio_resource *r,
		   void (*release)(struct uio_resource *r));
/** Forget a resource that was given back by hand. */
void uio_exec_drop(struct uio_exec *x, struct uio_resource *r);

/*
 * Builtin commands are rows of a table; run returns the exit status. They
 * serve the console's shell and the channel's EXEC alike.
 */
struct uio_builtin {
	const char *usage; /* begins with its name; behind the NUL: one line about it, for `help` */
	int (*run)(struct uio_exec *x, int argc, char **argv);
	uint8_t least, most; /* arguments */
};
#define UIO_BUILTIN_ANY 255 /* most: as many as there are */
/* Tables end with a row without a usage. The last is bpf's, where it is built in or can be loaded.
 */
extern const struct uio_builtin uio_builtins_file[], uio_builtins_system[], uio_builtins_overlay[];
extern const struct uio_builtin uio_builtins_bpf[] __attribute__((weak));
#define UIO_BUILTIN_BPF_USAGE                                                                      \
	"bpf [ls | maps SESSION [MAP] | detach SESSION]\0what eBPF programs are loaded and where " \
	"they are attached"
const struct uio_builtin *uio_builtin_find(const char *name);
/** Call fn for each builtin, table by table. */
void uio_builtin_foreach(void (*fn)(const struct uio_builtin *b, void *arg), void *arg);
/** How long the name is, and what it does. */
size_t uio_builtin_name(const struct uio_builtin *b);
const char *uio_builtin_summary(const struct uio_builtin *b);
/** Run it, if it has as many arguments as it wants. Its status. */
int uio_builtin_run(const struct uio_builtin *b, struct uio_exec *x);
/** Print how the builtin that x runs is used to standard error; returns 2. */
int uio_builtin_usage(struct uio_exec *x);
/** Words for a negative or positive errno. */
const char *uio_error_text(int err);

#endif /* UIO_CORE_EXEC_H */
