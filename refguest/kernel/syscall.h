/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The Linux system calls a static musl application needs. Each takes its arguments as an array and
 * gives a result or a negative errno; syscall.c has the table.
 */
#ifndef REFGUEST_SYSCALL_H
#define REFGUEST_SYSCALL_H

#include <stddef.h>
#include <stdint.h>

#include "cpu.h"

typedef long syscall_fn(const uint64_t *a);

/* file_calls.c */
syscall_fn sys_read, sys_write, sys_readv, sys_writev, sys_pread64, sys_pwrite64, sys_preadv,
	sys_pwritev;
syscall_fn sys_open, sys_openat, sys_close, sys_lseek, sys_ftruncate, sys_truncate, sys_fcntl,
	sys_ioctl;
syscall_fn sys_dup, sys_dup2, sys_dup3, sys_fsync, sys_poll;
/* tree_calls.c */
syscall_fn sys_stat, sys_lstat, sys_fstat, sys_newfstatat, sys_getdents64, sys_mkdir, sys_mkdirat,
	sys_rmdir;
syscall_fn sys_unlink, sys_unlinkat, sys_rename, sys_renameat, sys_renameat2, sys_access,
	sys_faccessat;
syscall_fn sys_getcwd, sys_chdir, sys_readlink, sys_chmod, sys_fchmod, sys_utimensat;
/* memory_calls.c */
syscall_fn sys_brk, sys_mmap, sys_munmap, sys_mprotect, sys_madvise, sys_mremap;
/* time_calls.c */
syscall_fn sys_clock_gettime, sys_clock_getres, sys_nanosleep, sys_clock_nanosleep,
	sys_gettimeofday, sys_time;
/* thread_calls.c */
syscall_fn sys_futex, sys_set_tid_address, sys_arch_prctl, sys_gettid, sys_sched_yield, sys_exit,
	sys_exit_group;
long sys_clone(const struct frame *frame);
/* signal.c */
syscall_fn sys_rt_sigaction, sys_rt_sigprocmask, sys_rt_sigpending, sys_rt_sigsuspend, sys_pause,
	sys_sigaltstack;
syscall_fn sys_kill, sys_tkill, sys_tgkill;
void signal_return(struct frame *frame);

/* Called by entry.S. */
void syscall_dispatch(struct frame *frame);

void random_bytes(void *out, size_t len);

#endif
