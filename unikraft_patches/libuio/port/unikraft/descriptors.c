/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptor tables and stacks for interrupts of our own. The CPU reads the
 * tables and pushes on the stacks with the rights of the code that it
 * interrupts, and Unikraft's lie among data that overlays must not touch. Here
 * they are pages of their own for which keys do not matter; the tables are
 * read-only, and on the stacks lies nothing while an overlay runs.
 */
#include <errno.h>
#include <uk/plat/paging.h>
#include <kvm-x86/traps.h>
#include <x86/desc.h>
#include <x86/traps.h>

#include "keys.h"

#define STACKS    3u /* as Unikraft has them: interrupts, traps, critical ones */
#define IST_SIZE  __CPU_EXCEPT_STACK_SIZE
#define STUB_SIZE 16u
#define IRQ_FIRST 32u

struct tables {
	struct seg_gate_desc64 idt[IDT_NUM_ENTRIES];
	/* a page further */
	struct seg_desc32 gdt[GDT_NUM_ENTRIES];
	struct tss64 tss;
};
#define TABLE_PAGES ((sizeof(struct tables) + UIO_PAGE_SIZE - 1) / UIO_PAGE_SIZE)

static struct tables *tables;
static void *stacks[STACKS];

/* entry.S */
extern const char uio_entry_stubs[];
/* Where uio_entry_resume() puts what it is to go on with: at the top of the interrupts' stack. */
uint64_t uio_entry_frame;

/* Unikraft's handlers. */
void do_divide_error(struct __regs *r, unsigned long code);
void do_debug(struct __regs *r);
void do_nmi(struct __regs *r, unsigned long code);
void do_int3(struct __regs *r, unsigned long code);
void do_overflow(struct __regs *r, unsigned long code);
void do_bounds(struct __regs *r, unsigned long code);
void do_invalid_op(struct __regs *r, unsigned long code);
void do_no_device(struct __regs *r, unsigned long code);
void do_double_fault(struct __regs *r, unsigned long code);
void do_invalid_tss(struct __regs *r, unsigned long code);
void do_no_segment(struct __regs *r, unsigned long code);
void do_stack_error(struct __regs *r, unsigned long code);
void do_gp_fault(struct __regs *r, unsigned long code);
void do_page_fault(struct __regs *r, unsigned long code);
void do_coproc_error(struct __regs *r);
void do_alignment_check(struct __regs *r, unsigned long code);
void do_machine_check(struct __regs *r, unsigned long code);
void do_simd_error(struct __regs *r);
void do_virt_error(struct __regs *r, unsigned long code);

typedef void (*handler)(struct __regs *r, unsigned long code);

/* Those that know no code do not look at it. */
static const handler handlers[IRQ_FIRST] = {
	[TRAP_divide_error] = do_divide_error,
	[TRAP_debug] = (handler)(void *)do_debug,
	[TRAP_nmi] = do_nmi,
	[TRAP_int3] = do_int3,
	[TRAP_overflow] = do_overflow,
	[TRAP_bounds] = do_bounds,
	[TRAP_invalid_op] = do_invalid_op,
	[TRAP_no_device] = do_no_device,
	[TRAP_double_fault] = do_double_fault,
	[TRAP_invalid_tss] = do_invalid_tss,
	[TRAP_no_segment] = do_no_segment,
	[TRAP_stack_error] = do_stack_error,
	[TRAP_gp_fault] = do_gp_fault,
	[TRAP_page_fault] = do_page_fault,
	[TRAP_coproc_error] = (handler)(void *)do_coproc_error,
	[TRAP_alignment_check] = do_alignment_check,
	[TRAP_machine_check] = do_machine_check,
	[TRAP_simd_error] = (handler)(void *)do_simd_error,
	[TRAP_virt_error] = do_virt_error,
};

/* For entry.S: Unikraft keeps the error code in this place. */
void uio_entry_trap(struct __regs *r, unsigned long vector);
void uio_entry_trap(struct __regs *r, unsigned long vector)
{
	handlers[vector](r, r->orig_rax);
}

/* The same vectors on the same stacks as Unikraft has in use. */
static void make_idt(void)
{
	struct desc_table_ptr64 old;
	const struct seg_gate_desc64 *from;

	__asm__ __volatile__("sidt %0" : "=m"(old));
	from = (const struct seg_gate_desc64 *)old.base;
	for (unsigned int i = 0; i < IDT_NUM_ENTRIES && (i + 1) * sizeof(*from) <= old.limit + 1u;
	     i++) {
		struct seg_gate_desc64 *to = &tables->idt[i];
		uintptr_t stub = (uintptr_t)uio_entry_stubs + i * STUB_SIZE;

		*to = from[i];
		if (!from[i].p || (i < IRQ_FIRST && !handlers[i]))
			continue;
		to->offset_lo = stub & 0xffff;
		to->offset_hi = stub >> 16;
	}
}

static void make_gdt(void)
{
	struct seg_desc64 *tss = (struct seg_desc64 *)&tables->gdt[GDT_DESC_TSS_LO];
	uintptr_t base = (uintptr_t)&tables->tss;

	tables->gdt[GDT_DESC_CODE].raw = GDT_DESC_CODE64_VAL;
	tables->gdt[GDT_DESC_DATA].raw = GDT_DESC_DATA64_VAL;
	tss->limit_lo = sizeof(tables->tss) - 1;
	tss->base_lo = base & 0xffffff;
	tss->base_hi = base >> 24;
	tss->type = GDT_DESC_TYPE_TSS_AVAIL;
	tss->p = 1;
	tables->tss.iomap_base = sizeof(tables->tss);
	for (unsigned int i = 0; i < STACKS; i++)
		tables->tss.ist[i] = (uintptr_t)stacks[i] + IST_SIZE;
	uio_entry_frame = tables->tss.ist[0] - sizeof(struct __regs);
}

static void give_back(void **memory)
{
	if (*memory)
		uio_memory_stack_free(*memory);
	*memory = NULL;
}

int uio_descriptors_make(void)
{
	bool complete;

	tables = uio_memory_stack_alloc(TABLE_PAGES * UIO_PAGE_SIZE);
	complete = tables != NULL;
	for (unsigned int i = 0; i < STACKS; i++) {
		stacks[i] = uio_memory_stack_alloc(IST_SIZE);
		complete = complete && stacks[i];
	}
	if (complete)
		return 0;
	give_back((void **)&tables);
	for (unsigned int i = 0; i < STACKS; i++)
		give_back(&stacks[i]);
	return -ENOMEM;
}

void uio_descriptors_use(void)
{
	struct desc_table_ptr64 gdt = {sizeof(tables->gdt) - 1, (uintptr_t)tables->gdt};
	struct desc_table_ptr64 idt = {sizeof(tables->idt) - 1, (uintptr_t)tables->idt};

	make_idt();
	make_gdt();
	/* The selectors in use mean the same in both tables. Loading the TSS writes to its
	 * descriptor. */
	__asm__ __volatile__("lgdt %0" : : "m"(gdt));
	__asm__ __volatile__("ltr %w0" : : "r"(GDT_DESC_OFFSET(GDT_DESC_TSS_LO)));
	__asm__ __volatile__("lidt %0" : : "m"(idt));
	ukplat_page_set_attr(ukplat_pt_get_active(), (uintptr_t)tables, TABLE_PAGES,
			     PAGE_ATTR_PROT_READ, PAGE_FLAG_FORCE_SIZE);
	uio_sweep_untag((uintptr_t)tables, TABLE_PAGES);
	for (unsigned int i = 0; i < STACKS; i++)
		uio_sweep_untag((uintptr_t)stacks[i], IST_SIZE / UIO_PAGE_SIZE);
}
