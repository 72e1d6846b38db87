# SPDX-License-Identifier: BSD-3-Clause
# The entry points of the project. `make help` lists them; everything that is built goes to build/ and .venv/.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-print-directory

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BUILD  := build

# Debian packages, each named by a file or command that shows that it is there: PACKAGE=PROBE.
RUN_PACKAGES  := qemu-system-x86=qemu-system-x86_64 gcc=gcc libc6-dev=/usr/include/stdio.h \
                 musl-dev=/usr/lib/x86_64-linux-musl/libc.a
TEST_PACKAGES := $(RUN_PACKAGES) diod=diod dbench=dbench fio=fio stress-ng=stress-ng \
                 clang-14=clang-14 libclang-rt-14-dev=/usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.fuzzer-x86_64.a \
                 g++=g++ openssl=openssl musl-tools=musl-gcc systemd=systemd-analyze python3=/usr/bin/python3
BENCH_PACKAGES := $(TEST_PACKAGES) busybox-static=/bin/busybox dropbear-bin=dropbearkey openssh-client=ssh \
                 qemu-guest-agent=/usr/sbin/qemu-ga e2fsprogs=/sbin/mkfs.ext4
LINT_PACKAGES := clang-format-14=clang-format-14

.DEFAULT_GOAL := help

##@ See it
.PHONY: demo
demo: guest overlays ## boot the reference guest and run commands and overlays in it
	@PATH="$(abspath $(BIN)):$$PATH" $(SHELL) examples/demo.sh

.PHONY: tour
tour: guest overlays ## what it is good for: debugging, reconfiguration, SQLite backup, counters, eBPF (TOUR_PAUSE=2: slower)
	@$(MAKE) guest APP=sqlite
	@PATH="$(abspath $(BIN)):$$PATH" $(SHELL) examples/tour.sh

.PHONY: guest-shell
guest-shell: guest overlays ## boot the reference guest and attach to its console (Ctrl-] leaves and stops it)
	@PATH="$(abspath $(BIN)):$$PATH" $(SHELL) examples/guest-shell.sh

##@ Build it
.PHONY: guest
guest: deps-run ## the reference guest with libuio: build/refguest/APP.elf (APP=count)
	@$(MAKE) -C refguest APP=$(APP) O=$(abspath $(BUILD))/refguest

APP ?= count

.PHONY: overlays
overlays: guest venv $(BUILD)/keys/demo.pem ## the shipped overlays, built for that guest and signed with a key made here
	@mkdir -p $(BUILD)/overlays
	@$(BIN)/python -m overlays build --all overlays/src --output-dir $(BUILD)/overlays \
	  --kernel $(or $(KERNEL_DBG),$(KERNEL),$(BUILD)/refguest/$(APP).elf) $(if $(KERNEL),--skip-unfit) \
	  --key $(BUILD)/keys/demo.pem

$(BUILD)/keys/demo.pem: | venv
	@mkdir -p $(BUILD)/keys
	@$(BIN)/python -m overlays keygen $@

##@ Install it
PREFIX         ?= /usr
SYSTEM_PYTHON  ?= /usr/bin/python3
WITH_DEPS      ?= yes
SHARE          = $(DESTDIR)$(PREFIX)/share
LIB            = $(DESTDIR)$(PREFIX)/lib
# Paths in unit files, which say /usr.
RELOCATED      = sed 's,/usr/\(bin\|lib\)/,$(PREFIX)/\1/,'

.PHONY: wheel
wheel: venv ## build the Python package: build/wheel/uio-*.whl
	@rm -rf $(BUILD)/wheel
	@$(PIP) wheel --no-deps -w $(BUILD)/wheel .

.PHONY: man
man: venv ## build the manual pages: build/man/
	@$(BIN)/python -m uiod.manpages $(BUILD)/man

.PHONY: install
install: wheel man ## install to DESTDIR and PREFIX (/usr): programs, units, manual, completions, headers (WITH_DEPS=no: ours alone)
	@$(SYSTEM_PYTHON) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')")' || { \
	  echo "make: $(SYSTEM_PYTHON) and $(VENV) are of different versions; say SYSTEM_PYTHON=…, or PYTHON=… after removing $(VENV)" >&2; exit 1; }
	@rm -rf $(LIB)/uio/python
	@$(PIP) install --no-compile --root-user-action=ignore $(if $(filter no,$(WITH_DEPS)),--no-deps) \
	  --target $(LIB)/uio/python $(BUILD)/wheel/uio-*.whl
	@rm -rf $(LIB)/uio/python/bin
	@$(BIN)/python -m compileall -q -s "$(DESTDIR)" -p / $(LIB)/uio/python
	@install -d $(DESTDIR)$(PREFIX)/bin
	@for program in uiod.main:uiod uiod.ctl.main:uioctl; do \
	  sed 's,@PYTHON@,$(SYSTEM_PYTHON),; s,@LIB@,$(PREFIX)/lib/uio/python,; s,@MODULE@,'$${program%:*}, \
	    examples/systemd/launcher.in >$(DESTDIR)$(PREFIX)/bin/$${program#*:}; \
	  chmod 755 $(DESTDIR)$(PREFIX)/bin/$${program#*:}; done
	@install -D -m 755 examples/systemd/unit-helper $(LIB)/uio/unit-helper
	@install -d $(LIB)/uio/overlays $(LIB)/systemd/system
	@$(RELOCATED) examples/uiod@.service >$(LIB)/systemd/system/uiod@.service
	@install -D -m 644 examples/systemd/uio.sysusers $(LIB)/sysusers.d/uio.conf
	@install -D -m 644 examples/systemd/uio.tmpfiles $(LIB)/tmpfiles.d/uio.conf
	@install -d $(DESTDIR)/etc/uio/keys
	@install -d $(SHARE)/man/man1 $(SHARE)/man/man5
	@install -m 644 $(BUILD)/man/*.1 $(SHARE)/man/man1/
	@install -m 644 $(BUILD)/man/*.5 $(SHARE)/man/man5/
	@install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/vendor-completions $(SHARE)/fish/vendor_completions.d
	@$(BIN)/python -m uiod.ctl.main completion bash >$(SHARE)/bash-completion/completions/uioctl
	@$(BIN)/python -m uiod.ctl.main completion zsh >$(SHARE)/zsh/vendor-completions/_uioctl
	@$(BIN)/python -m uiod.ctl.main completion fish >$(SHARE)/fish/vendor_completions.d/uioctl.fish
	@install -d $(DESTDIR)$(PREFIX)/include/uio $(SHARE)/uio/overlays $(SHARE)/doc/uio/examples
	@install -m 644 overlays/include/uio/*.h $(DESTDIR)$(PREFIX)/include/uio/
	@install -m 644 overlays/src/*.c $(SHARE)/uio/overlays/
	@install -m 644 README.md LICENSE docs/*.md $(SHARE)/doc/uio/
	@cp -r examples/*.cfg examples/ci examples/fleet $(SHARE)/doc/uio/examples/

.PHONY: deb
deb: ## a Debian package of that, with the Python libraries it needs: build/deb/uio_*_amd64.deb
	@rm -rf $(BUILD)/deb
	@$(MAKE) install DESTDIR=$(abspath $(BUILD))/deb/root PREFIX=/usr SYSTEM_PYTHON=/usr/bin/python3 WITH_DEPS=yes
	@examples/debian/build.sh $(BUILD)/deb/root $$($(BIN)/python -c 'import importlib.metadata as m; print(m.version("uio"))') $(BUILD)/deb

##@ Check it
.PHONY: test
test: deps-test venv-dev guest overlays ## all tests, up to Linux' 9P client under QEMU (PYTEST_ARGS=… is passed on)
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

.PHONY: bench bench-check
bench: deps-bench venv-dev guest overlays ## measure (QUICK=1: short; SUITES="console …": some; PUBLISH=1: to bench/results); see build/bench/
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(PUBLISH),--out bench/results --page bench/RESULTS.md,--out $(BUILD)/bench) $(SUITES)

# The two directories may be said as goals of make: what follows bench-check is none.
ifeq ($(firstword $(MAKECMDGOALS)),bench-check)
COMPARED := $(wordlist 2,3,$(MAKECMDGOALS))
.PHONY: $(COMPARED)
$(COMPARED): ; @:
endif
bench-check: venv-dev ## what moved between two result directories: make bench-check OLD NEW (or OLD=… NEW=…)
	@$(BIN)/python -m bench.check $(or $(COMPARED),$(OLD) $(NEW))

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

.PHONY: deps-run deps-test deps-bench deps-lint
deps-run: | $(BUILD)
	$(call need,$(RUN_PACKAGES))
deps-test: | $(BUILD)
	$(call need,$(TEST_PACKAGES))
deps-bench: | $(BUILD)
	$(call need,$(BENCH_PACKAGES))
deps-lint: | $(BUILD)
	$(call need,$(LINT_PACKAGES))

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input

.PHONY: venv venv-dev
venv: $(BUILD)/.venv-run ## .venv with what the project needs to run
venv-dev: $(BUILD)/.venv-dev ## .venv with what tests and lint need

$(BIN)/python: | deps-run
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or newer is needed; say which with PYTHON=…" >&2; exit 1; }
	@echo "make: creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(BUILD)/.venv-run: pyproject.toml | $(BIN)/python
	@echo "make: installing Python packages"
	@$(PIP) install --config-settings editable_mode=compat -e .
	@touch $@

$(BUILD)/.venv-dev: pyproject.toml | $(BIN)/python
	@echo "make: installing Python packages for tests"
	@$(PIP) install --config-settings editable_mode=compat -e '.[dev]'
	@touch $@ $(BUILD)/.venv-run

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
