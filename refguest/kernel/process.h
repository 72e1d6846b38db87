/* SPDX-License-Identifier: BSD-3-Clause */
/* The application as a whole. */
#ifndef REFGUEST_PROCESS_H
#define REFGUEST_PROCESS_H

/** Start the application's first thread at the C library's _start. */
void process_start(void);
/** End the application; unless told `exit=stay`, the machine too. */
_Noreturn void process_exit(int status);
_Noreturn void process_killed(int sig);

#endif
