/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Preemption, which Unikraft's cooperative scheduler does not know: while
 * uIO has something to do, an interrupt makes application or overlay code
 * yield as if it had called the scheduler itself. Kernel code is not
 * reentrant and is left alone; what counts as application code is gathered by
 * apptext.lds.S. When nothing of uIO happens, this costs one store per
 * interrupt and never redirects anything.
 *
 * Overlay code is sent to a stack that no overlay can reach, with all rights:
 * what of the kernel lies below the yield there decides where the kernel goes
 * on. Its registers wait there, too.
 *
 * The interrupts are those of the console device and, while commands run, a
 * tick of the real-time clock. Interrupt context: no vector registers.
 */
#include <uk/arch/ctx.h>
#include <uk/event.h>
#include <uk/intctlr.h>
#include <uk/plat/lcpu.h>
#include <x86/cpu.h>

#include "keys.h"
#include "thread.h"

/* preempt_entry.S: saves everything, calls uio_preempt_yield, goes back. The second one finds
 * everything saved at its stack pointer. */
void uio_preempt_entry(void);
void uio_preempt_keyed(void);
void uio_preempt_yield(void);

/* apptext.lds.S */
extern const char uio_app_text[], uio_app_etext[];

#if CONFIG_LIBUIO_PREEMPT

#define FLAG_INTERRUPT 0x200u
#define XSAVE_ALIGN    64u

#define RTC_IRQ           8
#define RTC_INDEX         0x70
#define RTC_DATA          0x71
#define RTC_NMI_OFF       0x80
#define RTC_A             0x0a
#define RTC_B             0x0b
#define RTC_C             0x0c
#define RTC_A_RATE        0x0f
#define RTC_A_RATE_128_HZ 9
#define RTC_B_PERIODIC    0x40

/* Of the latest interrupt; valid until it ends. */
static struct __regs *interrupted;

static int on_interrupt(void *data)
{
	interrupted = ((const struct uk_intctlr_event_irq_data *)data)->regs;
	return UK_EVENT_NOT_HANDLED;
}
UK_EVENT_HANDLER(UK_INTCTLR_EVENT_IRQ, on_interrupt);

static bool may_yield_at(uintptr_t ip)
{
	return uio_memory_in_arena(ip) ||
	       (ip >= (uintptr_t)uio_app_text && ip < (uintptr_t)uio_app_etext);
}

static bool is_held(void)
{
#if CONFIG_LIBUIO_TRACING
	return uio_port_hold != 0;
#else
	return false;
#endif
}

static void yield_keyed(struct __regs *r)
{
#if CONFIG_LIBUIO_DOMAIN
	uintptr_t sp = uio_overlay_kernel_sp();
	struct __regs *copy = (struct __regs *)(sp & ~(uintptr_t)15) - 1;
	const struct __regs *from = r;
	void *to = copy;
	size_t words = sizeof(*r) / sizeof(uint64_t);

	if (!sp)
		return;
	__asm__ __volatile__("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
	r->rsp = (uintptr_t)copy;
	r->rip = (uintptr_t)uio_preempt_keyed;
	r->eflags = FLAG_INTERRUPT;
	uio_keys_raise(r);
#else
	(void)r;
#endif
}

void uio_preempt_soon(void)
{
	struct __regs *r = interrupted;

	if (!r || is_held() || !may_yield_at(r->rip) || uio_thread_is_pinned())
		return;
	interrupted = NULL; /* once is enough */
	if (uio_keys_of(r)) {
		yield_keyed(r);
		return;
	}
	/* As if the interrupted instruction were preceded by a call. Nothing here has a red zone.
	 */
	r->rsp -= sizeof(uint64_t);
	*(uint64_t *)r->rsp = r->rip;
	r->rip = (uintptr_t)uio_preempt_entry;
}

void uio_preempt_yield(void)
{
	size_t align = ukarch_ectx_align();
	uint8_t room[ukarch_ectx_size() + align];
	struct ukarch_ectx *state =
		(struct ukarch_ectx *)(((uintptr_t)room + align - 1) & ~(align - 1));

	if (align == XSAVE_ALIGN) {
		/* Unikraft uses XSAVEOPT, which does not write what it thinks is here already. */
		ukarch_ectx_sanitize(state);
		__asm__ __volatile__("xsave64 (%0)" : : "r"(state), "a"(-1), "d"(-1) : "memory");
	} else {
		ukarch_ectx_store(state);
	}
	uio_thread_preempted();
	ukarch_ectx_load(state);
}

static uint8_t rtc_read(uint8_t reg)
{
	outb(RTC_INDEX, RTC_NMI_OFF | reg);
	return inb(RTC_DATA);
}

static void rtc_write(uint8_t reg, uint8_t value)
{
	outb(RTC_INDEX, RTC_NMI_OFF | reg);
	outb(RTC_DATA, value);
}

static int on_tick(void *arg __unused)
{
	rtc_read(RTC_C); /* or there is no next one */
	uio_preempt_soon();
	return 1;
}

static void tick(bool on)
{
	static bool registered, absent;
	unsigned long flags;
	uint8_t b;

	if (absent)
		return;
	flags = ukplat_lcpu_save_irqf();
	if (!registered) {
		if (rtc_read(RTC_A) == 0xff || uk_intctlr_irq_register(RTC_IRQ, on_tick, NULL)) {
			absent = true;
			goto out;
		}
		registered = true;
		rtc_write(RTC_A, (rtc_read(RTC_A) & (uint8_t)~RTC_A_RATE) | RTC_A_RATE_128_HZ);
	}
	b = rtc_read(RTC_B) & (uint8_t)~RTC_B_PERIODIC;
	rtc_write(RTC_B, on ? b | RTC_B_PERIODIC : b);
	rtc_read(RTC_C);
out:
	ukplat_lcpu_restore_irqf(flags);
}

void uio_preempt_threads(unsigned int n)
{
	static bool on;
	bool want = n > 1 /* the context, and a command */;

	if (want != on)
		tick(on = want);
}

bool uio_port_preempts(void)
{
	return true;
}

#else /* !CONFIG_LIBUIO_PREEMPT */

void uio_preempt_soon(void)
{
}

void uio_preempt_threads(unsigned int n)
{
	(void)n;
}

#endif
