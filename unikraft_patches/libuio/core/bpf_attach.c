/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where the compiler was told -fpatchable-function-entry=7,5 a function looks
 * like this, and its first byte is in a table:
 *
 *	before		nop nop nop nop nop	call uio_hit_entered
 *	function	nop nop			jmp before
 *
 * The right column is the function with a program. A thread that was left
 * anywhere in the room goes on correctly before and after a change: the
 * second byte of the jump is a harmless instruction itself (stc, or cmc
 * behind endbr64), and the call is one instruction. clang fills the room at
 * the function's start with one instruction, in whose middle nobody is.
 *
 * A hit runs to its end without giving the CPU away (uio_port_hold), so no
 * two hits overlap, nothing that a hit uses can vanish under it, and one
 * machine is enough. uio_port_hold also keeps hits out while core code is in
 * a map; hits in its time are counted as missed.
 *
 * For returns the return address on the stack is replaced by that of
 * uio_hit_returned, and kept here under the address where it was. Who leaves
 * frames by longjmp() or ends its thread leaves entries behind, which are
 * swept when room is needed: the place on the stack says whether they live.
 *
 * Integer registers only: this file runs in the midst of the application.
 */
#include "bpf_attach.h"

#include <errno.h>
#include <string.h>

#include <uio/port.h>

#include "hits.h"
#include "probe.h"

#define BEFORE 5u /* bytes of room before a function */
#define ROOM   2u /* and at its start */

#define POINT_BUCKETS 64u
#define KEPT          512u /* return addresses */
#define KEPT_BUCKETS  256u
#define SWEEP_EVERY   256u /* misses */

/* A function that has programs. */
struct point {
	struct point *next;
	uintptr_t function, resume;
	uint8_t room[ROOM]; /* what was at its start */
	struct bpf_link *entry, *ret;
};

/* A return address that was replaced. */
struct kept {
	struct kept *next;
	uintptr_t slot; /* where it was */
	uintptr_t ret;
	uintptr_t function;
	uint64_t start_ns;
	uint64_t args[6];
};

static struct point *points[POINT_BUCKETS];
static struct kept *kept[KEPT_BUCKETS], *kept_free, *kept_memory;
static unsigned int returns; /* links at returns */
static unsigned int until_sweep;

static struct bpf_vm *machine;
static unsigned int machine_users;

/* ---- kept return addresses ---- */

static struct kept **kept_bucket(uintptr_t slot)
{
	return &kept[slot / 8 % KEPT_BUCKETS];
}

static void kept_give(struct kept **link)
{
	struct kept *k = *link;

	*link = k->next;
	k->next = kept_free;
	kept_free = k;
}

/* The newest entry of a slot: functions that end by jumping to others share one. */
static struct kept **kept_find(uintptr_t slot)
{
	struct kept **link = kept_bucket(slot);

	while (*link && (*link)->slot != slot)
		link = &(*link)->next;
	return *link ? link : NULL;
}

static bool is_live(const struct kept *k)
{
	uint64_t now;

	return uio_probe_read(&now, k->slot, sizeof(now)) == 0 &&
	       now == (uintptr_t)uio_hit_returned;
}

static void sweep(void)
{
	for (unsigned int i = 0; i < KEPT_BUCKETS; i++)
		for (struct kept **link = &kept[i]; *link;) {
			if (is_live(*link))
				link = &(*link)->next;
			else
				kept_give(link);
		}
}

/* Where a return address on the stack really leads. */
static uint64_t real_return(uint64_t ret, uintptr_t slot)
{
	struct kept **link = ret == (uintptr_t)uio_hit_returned ? kept_find(slot) : NULL;
	const struct kept *k = link ? *link : NULL;

	for (; k; k = k->next)
		if (k->slot == slot) {
			ret = k->ret;
			if (ret != (uintptr_t)uio_hit_returned)
				break;
		}
	return ret;
}

static void keep_return(struct uio_entered *e, uintptr_t function)
{
	uintptr_t slot = (uintptr_t)&e->ret;
	struct kept *k, **link;

	/* What is known of a slot that no longer holds our address is over. */
	if (e->ret != (uintptr_t)uio_hit_returned)
		while ((link = kept_find(slot)) != NULL)
			kept_give(link);
	if (!kept_free && until_sweep-- == 0) {
		sweep();
		until_sweep = SWEEP_EVERY;
	}
	k = kept_free;
	if (!k) {
		uio_hit_missed++;
		return;
	}
	kept_free = k->next;
	k->slot = slot;
	k->ret = e->ret;
	k->function = function;
	for (unsigned int i = 0; i < 6; i++)
		k->args[i] = e->ctx.args[i];
	k->next = *kept_bucket(slot);
	*kept_bucket(slot) = k;
	e->ret = (uintptr_t)uio_hit_returned;
	k->start_ns = uio_port_ns();
}

/* Put a return address back where it was. */
static void give_back(struct kept **link)
{
	struct kept *k = *link, *newer = NULL;

	for (struct kept *other = *kept_bucket(k->slot); other != k; other = other->next)
		if (other->slot == k->slot)
			newer = other;
	if (newer)
		newer->ret = k->ret;
	else if (is_live(k))
		*(uint64_t *)k->slot = k->ret;
	kept_give(link);
}

/* The programs at the returns of a function are gone. */
static void forget_returns(uintptr_t function)
{
	for (unsigned int i = 0; i < KEPT_BUCKETS; i++)
		for (struct kept **link = &kept[i]; *link;) {
			if ((*link)->function == function)
				give_back(link);
			else
				link = &(*link)->next;
		}
}

static int kept_take_memory(void)
{
	kept_memory = uio_port_alloc(KEPT * sizeof(*kept_memory));
	if (!kept_memory)
		return -ENOMEM;
	for (unsigned int i = 0; i < KEPT; i++)
		kept_memory[i].next = i + 1 < KEPT ? &kept_memory[i + 1] : NULL;
	kept_free = kept_memory;
	until_sweep = 0;
	return 0;
}

/* ---- hits ---- */

static struct point **find(uintptr_t function)
{
	struct point **link = &points[function / 16 % POINT_BUCKETS];

	while (*link && (*link)->function != function)
		link = &(*link)->next;
	return link;
}

/* What few programs look at is only there when they do. */
static void complete(void *at)
{
	struct bpf_ctx *ctx = at;

	ctx->thread = uio_bpf_thread();
	if (ctx->kind == BPF_KIND_ENTRY) {
		struct uio_entered *e = at;

		ctx->ret = ctx->elapsed_ns = 0;
		ctx->sp = (uintptr_t)&e->ret;
		ctx->caller = real_return(e->ret, ctx->sp);
	}
}

static inline __attribute__((always_inline)) void run_all(struct bpf_link *link,
							  struct bpf_ctx *ctx)
{
	struct bpf_vm *vm = machine;
	uint64_t r0;

	for (; link; link = link->next) {
		vm->env = link->env;
		vm->cookie = link->cookie;
		vm->complete = complete;
		if (uio_bpf_run(vm, link->prog, ctx, sizeof(*ctx), BPF_READ, &r0) != BPF_OK)
			uio_bpf_stopped(link->cookie, link->prog, &vm->fault);
	}
}

static size_t endbr(uintptr_t function)
{
	static const uint8_t endbr64[4] = {0xf3, 0x0f, 0x1e, 0xfa};

	return memcmp((const void *)function, endbr64, 4) == 0 ? 4 : 0;
}

static void on_entry(struct uio_entered *e)
{
	uintptr_t function = e->resume;
	const struct point *p = *find(function);

	if (!p) {
		e->resume += endbr(function) + ROOM;
		return;
	}
	e->resume = p->resume;
	if (p->entry) {
		e->ctx.ip = function;
		e->ctx.kind = BPF_KIND_ENTRY;
		run_all(p->entry, &e->ctx);
	}
	if (p->ret)
		keep_return(e, function);
}

static void on_return(struct uio_returned *r)
{
	uint64_t now = uio_port_ns();
	uintptr_t slot = (uintptr_t)&r->ret;
	struct kept **link = kept_find(slot), *k = *link;
	const struct point *p = *find(k->function);

	r->ret = k->ret;
	if (p && p->ret && r->held == 0) {
		r->ctx.ip = k->function;
		for (unsigned int i = 0; i < 6; i++)
			r->ctx.args[i] = k->args[i];
		r->ctx.elapsed_ns = now - k->start_ns;
		r->ctx.caller = real_return(k->ret, slot);
		r->ctx.sp = slot;
		r->ctx.kind = BPF_KIND_RETURN;
		kept_give(link);
		run_all(p->ret, &r->ctx);
	} else {
		uio_hit_missed += p && p->ret;
		kept_give(link);
	}
}

/* ---- the text ---- */

static const uint8_t nops[BEFORE] = {0x90, 0x90, 0x90, 0x90, 0x90};
static const uint8_t long_nop[ROOM] = {0x66, 0x90};

static bool room_is_free(uintptr_t function)
{
	const void *start = (const void *)(function + endbr(function));

	return memcmp((const void *)(function - BEFORE), nops, BEFORE) == 0 &&
	       (memcmp(start, nops, ROOM) == 0 || memcmp(start, long_nop, ROOM) == 0);
}

static int open_gate(uintptr_t function)
{
	uintptr_t start = function + endbr(function), before = function - BEFORE;
	int32_t distance = (int32_t)((uintptr_t)uio_hit_entered - function);
	uint8_t call[BEFORE] = {0xe8};
	uint8_t jump[ROOM] = {0xeb, (uint8_t)(before - (start + ROOM))};
	int err;

	memcpy(call + 1, &distance, sizeof(distance));
	err = uio_port_text_write(before, call, 1);
	for (unsigned int i = 0; i < BEFORE && err == 0; i++)
		err = uio_port_text_write(before + i, call + i, 1);
	return err ? err : uio_port_text_write(start, jump, ROOM);
}

static void close_gate(uintptr_t function, const uint8_t room[ROOM])
{
	uio_port_text_write(function + endbr(function), room, ROOM);
	for (unsigned int i = 0; i < BEFORE; i++)
		uio_port_text_write(function - BEFORE + i, nops + i, 1);
}

int uio_bpf_can_attach(uintptr_t function, const char **why)
{
	const uintptr_t *site = uio_hit_sites[0];
	int64_t distance = (int64_t)((uintptr_t)uio_hit_entered - function);

	if (!uio_port_text_write || !&uio_port_hold) {
		*why = "this kernel cannot be attached to";
		return -ENOSYS;
	}
	while (site < uio_hit_sites[1] && *site != function - BEFORE)
		site++;
	if (site >= uio_hit_sites[1]) {
		*why = "no function with room for it begins there; the compiler makes room with "
		       "-fpatchable-function-entry=7,5";
		return -ENOENT;
	}
	if (distance != (int32_t)distance) {
		*why = "the function is too far away";
		return -ERANGE;
	}
	if (*find(function) == NULL && !room_is_free(function)) {
		*why = "the room at its start is not as the compiler left it";
		return -EIO;
	}
	return 0;
}

int uio_bpf_attach(struct bpf_link *link, const char **why)
{
	int err = uio_bpf_can_attach(link->function, why);
	struct point **at = find(link->function);
	bool at_return = link->prog->kind == BPF_KIND_RETURN;
	struct bpf_link **list;

	if (err)
		return err;
	uio_hit_entry = on_entry;
	uio_hit_return = on_return;
	*why = "no memory";
	if (at_return && !kept_memory && kept_take_memory() != 0)
		return -ENOMEM;
	if (!*at) {
		struct point *p = uio_port_alloc(sizeof(*p));

		if (!p)
			return -ENOMEM;
		*p = (struct point){
			.function = link->function,
			.resume = link->function + endbr(link->function) + ROOM,
		};
		memcpy(p->room, (const void *)(p->resume - ROOM), ROOM);
		*at = p;
		err = open_gate(link->function);
		if (err) {
			*why = "the text cannot be written";
			close_gate(link->function, p->room);
			*at = NULL;
			uio_port_free(p);
			return err;
		}
	}
	/* In the order of attaching. */
	for (list = at_return ? &(*at)->ret : &(*at)->entry; *list; list = &(*list)->next)
		;
	link->next = NULL;
	link->env = link->prog->object->env;
	*list = link;
	returns += at_return;
	return 0;
}

void uio_bpf_detach(struct bpf_link *link)
{
	struct point **at = find(link->function), *p = *at;
	bool at_return = link->prog->kind == BPF_KIND_RETURN;
	struct bpf_link **list = at_return ? &p->ret : &p->entry;

	while (*list != link)
		list = &(*list)->next;
	*list = link->next;
	if (at_return && !p->ret)
		forget_returns(p->function);
	returns -= at_return;
	if (!p->entry && !p->ret) {
		close_gate(p->function, p->room);
		*at = p->next;
		uio_port_free(p);
	}
	if (returns == 0 && kept_memory) {
		uio_port_free(kept_memory);
		kept_memory = kept_free = NULL;
	}
}

/* ---- the machine, and what programs see of the world ---- */

int uio_bpf_machine_get(void)
{
	static const struct bpf_env clock = {.now = uio_port_ns};

	if (machine_users == 0) {
		machine = uio_port_alloc(sizeof(*machine));
		if (!machine)
			return -ENOMEM;
		uio_bpf_vm_init(machine, &clock);
	}
	machine_users++;
	return 0;
}

void uio_bpf_machine_put(void)
{
	if (--machine_users > 0)
		return;
	uio_port_free(machine);
	machine = NULL;
}

int uio_bpf_run_now(struct bpf_prog *prog, void *cookie, const struct bpf_ctx *ctx, uint64_t *r0,
		    struct bpf_fault *fault)
{
	struct bpf_ctx copy = *ctx;
	uintptr_t key = uio_bpf_lock();
	int status;

	machine->env = prog->object->env;
	machine->cookie = cookie;
	machine->complete = NULL;
	copy.thread = uio_bpf_thread();
	copy.kind = prog->kind;
	status = uio_bpf_run(machine, prog, &copy, sizeof(copy), BPF_READ, r0);
	*fault = machine->fault;
	uio_bpf_unlock(key);
	return status;
}

uintptr_t uio_bpf_lock(void)
{
	uint32_t before = 0;

	if (&uio_port_hold) {
		before = uio_port_hold;
		uio_port_hold = 1;
	}
	return before;
}

void uio_bpf_unlock(uintptr_t key)
{
	if (&uio_port_hold)
		uio_port_hold = (uint32_t)key;
}

bool uio_bpf_next_row(struct bpf_map *map, uint64_t *cursor, void *key, void *value,
		      uint32_t *thread)
{
	uintptr_t locked = uio_bpf_lock();
	bool found = uio_bpf_map_next(map, cursor, key, value, thread);

	uio_bpf_unlock(locked);
	return found;
}

uint32_t uio_bpf_thread(void)
{
	return uio_port_thread_id ? uio_port_thread_id() : 0;
}

struct wanted_name {
	unsigned int id;
	char *buf;
	size_t len;
};

static int take_name(const struct uio_thread_info *info, void *arg)
{
	struct wanted_name *w = arg;
	size_t n;

	if (info->id != w->id)
		return 0;
	n = strnlen(info->name, w->len - 1);
	memcpy(w->buf, info->name, n);
	w->buf[n] = '\0';
	return 1;
}

void uio_bpf_thread_name(char *buf, size_t len)
{
	struct wanted_name w = {uio_bpf_thread(), buf, len};

	buf[0] = '\0';
	uio_port_thread_foreach(take_name, &w);
}

size_t uio_bpf_stack(const struct bpf_ctx *ctx, uint64_t *pc, size_t max)
{
	uint64_t frame = ctx->fp;
	size_t n = 0;

	pc[n++] = ctx->ip;
	if (n < max && ctx->caller)
		pc[n++] = ctx->caller;
	while (n < max && frame >= ctx->sp && frame % 8 == 0) {
		uint64_t outer, back;

		if (uio_probe_read(&outer, frame, 8) != 0 ||
		    uio_probe_read(&back, frame + 8, 8) != 0 || !back)
			break;
		pc[n++] = real_return(back, frame + 8);
		if (outer <= frame)
			break; /* frames go upwards only: no circles */
		frame = outer;
	}
	return n;
}
