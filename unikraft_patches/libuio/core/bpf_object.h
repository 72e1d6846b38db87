/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The form in which the host ships programs and their maps: made from an ELF
 * file by overlays/bpf/objects.py, described in docs/bpf.md. All numbers are little-endian;
 * the parts follow each other without gaps in the order below.
 */
#ifndef UIO_BPF_OBJECT_H
#define UIO_BPF_OBJECT_H

#include "bpf.h"

#define BPF_OBJECT_MAGIC "\0uIOBPF1"

struct bpf_wire_header {
	uint8_t magic[8];
	uint32_t size; /* of everything */
	uint32_t flags;
	uint16_t nmaps, nprogs;
	uint32_t ninsns;
	uint32_t data_size;
	uint32_t zero;
	char name[BPF_NAME_MAX];
};
_Static_assert(sizeof(struct bpf_wire_header) == 64, "wire format");

#define BPF_OBJECT_VERIFIED 1u /* the host's verifier has accepted all its programs */

struct bpf_wire_map {
	uint32_t type, key_size, value_size, max_entries, flags;
	uint32_t data_offset, data_size; /* initial bytes of entry 0, from the data part */
	uint32_t zero;
	char name[BPF_NAME_MAX];
};
_Static_assert(sizeof(struct bpf_wire_map) == 64, "wire format");

struct bpf_wire_prog {
	uint32_t kind;
	uint32_t first, count; /* instructions, from the instruction part */
	uint32_t zero;
	uint64_t period_ns;
	uint64_t max_insns, max_ns; /* 0: the guest's own limits */
	char name[BPF_NAME_MAX];
	char target[BPF_TARGET_MAX];
};
_Static_assert(sizeof(struct bpf_wire_prog) == 200, "wire format");

struct bpf_object_limits {
	size_t max_bytes;   /* of memory, maps included */
	uint64_t max_insns; /* of one run; also the value where a program names none */
	uint64_t max_ns;
	bool need_verified;
};

/* Where a load failed, in words. */
struct bpf_object_error {
	char text[160];
};

/**
 * Read, check and link an object. 0, or -EINVAL (format or check), -E2BIG
 * (limits), -ENOMEM, -EPERM (not verified), each with words in err. On failure nothing is left
 * behind. The bytes are not needed afterwards.
 */
int uio_bpf_object_load(struct bpf_object **out, const void *bytes, size_t len,
			const struct bpf_env *env, const struct bpf_object_limits *limits,
			struct bpf_object_error *err);
/** No program of it may be running. */
void uio_bpf_object_destroy(struct bpf_object *object);

#endif /* UIO_BPF_OBJECT_H */
