/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of system calls, and those that need no file of their own. Everything runs in ring 0:
 * `syscall` is only the convention by which the C library reaches the kernel, and pointers are
 * trusted.
 */
#include "syscall.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "boot.h"
#include "memory.h"
#include "lapic.h"
#include "print.h"
#include "sched.h"
#include "signal.h"

#define TABLE_SIZE 512

static long sys_zero(const uint64_t *a)
{
	(void)a;
	return 0;
}

static long sys_getpid(const uint64_t *a)
{
	(void)a;
	return 1;
}

static long sys_umask(const uint64_t *a)
{
	(void)a;
	return 022;
}

static long sys_uname(const uint64_t *a)
{
	struct utsname *u = (struct utsname *)a[0];

	memset(u, 0, sizeof(*u));
	strcpy(u->sysname, "Linux"); /* what the system calls are like */
	strcpy(u->nodename, "uio");
	strcpy(u->release, "5.0.0-refguest");
	strcpy(u->version, REFGUEST_VERSION);
	strcpy(u->machine, "x86_64");
	return 0;
}

void random_bytes(void *out, size_t len)
{
	static uint64_t state;
	uint8_t *p = out;
	uint32_t r[4];

	cpuid(1, 0, r);
	while (len) {
		uint64_t value = 0;
		uint8_t ok = 0;
		size_t n = len < 8 ? len : 8;

		if (r[2] & 1u << 30)
			__asm__ volatile("rdrand %0; setc %1" : "=r"(value), "=q"(ok));
		if (!ok) {
			/* Not for keys: a machine without RDRAND has nothing better to offer. */
			state = (state ^ rdtsc()) * 6364136223846793005ull + 1442695040888963407ull;
			value = state ^ state >> 29;
		}
		memcpy(p, &value, n);
		p += n;
		len -= n;
	}
}

static long sys_getrandom(const uint64_t *a)
{
	random_bytes((void *)a[0], a[1]);
	return (long)a[1];
}

static long sys_sysinfo(const uint64_t *a)
{
	struct {
		int64_t uptime;
		uint64_t loads[3], total, free, shared, buffer, swap[2];
		uint16_t procs, pad[3];
		uint64_t high[2];
		uint32_t unit, end;
	} *info = (void *)a[0];

	memset(info, 0, sizeof(*info));
	info->uptime = (int64_t)(clock_ns() / 1000000000u);
	info->total = frames_total() * PAGE_SIZE;
	info->free = frames_left() * PAGE_SIZE;
	info->procs = 1;
	info->unit = 1;
	return 0;
}

static syscall_fn *const table[TABLE_SIZE] = {
	[SYS_read] = sys_read,
	[SYS_write] = sys_write,
	[SYS_open] = sys_open,
	[SYS_close] = sys_close,
	[SYS_stat] = sys_stat,
	[SYS_fstat] = sys_fstat,
	[SYS_lstat] = sys_lstat,
	[SYS_poll] = sys_poll,
	[SYS_lseek] = sys_lseek,
	[SYS_mmap] = sys_mmap,
	[SYS_mprotect] = sys_mprotect,
	[SYS_munmap] = sys_munmap,
	[SYS_brk] = sys_brk,
	[SYS_rt_sigaction] = sys_rt_sigaction,
	[SYS_rt_sigprocmask] = sys_rt_sigprocmask,
	[SYS_ioctl] = sys_ioctl,
	[SYS_pread64] = sys_pread64,
	[SYS_pwrite64] = sys_pwrite64,
	[SYS_readv] = sys_readv,
	[SYS_writev] = sys_writev,
	[SYS_access] = sys_access,
	[SYS_sched_yield] = sys_sched_yield,
	[SYS_mremap] = sys_mremap,
	[SYS_madvise] = sys_madvise,
	[SYS_dup] = sys_dup,
	[SYS_dup2] = sys_dup2,
	[SYS_pause] = sys_pause,
	[SYS_nanosleep] = sys_nanosleep,
	[SYS_getpid] = sys_getpid,
	[SYS_exit] = sys_exit,
	[SYS_kill] = sys_kill,
	[SYS_uname] = sys_uname,
	[SYS_fcntl] = sys_fcntl,
	[SYS_fsync] = sys_fsync,
	[SYS_fdatasync] = sys_fsync,
	[SYS_truncate] = sys_truncate,
	[SYS_ftruncate] = sys_ftruncate,
	[SYS_getcwd] = sys_getcwd,
	[SYS_chdir] = sys_chdir,
	[SYS_rename] = sys_rename,
	[SYS_mkdir] = sys_mkdir,
	[SYS_rmdir] = sys_rmdir,
	[SYS_unlink] = sys_unlink,
	[SYS_readlink] = sys_readlink,
	[SYS_chmod] = sys_chmod,
	[SYS_fchmod] = sys_fchmod,
	[SYS_chown] = sys_zero,
	[SYS_fchown] = sys_zero,
	[SYS_umask] = sys_umask,
	[SYS_gettimeofday] = sys_gettimeofday,
	[SYS_sysinfo] = sys_sysinfo,
	[SYS_getuid] = sys_zero,
	[SYS_getgid] = sys_zero,
	[SYS_geteuid] = sys_zero,
	[SYS_getegid] = sys_zero,
	[SYS_getppid] = sys_zero,
	[SYS_getpgrp] = sys_getpid,
	[SYS_rt_sigpending] = sys_rt_sigpending,
	[SYS_rt_sigsuspend] = sys_rt_sigsuspend,
	[SYS_sigaltstack] = sys_sigaltstack,
	[SYS_arch_prctl] = sys_arch_prctl,
	[SYS_gettid] = sys_gettid,
	[SYS_tkill] = sys_tkill,
	[SYS_time] = sys_time,
	[SYS_futex] = sys_futex,
	[SYS_getdents64] = sys_getdents64,
	[SYS_set_tid_address] = sys_set_tid_address,
	[SYS_clock_gettime] = sys_clock_gettime,
	[SYS_clock_getres] = sys_clock_getres,
	[SYS_clock_nanosleep] = sys_clock_nanosleep,
	[SYS_exit_group] = sys_exit_group,
	[SYS_tgkill] = sys_tgkill,
	[SYS_openat] = sys_openat,
	[SYS_mkdirat] = sys_mkdirat,
	[SYS_newfstatat] = sys_newfstatat,
	[SYS_unlinkat] = sys_unlinkat,
	[SYS_renameat] = sys_renameat,
	[SYS_faccessat] = sys_faccessat,
	[SYS_set_robust_list] = sys_zero,
	[SYS_utimensat] = sys_utimensat,
	[SYS_dup3] = sys_dup3,
	[SYS_preadv] = sys_preadv,
	[SYS_pwritev] = sys_pwritev,
	[SYS_renameat2] = sys_renameat2,
	[SYS_getrandom] = sys_getrandom,
	/* One CPU, one address space: there is nothing to order. */
	[SYS_membarrier] = sys_zero,
};

/** The result of a call that is not in the table; each number is mentioned once. */
static long unknown(uint64_t number)
{
	static uint64_t seen[TABLE_SIZE / 64];

	if (number < TABLE_SIZE && !(seen[number / 64] >> number % 64 & 1)) {
		seen[number / 64] |= 1ull << number % 64;
		kprintf("refguest: system call %lu is not implemented\n", number);
	}
	return -ENOSYS;
}

void syscall_dispatch(struct frame *frame)
{
	const uint64_t arguments[6] = {frame->rdi, frame->rsi, frame->rdx,
				       frame->r10, frame->r8,  frame->r9};
	uint64_t number = frame->rax;

	if (number == SYS_rt_sigreturn)
		signal_return(frame);
	else if (number == SYS_clone)
		frame->rax = (uint64_t)sys_clone(frame);
	else if (number < TABLE_SIZE && table[number])
		frame->rax = (uint64_t)table[number](arguments);
	else
		frame->rax = (uint64_t)unknown(number);
	sched_check();
	if (signal_is_pending(current) || current->restore_blocked ||
	    (int64_t)frame->rax == -RESTART_CALL)
		signal_deliver(frame);
}
