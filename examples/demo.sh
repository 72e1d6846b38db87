#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# What `make demo` shows: one VM from start to stop, with each command printed before it runs.
# Needs uiod and uioctl on PATH. Leaves nothing running, whatever happens.
set -euo pipefail
cd "$(dirname "$0")/.."

UIO_RUNTIME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/uio-demo.XXXXXX")
export UIO_RUNTIME_DIR
mkdir -p build/exchange/count

daemon=
finish() {
	status=$?
	if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
		kill -TERM "$daemon"
		wait "$daemon" || true
	fi
	if [ "$status" != 0 ]; then
		echo "demo: failed; the daemon said:" >&2
		tail -n 20 build/demo-uiod.log >&2 || true
	fi
	rm -rf "$UIO_RUNTIME_DIR"
	exit "$status"
}
trap finish EXIT

# run EXPECTED-STATUS COMMAND…
run() {
	local expected=$1 status=0
	shift
	printf '\n$ %s\n' "$*"
	"$@" || status=$?
	if [ "$status" != 0 ]; then
		printf '(exit status %s)\n' "$status"
	fi
	if [ "$status" != "$expected" ]; then
		echo "demo: expected status $expected" >&2
		exit 1
	fi
}

printf '$ uiod start examples/count.cfg &\n'
uiod start examples/count.cfg >build/demo-uiod.log 2>&1 &
daemon=$!
until [ -S "$UIO_RUNTIME_DIR/count/api.sock" ]; do
	kill -0 "$daemon" || exit 1
	sleep 0.05
done
run 0 uioctl wait --for ready --timeout 30s count
run 0 uioctl ps
run 0 uioctl exec count ls /bin
run 0 uioctl exec count hello world
run 0 uioctl exec count set_count 1000
run 0 uioctl exec count kill -HUP
run 127 uioctl exec count nosuch
sleep 1.2 # count counts once a second: let it show the jump
run 0 uioctl logs --tail 5 count
run 0 uioctl stop count

wait "$daemon"
daemon=
printf '\ndemo: done; nothing is left running.\n'
