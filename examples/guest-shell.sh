#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Boot examples/count.cfg, attach to its uIO-console, and stop it when the terminal detaches (Ctrl-P Ctrl-Q).
set -euo pipefail

cd "$(dirname "$0")/.."
run=$(mktemp -d "${TMPDIR:-/tmp}/uio-shell.XXXXXX")
export UIO_RUNTIME_DIR=$run
uiod start examples/count.cfg >"$run/uiod.out" 2>&1 &
daemon=$!
trap 'kill -TERM "$daemon" 2>/dev/null || true; wait "$daemon" || true; rm -rf "$run"' EXIT
if ! uioctl wait --for ready --timeout 30 count; then
	cat "$run/uiod.out" >&2
	exit 1
fi
uioctl attach count
