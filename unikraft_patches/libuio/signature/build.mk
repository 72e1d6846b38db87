# SPDX-License-Identifier: BSD-3-Clause
# The check of signatures as one object, for the Makefiles of ports that link it. Theirs: CC, LD, PYTHON,
# SIGNATURE_CFLAGS, SIGNATURE_DIR (where to build), KEYS. Given back: SIGNATURE_OBJECT.

SIGNATURE_HERE := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
# A directory with monocypher.c and monocypher.h; this one is filled from a package registry.
MONOCYPHER ?= $(abspath $(SIGNATURE_HERE)/../../../build/monocypher)
SIGNATURE_OBJECT := $(SIGNATURE_DIR)/signature.o
SIGNATURE_PARTS := $(addprefix $(SIGNATURE_DIR)/parts/,signature.o ed25519.o sha512.o keys.o monocypher.o)

ifeq ($(strip $(KEYS)),)
$(error SIGNATURES=yes needs KEYS="A.pub.pem …": the public keys that the kernel trusts)
endif

$(MONOCYPHER)/monocypher.c $(MONOCYPHER)/monocypher.h &:
	@$(SIGNATURE_HERE)fetch.sh $(MONOCYPHER) $(PYTHON)

$(SIGNATURE_DIR)/parts/keys.c: $(KEYS) $(SIGNATURE_HERE)keys.py $(SIGNATURE_DIR)/parts/keys.list
	@$(PYTHON) $(SIGNATURE_HERE)keys.py $(KEYS) >$@.tmp && mv $@.tmp $@

# Changes when keys come or go.
$(SIGNATURE_DIR)/parts/keys.list: signature-always
	@mkdir -p $(@D)
	@echo '$(KEYS)' | cmp -s - $@ || echo '$(KEYS)' >$@
.PHONY: signature-always

$(SIGNATURE_DIR)/parts/keys.o: $(SIGNATURE_DIR)/parts/keys.c
	@$(CC) $(SIGNATURE_CFLAGS) -I $(SIGNATURE_HERE) -ffunction-sections -MMD -MP -c $< -o $@

$(SIGNATURE_DIR)/parts/%.o: $(SIGNATURE_HERE)%.c $(MONOCYPHER)/monocypher.h | $(SIGNATURE_DIR)/parts/keys.list
	@$(CC) $(SIGNATURE_CFLAGS) -I $(MONOCYPHER) -MMD -MP -c $< -o $@

# Not our code: its warnings are not ours, and most of it is not needed.
$(SIGNATURE_DIR)/parts/monocypher.o: $(MONOCYPHER)/monocypher.c | $(SIGNATURE_DIR)/parts/keys.list
	@$(CC) $(SIGNATURE_CFLAGS) -w -ffunction-sections -fdata-sections -c $< -o $@

$(SIGNATURE_OBJECT): $(SIGNATURE_PARTS)
	@$(LD) -r --gc-sections -u uio_signature_refusal -o $@ $^

-include $(wildcard $(SIGNATURE_DIR)/parts/*.d)
