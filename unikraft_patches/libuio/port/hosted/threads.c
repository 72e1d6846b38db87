/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads of the hosted port: pthreads under one lock, handed on in order, so
 * that the scheduling contract of port.h holds. Overlay code in an endless
 * loop is preempted: who waits for the lock for long signals its owner, whose
 * handler lets others run if it interrupted code in the arena.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "hosted.h"

#define THREADS_MAX    256
#define STACK_MIN      (512u * 1024)
#define ALT_STACK      (256u * 1024)
#define SLICE_NS       5000000ull
#define PREEMPT_SIGNAL SIGUSR1

struct uio_thread {
	bool used, ours, queued;
	char name[16];
	unsigned int id;
	char state;
	size_t stack_size;
	pthread_t pthread;
	pthread_cond_t cond;
	struct uio_thread *next_in_line;
	struct uio_event *waiting_on;
	void (*fn)(void *arg);
	void *arg;
	void (*divert_fn)(void *arg);
	void *divert_arg;
	void *alt_stack;
};

/* Everything below is under this mutex; it is never held while code of libuio runs. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct uio_thread pool[THREADS_MAX];
static struct uio_thread *owner, *line, **line_end = &line;
static unsigned int next_id = 1;
static _Thread_local struct uio_thread *self;
static struct timespec boot;

uint64_t uio_port_wall_s(void)
{
	return (uint64_t)time(NULL);
}

uint64_t uio_port_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)(now.tv_sec - boot.tv_sec) * 1000000000u + (uint64_t)now.tv_nsec -
	       (uint64_t)boot.tv_nsec;
}

static struct timespec deadline_in(uint64_t ns)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += (time_t)(ns / 1000000000u);
	t.tv_nsec += (long)(ns % 1000000000u);
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

/* ---- the lock; both with mutex held ---- */

static void acquire(struct uio_thread *t)
{
	t->state = 'r';
	if (owner != NULL || line != NULL) {
		t->next_in_line = NULL;
		*line_end = t;
		line_end = &t->next_in_line;
		t->queued = true;
		while (t->queued) {
			struct timespec limit = deadline_in(SLICE_NS);
			int err = pthread_cond_timedwait(&t->cond, &mutex, &limit);
			if (err == ETIMEDOUT && owner != NULL)
				pthread_kill(owner->pthread, PREEMPT_SIGNAL);
		}
	}
	owner = t;
	t->state = 'R';
}

static void release(void)
{
	owner = NULL;
	if (line != NULL) {
		struct uio_thread *t = line;
		line = t->next_in_line;
		if (line == NULL)
			line_end = &line;
		t->queued = false;
		owner = t; /* nobody may come in between */
		pthread_cond_signal(&t->cond);
	}
}

/* ---- events ---- */

struct event {
	int flag;
};

void uio_port_event_init(struct uio_event *ev)
{
	memset(ev, 0, sizeof(*ev));
}

void uio_port_event_signal(struct uio_event *ev)
{
	struct event *e = (struct event *)ev;

	pthread_mutex_lock(&mutex);
	e->flag = 1;
	for (int i = 0; i < THREADS_MAX; i++)
		if (pool[i].used && pool[i].waiting_on == ev)
			pthread_cond_signal(&pool[i].cond);
	pthread_mutex_unlock(&mutex);
}

static void take_divert(struct uio_thread *t)
{
	void (*fn)(void *arg) = t->divert_fn;
	void *arg = t->divert_arg;

	t->divert_fn = NULL;
	if (fn != NULL) {
		pthread_mutex_unlock(&mutex);
		fn(arg);
		abort(); /* it unwinds */
	}
}

int uio_port_event_wait(struct uio_event *ev, uint64_t ns)
{
	struct event *e = (struct event *)ev;
	struct uio_thread *t = self;
	struct timespec limit = deadline_in(ns == UINT64_MAX ? 0 : ns);
	int err = 0;

	pthread_mutex_lock(&mutex);
	release();
	t->state = 'S';
	t->waiting_on = ev;
	while (!e->flag && t->divert_fn == NULL && err != ETIMEDOUT)
		err = ns == UINT64_MAX ? pthread_cond_wait(&t->cond, &mutex)
				       : pthread_cond_timedwait(&t->cond, &mutex, &limit);
	t->waiting_on = NULL;
	acquire(t);
	take_divert(t);
	int result = e->flag ? 0 : -ETIMEDOUT;
	e->flag = 0;
	pthread_mutex_unlock(&mutex);
	return result;
}

void hosted_leave(void)
{
	pthread_mutex_lock(&mutex);
	release();
	self->state = 'S';
	pthread_mutex_unlock(&mutex);
}

void hosted_enter(void)
{
	pthread_mutex_lock(&mutex);
	acquire(self);
	pthread_mutex_unlock(&mutex);
}

bool uio_port_preempts(void)
{
	return true;
}

void uio_port_yield(void)
{
	pthread_mutex_lock(&mutex);
	release();
	acquire(self);
	take_divert(self);
	pthread_mutex_unlock(&mutex);
}

void uio_port_sleep(uint64_t ns)
{
	struct uio_event never;

	uio_port_event_init(&never);
	uio_port_event_wait(&never, ns);
}

int uio_port_thread_divert(struct uio_thread *t, void (*fn)(void *arg), void *arg)
{
	int err = -EAGAIN;

	pthread_mutex_lock(&mutex);
	if (t->used && t->ours && t != owner && t->divert_fn == NULL) {
		t->divert_arg = arg;
		t->divert_fn = fn;
		pthread_cond_signal(&t->cond);
		err = 0;
	}
	pthread_mutex_unlock(&mutex);
	return err;
}

/* Let others run in the middle of overlay code; what libuio does is never interrupted. */
static void preempt(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	struct uio_thread *t = self;
	int saved = errno;

	(void)sig;
	(void)info;
	if (t != NULL && t->ours && hosted_in_arena((uintptr_t)uc->uc_mcontext.gregs[REG_RIP])) {
		pthread_mutex_lock(&mutex);
		release();
		acquire(t);
		if (t->divert_fn != NULL) {
			/* As if the interrupted code had called it. */
			uintptr_t sp = ((uintptr_t)uc->uc_mcontext.gregs[REG_RSP] - 256) & ~15ul;
			uc->uc_mcontext.gregs[REG_RSP] = (greg_t)(sp - 8);
			uc->uc_mcontext.gregs[REG_RDI] = (greg_t)(uintptr_t)t->divert_arg;
			uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)t->divert_fn;
			t->divert_fn = NULL;
		}
		pthread_mutex_unlock(&mutex);
	}
	errno = saved;
}

/* ---- threads ---- */

void hosted_signal_stack(void)
{
	stack_t ss = {.ss_size = ALT_STACK};

	ss.ss_sp =
		mmap(NULL, ALT_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ss.ss_sp == MAP_FAILED || sigaltstack(&ss, NULL) < 0)
		abort();
	if (self != NULL)
		self->alt_stack = ss.ss_sp;
}

static struct uio_thread *new_thread(const char *name, bool ours)
{
	struct uio_thread *t = NULL;

	pthread_mutex_lock(&mutex);
	for (int i = 0; i < THREADS_MAX && t == NULL; i++)
		if (!pool[i].used)
			t = &pool[i];
	if (t != NULL) {
		pthread_condattr_t attr;
		memset(t, 0, sizeof(*t));
		pthread_condattr_init(&attr);
		pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
		pthread_cond_init(&t->cond, &attr);
		pthread_condattr_destroy(&attr);
		strncpy(t->name, name, sizeof(t->name) - 1);
		t->id = next_id++;
		t->ours = ours;
		t->state = 'r';
		t->used = true;
	}
	pthread_mutex_unlock(&mutex);
	return t;
}

struct uio_thread *hosted_thread_adopt(const char *name, bool ours)
{
	static bool started;

	if (!started) {
		struct sigaction action = {.sa_sigaction = preempt,
					   .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
		started = true;
		clock_gettime(CLOCK_MONOTONIC, &boot);
		sigaction(PREEMPT_SIGNAL, &action, NULL);
	}
	struct uio_thread *t = new_thread(name, ours);
	if (t == NULL)
		abort();
	t->pthread = pthread_self();
	self = t;
	if (ours) {
		pthread_mutex_lock(&mutex);
		acquire(t);
		pthread_mutex_unlock(&mutex);
	} else {
		t->state = 'R';
	}
	return t;
}

static void *thread_main(void *arg)
{
	struct uio_thread *t = arg;

	self = t;
	hosted_signal_stack();
	pthread_mutex_lock(&mutex);
	acquire(t);
	pthread_mutex_unlock(&mutex);
	t->fn(t->arg);

	stack_t off = {.ss_flags = SS_DISABLE};
	sigaltstack(&off, NULL);
	munmap(t->alt_stack, ALT_STACK);
	pthread_mutex_lock(&mutex);
	release();
	pthread_cond_destroy(&t->cond);
	t->used = false;
	self = NULL;
	pthread_mutex_unlock(&mutex);
	return NULL;
}

int uio_port_thread_create(struct uio_thread **out, const char *name, void (*fn)(void *arg),
			   void *arg, size_t stack)
{
	struct uio_thread *t = new_thread(name, true);
	pthread_attr_t attr;
	sigset_t all, old;

	if (t == NULL)
		return -EAGAIN;
	t->fn = fn;
	t->arg = arg;
	t->stack_size = stack;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	/* Linux' libc and the sanitizers need more than a unikernel's. */
	pthread_attr_setstacksize(&attr, stack + STACK_MIN);

	/* Signals for the process and the application are for their threads. */
	sigfillset(&all);
	sigdelset(&all, PREEMPT_SIGNAL);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGTRAP);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int err = pthread_create(&t->pthread, &attr, thread_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (err != 0) {
		pthread_mutex_lock(&mutex);
		t->used = false;
		pthread_mutex_unlock(&mutex);
		return -err;
	}
	*out = t;
	return 0;
}

struct uio_thread *uio_port_thread_self(void)
{
	return self;
}

int uio_port_thread_foreach(int (*fn)(const struct uio_thread_info *, void *), void *arg)
{
	for (int i = 0; i < THREADS_MAX; i++) {
		struct uio_thread_info info;
		char name[16];
		struct timespec cpu = {0};
		clockid_t clock;

		pthread_mutex_lock(&mutex);
		bool used = pool[i].used;
		if (used) {
			memcpy(name, pool[i].name, sizeof(name));
			info = (struct uio_thread_info){.name = name,
							.id = pool[i].id,
							.state = pool[i].state,
							.ours = pool[i].ours,
							.stack_size = pool[i].stack_size};
			if (pthread_getcpuclockid(pool[i].pthread, &clock) == 0)
				clock_gettime(clock, &cpu);
			info.cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
		}
		pthread_mutex_unlock(&mutex);
		int r = used ? fn(&info, arg) : 0;
		if (r != 0)
			return r;
	}
	return 0;
}
