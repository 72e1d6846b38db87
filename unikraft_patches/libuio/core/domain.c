/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who has which protection key, and the gates. Key 0 is the pages of gates;
 * 1 is all that the kernel and the application can write; 2 to 14 are overlays', each its own while
 * there are enough; pages of overlays that had to give theirs up have 15,
 * to which nobody has rights.
 */

#include <errno.h>
#include <string.h>

#include "channel.h"
#include "overlay_impl.h"

#define KEY_GATES  0u /* every overlay reads these pages */
#define KEY_FIRST  2u
#define KEY_END    15u
#define KEY_PARKED 15u

/* Two bits of PKRU per key: no access, no write. */
#define DENIED          UINT32_MAX
#define ALLOW(key)      (3u << (2 * (key)))
#define ALLOW_READ(key) (1u << (2 * (key)))
#define STUB_SIZE       16u
#define STUBS           (UIO_PAGE_SIZE / STUB_SIZE - 1)
#define GATES_MAX       65536u
#define GATES_FIRST     64u

/* For ports without protection keys. */
__attribute__((weak)) unsigned int uio_port_keys(void)
{
	return 0;
}

__attribute__((weak)) int uio_port_tag(uintptr_t va, size_t pages, unsigned int key)
{
	(void)va, (void)pages, (void)key;
	return -ENOTSUP;
}

__attribute__((weak)) bool uio_port_pin(bool pinned)
{
	(void)pinned;
	return false;
}

__attribute__((weak)) void uio_port_thread_adopt(const char *name)
{
	(void)name;
}

static bool on;
static struct uio_resident *holder[KEY_END]; /* whose pages have it, running or not */
static unsigned int users[KEY_END];          /* overlays with it that run now */

void uio_domain_init(void)
{
	on = uio_port_keys() > KEY_PARKED;
	if (on)
		uio_channel_feature(UIO_FEATURE_PKU);
}

bool uio_domain_on(void)
{
	return on;
}

/* ---- keys ---- */

static int tag_all(struct uio_resident *r, unsigned int key)
{
	int rc = 0;

	for (unsigned int i = 0; i < r->nseg && !rc; i++)
		rc = uio_port_tag(r->seg[i].va, r->seg[i].pages, key);
	if (r->spare_stack && !rc)
		rc = uio_port_tag(uio_stack_low(r->spare_stack, r->spare_pages), r->spare_pages,
				  key);
	r->key = key;
	return rc;
}

/* A key that nobody uses now: free, or of the overlay that was run least recently; 0: none. */
static unsigned int find_key(void)
{
	unsigned int best = 0;

	for (unsigned int key = KEY_FIRST; key < KEY_END; key++) {
		if (users[key])
			continue;
		if (!holder[key])
			return key;
		if (!best || holder[key]->last_used_ns < holder[best]->last_used_ns)
			best = key;
	}
	if (best)
		tag_all(holder[best], KEY_PARKED);
	return best;
}

/* All are in use by overlays that run: the one that fewest share. */
static unsigned int share_key(const struct uio_resident *r)
{
	unsigned int best = KEY_FIRST;

	for (unsigned int key = KEY_FIRST; key < KEY_END; key++)
		if (users[key] < users[best])
			best = key;
	uio_log(4, "more than %u overlays run at once: %s shares its memory with %u of them",
		KEY_END - KEY_FIRST, r->o.name, users[best]);
	return best;
}

static bool take_key(struct uio_resident *r)
{
	unsigned int key = find_key();

	if (key)
		holder[key] = r;
	else
		key = share_key(r);
	if (!tag_all(r, key))
		return true;
	uio_domain_forget(r);
	return false;
}

static bool has_key(const struct uio_resident *r)
{
	return r->key >= KEY_FIRST && r->key < KEY_END;
}

/* It kept its key while nothing ran in it; another, that had to share, may run with it still. */
static bool must_share(const struct uio_resident *r)
{
	return !r->in_domain && users[r->key];
}

bool uio_domain_take(struct uio_resident *r, uint32_t *out)
{
	uint32_t pkru = DENIED;

	*out = 0;
	if (!on)
		return true;
	if (has_key(r) && must_share(r))
		uio_domain_forget(r);
	if (!has_key(r) && !take_key(r))
		return false;
	if (!r->in_domain++)
		users[r->key]++;
	pkru &= ~(ALLOW(r->key) | ALLOW_READ(KEY_GATES));
	if (!(r->o.policy.flags & UIO_POLICY_APP_NONE))
		pkru &= ~ALLOW_READ(UIO_KEY_KERNEL);
	*out = pkru;
	return true;
}

void uio_domain_give(struct uio_resident *r)
{
	if (!on || --r->in_domain)
		return;
	users[r->key]--;
	if (holder[r->key] != r)
		tag_all(r, KEY_PARKED); /* it shared another's */
}

int uio_domain_tag(const struct uio_resident *r, uintptr_t va, size_t pages)
{
	return on ? uio_port_tag(va, pages, r->key) : 0;
}

int uio_domain_untag(uintptr_t va, size_t pages)
{
	return on ? uio_port_tag(va, pages, UIO_KEY_KERNEL) : 0;
}

void uio_domain_forget(struct uio_resident *r)
{
	if (has_key(r) && holder[r->key] == r)
		holder[r->key] = NULL;
	r->key = 0;
}

/* ---- gates: one for each function of the kernel that any overlay imports ---- */

static size_t room;       /* of the table */
static uint32_t *buckets; /* index + 1 by the hash of the target; twice as many */
static uintptr_t *blocks; /* pages of stubs */

static size_t hash_of(uint64_t target)
{
	return (size_t)(target * 0x9e3779b97f4a7c15ull >> 40) & (2 * room - 1);
}

static uint64_t stub_of(uint32_t index)
{
	return blocks[index / STUBS] + (uint64_t)(index % STUBS) * STUB_SIZE;
}

static void insert(uint32_t index)
{
	size_t at = hash_of(uio_gate_table[index]);

	while (buckets[at])
		at = (at + 1) & (2 * room - 1);
	buckets[at] = index + 1;
}

static bool grow(void)
{
	size_t n = room ? 2 * room : GATES_FIRST;
	uint64_t *table = uio_port_alloc(n * sizeof(*table));
	uint32_t *index = uio_port_alloc(2 * n * sizeof(*index));
	uintptr_t *pages = uio_port_alloc((n / STUBS + 1) * sizeof(*pages));

	if (!table || !index || !pages || n > GATES_MAX) {
		uio_port_free(table);
		uio_port_free(index);
		uio_port_free(pages);
		return false;
	}
	memset(index, 0, 2 * n * sizeof(*index));
	memset(pages, 0, (n / STUBS + 1) * sizeof(*pages));
	if (room) {
		memcpy(table, uio_gate_table, uio_gate_count * sizeof(*table));
		memcpy(pages, blocks, (room / STUBS + 1) * sizeof(*pages));
	}
	uio_port_free(uio_gate_table);
	uio_port_free(buckets);
	uio_port_free(blocks);
	uio_gate_table = table;
	buckets = index;
	blocks = pages;
	room = n;
	for (uint32_t i = 0; i < uio_gate_count; i++)
		insert(i);
	return true;
}

/* mov $index,%r11d; jmp *pointer(%rip): the pointer, to the gate itself, ends the page. */
static bool make_block(uint32_t first)
{
	uintptr_t page = uio_arena_take(1);
	const uint64_t entry = (uintptr_t)uio_gate_entry;

	if (!page)
		return false;
	if (uio_port_map(page, 1, UIO_PROT_READ | UIO_PROT_WRITE)) {
		uio_arena_release(page);
		return false;
	}
	for (uint32_t i = 0; i < STUBS; i++) {
		uint8_t code[STUB_SIZE] = {0x41, 0xbb, 0, 0, 0,    0,    0xff, 0x25,
					   0,    0,    0, 0, 0xcc, 0xcc, 0xcc, 0xcc};
		uint32_t index = first + i, distance = (STUBS - i) * STUB_SIZE - 12;

		memcpy(code + 2, &index, sizeof(index));
		memcpy(code + 8, &distance, sizeof(distance));
		memcpy((uint8_t *)page + i * STUB_SIZE, code, sizeof(code));
	}
	memcpy((uint8_t *)page + STUBS * STUB_SIZE, &entry, sizeof(entry));
	if (uio_port_protect(page, 1, UIO_PROT_READ | UIO_PROT_EXEC)) {
		uio_port_unmap(page, 1);
		uio_arena_release(page);
		return false;
	}
	uio_port_tag(page, 1, KEY_GATES);
	blocks[first / STUBS] = page;
	return true;
}

uint64_t uio_gate(uint64_t target)
{
	uint32_t index = (uint32_t)uio_gate_count;

	if (!on)
		return target;
	for (size_t at = room ? hash_of(target) : 0; room && buckets[at];
	     at = (at + 1) & (2 * room - 1))
		if (uio_gate_table[buckets[at] - 1] == target)
			return stub_of(buckets[at] - 1);
	if (index == room && !grow())
		return 0;
	if (!blocks[index / STUBS] && !make_block(index - index % STUBS))
		return 0;
	uio_gate_table[index] = target;
	uio_gate_count++;
	insert(index);
	return stub_of(index);
}

uint64_t uio_gate_back(void)
{
	return (uintptr_t)(on ? uio_gate_back_keys : uio_gate_back_plain);
}
