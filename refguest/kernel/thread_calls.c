/* SPDX-License-Identifier: BSD-3-Clause */
/* Threads and futexes, as musl's pthreads use them. */
#include <errno.h>
#include <string.h>

#include "lapic.h"
#include "print.h"
#include "process.h"
#include "sched.h"
#include "signal.h"
#include "syscall.h"

enum {
	FUTEX_WAIT = 0,
	FUTEX_WAKE = 1,
	FUTEX_REQUEUE = 3,
	FUTEX_CMP_REQUEUE = 4,
	FUTEX_WAIT_BITSET = 9,
	FUTEX_WAKE_BITSET = 10,
	FUTEX_CMD_MASK = 0x7f,
	FUTEX_CLOCK_REALTIME = 0x100,
};

#define ARCH_SET_FS 0x1002
#define ARCH_GET_FS 0x1003

#define CLONE_VM             0x100u
#define CLONE_SETTLS         0x80000u
#define CLONE_PARENT_SETTID  0x100000u
#define CLONE_CHILD_CLEARTID 0x200000u
#define CLONE_CHILD_SETTID   0x1000000u
#define CLONE_THREAD         0x10000u

static struct wait_queue futexes; /* of all addresses: waiters are few */

long sys_gettid(const uint64_t *a)
{
	(void)a;
	return (long)current->id;
}

long sys_set_tid_address(const uint64_t *a)
{
	current->clear_tid = (uint32_t *)a[0];
	return (long)current->id;
}

long sys_arch_prctl(const uint64_t *a)
{
	if (a[0] == ARCH_SET_FS) {
		current->fs_base = a[1];
		cpu_set_fs(a[1]);
		return 0;
	}
	if (a[0] == ARCH_GET_FS) {
		*(uint64_t *)a[1] = current->fs_base;
		return 0;
	}
	return -EINVAL;
}

long sys_sched_yield(const uint64_t *a)
{
	(void)a;
	sched_yield_now();
	return 0;
}

/** clone() for threads only: flags, stack, parent's and child's thread id, thread-local data. */
long sys_clone(const struct frame *frame)
{
	uint64_t wanted = CLONE_VM | CLONE_THREAD, flags = frame->rdi;
	struct thread_spawn *spawn = current->spawn;
	struct frame child = *frame;
	struct thread *t;

	if ((flags & wanted) != wanted)
		return -ENOSYS;
	t = thread_create(spawn ? spawn->name : "thread");
	if (!t)
		return -EAGAIN;
	cpu_xstate_save(t->xstate);
	t->fs_base = flags & CLONE_SETTLS ? frame->r8 : current->fs_base;
	t->signals_blocked = current->signals_blocked;
	if (spawn) {
		t->ours = true;
		t->stack_size = spawn->stack_size;
		spawn->thread = t;
		current->spawn = NULL;
	}
	if (flags & CLONE_PARENT_SETTID)
		*(uint32_t *)frame->rdx = t->id;
	if (flags & CLONE_CHILD_SETTID)
		*(uint32_t *)frame->r10 = t->id;
	if (flags & CLONE_CHILD_CLEARTID)
		t->clear_tid = (uint32_t *)frame->r10;
	child.rax = 0;
	child.rsp = frame->rsi;
	thread_start(t, &child);
	return (long)t->id;
}

static long futex_wake(uint32_t *address, uint64_t count)
{
	uint64_t flags = irq_save();
	struct thread *t, *next;
	long woken = 0;

	for (t = futexes.head; t && (uint64_t)woken < count; t = next) {
		next = t->wait_next;
		if (t->futex == address) {
			thread_wake(t, 0);
			woken++;
		}
	}
	irq_restore(flags);
	return woken;
}

static long futex_wait(uint32_t *address, uint32_t value, uint64_t deadline)
{
	uint64_t flags = irq_save();
	int status = -EAGAIN;

	if (*(volatile uint32_t *)address == value) {
		current->futex = address;
		status = thread_wait(&futexes, deadline, true);
		if (status == -EINTR && deadline == NEVER)
			status = -RESTART_CALL;
	}
	irq_restore(flags);
	return status;
}

static long futex_requeue(uint32_t *from, uint64_t wake, uint64_t count, uint32_t *to)
{
	long moved = futex_wake(from, wake);
	uint64_t flags = irq_save();

	for (struct thread *t = futexes.head; t && count; t = t->wait_next) {
		if (t->futex == from) {
			t->futex = to;
			moved++;
			count--;
		}
	}
	irq_restore(flags);
	return moved;
}

static uint64_t futex_deadline(const int64_t *timeout, bool absolute, bool realtime)
{
	uint64_t ns;

	if (!timeout)
		return NEVER;
	ns = (uint64_t)timeout[0] * 1000000000u + (uint64_t)timeout[1];
	if (!absolute)
		return clock_ns() + ns;
	if (!realtime)
		return ns;
	return ns > clock_wall_base ? ns - clock_wall_base : 0;
}

long sys_futex(const uint64_t *a)
{
	uint32_t *address = (uint32_t *)a[0];
	const int64_t *timeout = (const int64_t *)a[3];
	bool realtime = a[1] & FUTEX_CLOCK_REALTIME;

	switch (a[1] & FUTEX_CMD_MASK) {
	case FUTEX_WAIT:
		return futex_wait(address, (uint32_t)a[2], futex_deadline(timeout, false, false));
	case FUTEX_WAIT_BITSET:
		return futex_wait(address, (uint32_t)a[2], futex_deadline(timeout, true, realtime));
	case FUTEX_WAKE:
	case FUTEX_WAKE_BITSET:
		return futex_wake(address, (uint32_t)a[2]);
	case FUTEX_CMP_REQUEUE:
		if (*(volatile uint32_t *)address != (uint32_t)a[5])
			return -EAGAIN;
		return futex_requeue(address, (uint32_t)a[2], a[3], (uint32_t *)a[4]);
	case FUTEX_REQUEUE:
		return futex_requeue(address, (uint32_t)a[2], a[3], (uint32_t *)a[4]);
	default:
		return -ENOSYS;
	}
}

long sys_exit(const uint64_t *a)
{
	bool last = !current->ours;

	for (struct thread *t = all_threads; t; t = t->next) {
		if (t != current && !t->ours)
			last = false;
	}
	if (last)
		process_exit((int)a[0] & 255);
	if (current->clear_tid) {
		*current->clear_tid = 0;
		futex_wake(current->clear_tid, 1);
	}
	thread_exit();
}

long sys_exit_group(const uint64_t *a)
{
	process_exit((int)a[0] & 255);
}
