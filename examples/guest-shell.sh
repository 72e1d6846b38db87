#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# `make guest-shell`: boot the reference guest and attach this terminal to its console; stop it when that ends.
set -euo pipefail
cd "$(dirname "$0")/.."

UIO_RUNTIME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/uio-shell.XXXXXX")
export UIO_RUNTIME_DIR
mkdir -p build/exchange/count

uiod start examples/count.cfg >build/guest-shell-uiod.log 2>&1 &
daemon=$!
finish() {
	kill -TERM "$daemon" 2>/dev/null || true
	wait "$daemon" || true
	rm -rf "$UIO_RUNTIME_DIR"
}
trap finish EXIT

until [ -S "$UIO_RUNTIME_DIR/count/api.sock" ]; do
	if ! kill -0 "$daemon"; then
		tail -n 5 build/guest-shell-uiod.log >&2
		exit 1
	fi
	sleep 0.05
done
uioctl wait --for ready --timeout 30s count
uioctl attach count
