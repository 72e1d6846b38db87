#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# What `make demo` shows: one VM from start to stop, in a runtime directory of its own. Fails if any step
# does not do what it says.
set -euo pipefail

cd "$(dirname "$0")/.."
run=$(mktemp -d "${TMPDIR:-/tmp}/uio-demo.XXXXXX")
export UIO_RUNTIME_DIR=$run
daemon=

finish() {
	status=$?
	if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
		kill -TERM "$daemon" 2>/dev/null || true
		wait "$daemon" || true
	fi
	if [ "$status" != 0 ]; then
		echo "demo: failed; what uiod said:" >&2
		tail -n 20 "$run/uiod.out" >&2 || true
	fi
	rm -rf "$run"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi

# Print a command, run it, and insist on its exit status and on what it prints.
expect() { # STATUS PATTERN COMMAND…
	local want=$1 pattern=$2 status=0 out
	shift 2
	echo "$bold\$ $*$plain"
	out=$("$@" 2>&1) || status=$?
	[ -z "$out" ] || echo "$out"
	if [ "$status" != "$want" ]; then
		echo "demo: exit status $status instead of $want" >&2
		exit 1
	fi
	[ "$want" = 0 ] || echo "(exit status $status)"
	if ! grep -qE -- "$pattern" <<<"$out"; then
		echo "demo: the output does not match '$pattern'" >&2
		exit 1
	fi
}

# Wait until the application's log has a line that matches.
expect_log() { # PATTERN
	for _ in $(seq 100); do
		if uioctl logs --tail 20 count | grep -qE -- "$1"; then return; fi
		sleep 0.1
	done
	echo "demo: the application's log never showed '$1'" >&2
	exit 1
}

echo "$bold\$ uiod start examples/count.cfg &$plain"
uiod start examples/count.cfg >"$run/uiod.out" 2>&1 &
daemon=$!
uioctl wait --for ready --timeout 30 count
cat "$run/uiod.out"

expect 0 'count +running' uioctl ps
expect 0 '^hello' uioctl exec count ls /bin
expect 0 'world' uioctl exec count hello world
expect 0 '' uioctl exec count set_count 1000
expect_log 'count: 100[0-9]'
expect 0 '' uioctl exec count kill -HUP
expect_log 'count: reloaded'
expect 127 'nosuch' uioctl exec count nosuch
expect 0 'count: reloaded|count: 100' uioctl logs --tail 5 count
expect 0 '' uioctl stop count

status=0
wait "$daemon" || status=$?
daemon=
if [ "$status" != 0 ]; then
	echo "demo: uiod ended with status $status" >&2
	exit 1
fi
echo "demo: done; nothing is left running"
