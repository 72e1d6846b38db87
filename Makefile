# SPDX-License-Identifier: BSD-3-Clause
# The entry points of the project. `make help` lists them; everything that is built goes to build/ and .venv/.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-print-directory

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BUILD  := build
PREFIX ?= /usr/local

# Debian packages, each named by a file or command that shows that it is there: PACKAGE=PROBE.
RUN_PACKAGES  := qemu-system-x86=qemu-system-x86_64 gcc=gcc musl-tools=musl-gcc openssl=openssl
TEST_PACKAGES := $(RUN_PACKAGES) g++=g++ clang-14=clang-14 libclang-rt-14-dev=/usr/lib/clang/14 gdb=gdb diod=diod \
                 busybox-static=/bin/busybox cpio=cpio
LINT_PACKAGES := clang-format-14=clang-format-14

GUEST    := $(BUILD)/refguest/count.elf
OVERLAYS := $(BUILD)/overlays/.done
KEY      := $(BUILD)/keys/demo.pem

.DEFAULT_GOAL := help

##@ Try it
.PHONY: demo
demo: deps-run venv $(OVERLAYS) ## boot the reference guest and show what uIO does with it
	@PATH="$$PWD/$(BIN):$$PATH" bash examples/demo.sh

.PHONY: guest-shell
guest-shell: deps-run venv $(OVERLAYS) ## boot the reference guest and attach to its uIO-console
	@PATH="$$PWD/$(BIN):$$PATH" bash examples/guest-shell.sh

.PHONY: gdb
gdb: deps-run guest ## boot the reference guest stopped, with gdb and its symbols attached
	@qemu-system-x86_64 -machine q35 -cpu max -m 64M -nodefaults -display none -serial file:$(BUILD)/gdb-serial.log \
	  -device virtio-serial-pci -kernel $(GUEST) -S -gdb unix:$(BUILD)/gdb.sock,server=on,wait=off & \
	trap "kill $$! 2>/dev/null || true" EXIT; sleep 0.5; \
	gdb -q $(GUEST) -ex 'target remote $(BUILD)/gdb.sock'

##@ Check it
.PHONY: test
test: deps-test venv-dev $(OVERLAYS) hosted ## all tests: unit, guest under QEMU, system (PYTEST_ARGS=… is passed on)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: lint
lint: deps-lint venv-dev ## ruff, mypy --strict, clang-format; C is compiled with warnings as errors by the builds
	@echo "lint: ruff"; $(BIN)/ruff check .; $(BIN)/ruff format --check .
	@echo "lint: mypy"; $(BIN)/mypy
	@echo "lint: clang-format"; git ls-files '*.c' '*.h' | grep -v '^overlays/src/bpf/' | xargs -r clang-format-14 --dry-run --Werror

.PHONY: format
format: venv-dev ## rewrite sources in the project's format
	@$(BIN)/ruff check --fix-only -q . ; $(BIN)/ruff format -q .
	@git ls-files '*.c' '*.h' | xargs -r clang-format-14 -i

.PHONY: bench
bench: deps-test venv-dev $(OVERLAYS) hosted ## measure (QUICK=1 for a short run); results in build/bench/
	@$(BIN)/python -m bench $(if $(QUICK),--quick) --out $(BUILD)/bench

##@ Build it
.PHONY: guest
guest: ## the reference guest: build/refguest/count.elf
	@$(MAKE) -C refguest

# refguest's own Makefile knows what depends on what.
.PHONY: $(GUEST)
$(GUEST): guest

.PHONY: hosted
hosted: ## libuio as a Linux process, for tests: build/hosted/uio-hosted
	@$(MAKE) -C unikraft_patches/libuio/port/hosted

.PHONY: overlays
overlays: $(OVERLAYS) ## build, check and sign the shipped overlays with a demo key: build/overlays/*.uio

.PHONY: $(OVERLAYS)
$(OVERLAYS): venv $(GUEST)
	@$(BIN)/python -m overlays.box --out $(BUILD)/overlays --key $(KEY) --kernel $(GUEST)

.PHONY: install
install: ## install into PREFIX (default /usr/local) below DESTDIR: tools, units, headers, overlays' sources
	@$(PYTHON) -m pip install --quiet --prefix "$(DESTDIR)$(PREFIX)" --no-warn-script-location .
	@install -D -m 0644 examples/uiod@.service "$(DESTDIR)$(PREFIX)/lib/systemd/system/uiod@.service"
	@install -d "$(DESTDIR)$(PREFIX)/include/uio" "$(DESTDIR)/etc/uio/keys"
	@install -m 0644 overlays/include/uio/*.h "$(DESTDIR)$(PREFIX)/include/uio/"

.PHONY: clean
clean: ## remove build/
	@rm -rf $(BUILD)

##@ Prerequisites
# $(call need,PACKAGES): install what is missing as root, else say what to run.
define need
@missing=""; \
for pair in $(1); do \
  probe=$${pair#*=}; package=$${pair%%=*}; \
  if [[ $$probe == /* ]]; then [ -e $$probe ] || missing+=" $$package"; \
  else command -v $$probe >/dev/null || missing+=" $$package"; fi; \
done; \
$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing+=" python3-venv"; \
if [ -n "$$missing" ]; then \
  if ! command -v apt-get >/dev/null; then \
    echo "make: this is no Debian; please install:$$missing" >&2; exit 1; \
  elif [ "$$(id -u)" = 0 ]; then \
    echo "make: installing$$missing"; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends $$missing >$(BUILD)/apt.log 2>&1 || { tail -n 20 $(BUILD)/apt.log >&2; exit 1; }; \
  else \
    echo "make: packages are missing; please run: sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; \
  fi; \
fi
endef

$(BUILD):
	@mkdir -p $(BUILD)

.PHONY: deps-run deps-test deps-lint
deps-run: | $(BUILD)
	$(call need,$(RUN_PACKAGES))
deps-test: | $(BUILD)
	$(call need,$(TEST_PACKAGES))
deps-lint: | $(BUILD)
	$(call need,$(LINT_PACKAGES))

.PHONY: venv venv-dev
venv: deps-run $(BUILD)/.venv-run ## .venv with what the tools need
venv-dev: deps-test $(BUILD)/.venv-dev ## .venv with what tests and lint need as well

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input

$(BIN)/python: | deps-run
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or newer is needed; say which with PYTHON=…" >&2; exit 1; }
	@echo "make: creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(BUILD)/.venv-run: pyproject.toml | deps-run $(BIN)/python
	@echo "make: installing Python packages"
	@$(PIP) install -e .
	@touch $@

$(BUILD)/.venv-dev: pyproject.toml | deps-test $(BIN)/python
	@echo "make: installing Python packages for tests"
	@$(PIP) install -e '.[dev]'
	@touch $@ $(BUILD)/.venv-run

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
