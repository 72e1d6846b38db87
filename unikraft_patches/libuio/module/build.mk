# SPDX-License-Identifier: BSD-3-Clause
# The eBPF machine as an object of its own, and the objects that put it into the kernel's ELF and load it from there, for
# the Makefiles of ports that have it so. Theirs: CC, LD, OBJCOPY, PYTHON, MODULE_CFLAGS (of bpf.c, module.c and embed.S),
# MODULE_DIR (where to build), MODULE_PARTS (the machine's objects, compiled with MODULE_PIC). Given back: MODULE_OBJECTS.

MODULE_HERE    := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
MODULE_OBJECTS := $(MODULE_DIR)/module.c.o $(MODULE_DIR)/embed.o

$(MODULE_DIR)/%.c.o: $(MODULE_HERE)%.c | $(MODULE_DIR)
	@$(CC) $(MODULE_CFLAGS) $(if $(filter bpf.c,$(notdir $<)),$(MODULE_PIC)) -MMD -MP -c $< -o $@

# Nobody needs the names of what is local, and debuggers find no lines in what is not in the image.
$(MODULE_DIR)/bpf.o: $(MODULE_PARTS) $(MODULE_DIR)/bpf.c.o
	@$(LD) -r -o $@.tmp $^
	@$(OBJCOPY) --strip-debug --discard-all -R .comment -R .note.GNU-stack $@.tmp $@
	@rm -f $@.tmp

$(MODULE_DIR)/embed.h: $(MODULE_DIR)/bpf.o $(MODULE_HERE)module.c $(MODULE_HERE)embed.py
	@$(PYTHON) $(MODULE_HERE)embed.py $< $(MODULE_HERE)module.c nm >$@.tmp && mv $@.tmp $@

$(MODULE_DIR)/embed.o: $(MODULE_HERE)embed.S $(MODULE_DIR)/embed.h
	@$(CC) -include $(MODULE_DIR)/embed.h -c $< -o $@

$(MODULE_DIR):
	@mkdir -p $@

-include $(wildcard $(MODULE_DIR)/*.d)
