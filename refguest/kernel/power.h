/* SPDX-License-Identifier: BSD-3-Clause */
/* The ends of the virtual machine. */
#ifndef REFGUEST_POWER_H
#define REFGUEST_POWER_H

/** End the virtual machine in good order. */
_Noreturn void power_off(void);
/** End it after an error, told to the host where a device for that exists. */
_Noreturn void power_panic(void);

#endif
