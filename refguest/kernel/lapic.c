/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The clock is the time-stamp counter, measured once against the PIT together with the local APIC's
 * timer, whose one-shot mode gives the only timer interrupt. The date comes from the CMOS clock.
 * The old interrupt controllers are switched off: devices use MSI-X.
 */
#include "lapic.h"

#include <stddef.h>

#include "cpu.h"
#include "memory.h"
#include "print.h"
#include "trap.h"

#define TIMER_VECTOR    32
#define PIT_COUNTER     0x40
#define PIT_COMMAND     0x43
#define PIT_MODE_0      0x30 /* channel 0, low and high byte: count down once */
#define PIT_READ_BACK   0xc2 /* hold status and count of channel 0 */
#define PIT_OUTPUT      0x80 /* status: the count is over */
#define PIT_HZ          1193182ull
#define CALIBRATE_TICKS 11932 /* of the PIT: 10 ms */

enum {
	LAPIC_EOI = 0xb0,
	LAPIC_SPURIOUS = 0xf0,
	LAPIC_LVT_TIMER = 0x320,
	LAPIC_LVT_LINT0 = 0x350,
	LAPIC_LVT_LINT1 = 0x360,
	LAPIC_INITIAL = 0x380,
	LAPIC_CURRENT = 0x390,
	LAPIC_DIVIDE = 0x3e0,
};

static volatile uint8_t *lapic;
static uint64_t tsc_base, tsc_mult; /* ns = ticks * mult >> 32 */
static uint64_t timer_mult;         /* ticks = ns * mult >> 32 */
uint64_t clock_wall_base;

static void lapic_write(unsigned int reg, uint32_t value)
{
	*(volatile uint32_t *)(lapic + reg) = value;
}

static uint32_t lapic_read(unsigned int reg)
{
	return *(volatile uint32_t *)(lapic + reg);
}

uint64_t clock_ns(void)
{
	return (uint64_t)((unsigned __int128)(rdtsc() - tsc_base) * tsc_mult >> 32);
}

void lapic_eoi(void)
{
	lapic_write(LAPIC_EOI, 0);
}

void lapic_timer(uint64_t ns)
{
	uint64_t ticks;

	if (ns > 10000000000ull)
		ns = 10000000000ull;
	ticks = ns * timer_mult >> 32;
	lapic_write(LAPIC_INITIAL, ticks > UINT32_MAX ? UINT32_MAX : ticks ? (uint32_t)ticks : 1);
}

static uint8_t cmos(uint8_t reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static uint64_t cmos_seconds(void)
{
	static const uint16_t before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
	uint8_t now[6], again[6] = {0};
	static const uint8_t regs[6] = {0, 2, 4, 7, 8, 9};
	bool same = false;
	uint64_t year, days;

	for (int tries = 0; tries < 10 && !same; tries++) {
		same = true;
		for (int i = 0; i < 6; i++) {
			now[i] = cmos(regs[i]);
			same = same && now[i] == again[i];
			again[i] = now[i];
		}
	}
	if (!(cmos(0xb) & 4)) {
		for (int i = 0; i < 6; i++)
			now[i] = (uint8_t)(now[i] / 16 * 10 + now[i] % 16);
	}
	if (now[4] < 1 || now[4] > 12)
		return 0;
	year = 2000u + now[5];
	days = (year - 1970) * 365 + (year - 1969) / 4 + before[now[4] - 1] + now[3] - 1;
	if (year % 4 == 0 && now[4] > 2)
		days++;
	return ((days * 24 + now[2]) * 60 + now[1]) * 60 + now[0];
}

/** The three counters at one moment. */
struct sample {
	uint64_t tsc;
	uint32_t pit, lapic;
	bool over;
};

/** The best of some: the host may take the CPU away at any moment, and then the three do not match.
 */
static struct sample take_sample(void)
{
	struct sample best = {0};
	uint64_t best_width = UINT64_MAX;

	for (int tries = 0; tries < 8; tries++) {
		uint64_t start = rdtsc(), width;
		uint32_t pit, count;
		uint8_t status;

		outb(PIT_COMMAND, PIT_READ_BACK);
		count = lapic_read(LAPIC_CURRENT);
		width = rdtsc() - start;
		status = inb(PIT_COUNTER);
		pit = inb(PIT_COUNTER);
		pit |= (uint32_t)inb(PIT_COUNTER) << 8;
		best.over = best.over || status & PIT_OUTPUT;
		if (width < best_width) {
			best_width = width;
			best = (struct sample){start, 0xffff - pit, UINT32_MAX - count, best.over};
		}
	}
	return best;
}

/** Measure at least 10 ms by PIT channel 0; false if it took so long that the PIT has wrapped. */
static bool calibrate(void)
{
	struct sample start, end;
	uint64_t ns;

	outb(PIT_COMMAND, PIT_MODE_0);
	outb(PIT_COUNTER, 0xff);
	outb(PIT_COUNTER, 0xff);
	lapic_write(LAPIC_INITIAL, UINT32_MAX);
	start = take_sample();
	do {
		end = take_sample();
		if (end.over || end.pit < start.pit)
			return false;
	} while (end.pit - start.pit < CALIBRATE_TICKS);

	ns = (end.pit - start.pit) * 1000000000ull / PIT_HZ;
	if (end.tsc == start.tsc)
		panic("the time-stamp counter stands still");
	tsc_base = start.tsc;
	tsc_mult = (ns << 32) / (end.tsc - start.tsc);
	timer_mult = ((uint64_t)(end.lapic - start.lapic) << 32) / ns;
	return true;
}

void clock_init(void)
{
	int tries = 0;

	outb(0x21, 0xff); /* all inputs of the old controllers are off, the PIT's too */
	outb(0xa1, 0xff);
	lapic = page_map_device(MSI_ADDRESS, PAGE_SIZE);
	lapic_write(LAPIC_DIVIDE, 3); /* by 16 */
	lapic_write(LAPIC_LVT_TIMER, 0x10000);
	while (!calibrate()) {
		if (++tries == 100)
			panic("no time to measure the clock");
	}
	lapic_write(LAPIC_INITIAL, 0);
	clock_wall_base = cmos_seconds() * 1000000000ull - clock_ns();
}

void lapic_init(void (*tick)(void *))
{
	interrupt_set(TIMER_VECTOR, tick, NULL);
	lapic_write(LAPIC_LVT_LINT0, 0x10000);
	lapic_write(LAPIC_LVT_LINT1, 0x10000);
	lapic_write(LAPIC_SPURIOUS, 0x1ff);
	lapic_write(LAPIC_LVT_TIMER, TIMER_VECTOR);
}
