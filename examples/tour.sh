#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# What `make tour` shows: the paper's five cases, on two reference guests whose applications know nothing of uIO.
# Each command is printed before it runs. Needs uiod and uioctl on PATH. Leaves nothing running, whatever happens.
set -euo pipefail
cd "$(dirname "$0")/.."

UIO_RUNTIME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/uio-tour.XXXXXX")
export UIO_RUNTIME_DIR
mkdir -p build/exchange/count build/exchange/database
rm -f build/exchange/database/copy.db

daemons=()
finish() {
	status=$?
	for daemon in "${daemons[@]}"; do
		if kill -0 "$daemon" 2>/dev/null; then
			kill -TERM "$daemon"
			wait "$daemon" || true
		fi
	done
	if [ "$status" != 0 ]; then
		echo "tour: failed; the daemons said:" >&2
		tail -n 20 build/tour-*.log >&2 || true
	fi
	rm -rf "$UIO_RUNTIME_DIR" build/overlays/faulty.uio
	exit "$status"
}
trap finish EXIT

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
pause=${TOUR_PAUSE:-0} # seconds after each command, for who watches or records

chapter() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
say() { printf '%s%s%s\n' "$dim" "$1" "$plain"; }
run() {
	local word words=()
	for word; do
		if [[ $word == *[\ \*\{]* ]]; then word="'$word'"; fi
		words+=("$word")
	done
	printf '$ %s\n' "${words[*]}"
	"$@"
	sleep "$pause"
}
shell() { # one line for the shell
	printf '$ %s\n' "$1"
	bash -euo pipefail -c "$1"
	sleep "$pause"
}
start() {
	uiod start "examples/$1.cfg" >"build/tour-$1.log" 2>&1 &
	daemons+=($!)
	until [ -S "$UIO_RUNTIME_DIR/$1/api.sock" ]; do
		kill -0 "$!" || exit 1
		sleep 0.05
	done
	uioctl wait --for ready --timeout 60s "$1" >/dev/null
}

say 'Two unikernels: a counter, and an application with a SQLite database in memory. One address space each, no shell in it.'
start count
start database
run uioctl ps

chapter '1. Looking into a running application: its logs and its memory'
say 'What it prints is kept by the host, from its first byte. What it does not print is in its memory, and can be asked for.'
run uioctl logs --tail 3 count
run uioctl exec count cat guest:/etc/count.conf
run uioctl exec count peek count
run uioctl exec database peek rows
say 'Texts in the memory of the application, found by an overlay that was loaded for this one command:'
shell "uioctl exec count strings __image_start 65536 | grep count: | head -n 4"
run uioctl exec count top -n 1
say 'Each is an ordinary C program, signed, linked against the running kernel, and sent in one round trip. They stay until memory is short:'
run uioctl overlay ls count

chapter '2. Another configuration without a restart'
say 'A file of the guest is replaced, and the application gets its SIGHUP. It had this handler all along, but nobody could send the signal.'
shell "printf 'step=100\n' | uioctl exec -i count cp - guest:/etc/count.conf"
run uioctl exec count kill -HUP
sleep 1.2 # it counts once a second
run uioctl logs --tail 3 count

chapter '3. A backup of a database that is in memory alone'
say 'SQLite has an online backup, but the application never calls it. An overlay does, a few pages at a time, while rows are added.'
run uioctl exec database sqlite_backup -n 64 /host/copy.db
shell "python3 -c \"import sqlite3; c = sqlite3.connect('file:build/exchange/database/copy.db?mode=ro', uri=True); print(c.execute('PRAGMA integrity_check').fetchone()[0], '-', c.execute('SELECT COUNT(*) FROM log').fetchone()[0], 'rows in the copy')\""
run uioctl exec database peek rows

chapter '4. Counters: where does the time go?'
run uioctl exec database perf -i 300ms -n 2

chapter '5. Programs that cannot do harm: eBPF'
say 'Attached to a function of the running application, proven safe before it is sent, gone when the command ends.'
run uioctl trace -l database 'sqlite3_ste*'
run uioctl trace -q -d 2s database 'return:sqlite3_step { @calls = count(); @us = hist(elapsed_us); }'
say 'One that the verifier cannot prove is refused before it comes near the guest:'
cat >"$UIO_RUNTIME_DIR/wild.bpf.c" <<'C'
#include <uio/bpf.h>

UIO_ENTRY("set_count") int wild(struct uio_ctx *ctx)
{
	return *(volatile int *)ctx->args[0]; /* any address at all */
}
C
printf '$ uioctl bpf verify wild.bpf.c\n'
if uioctl bpf verify "$UIO_RUNTIME_DIR/wild.bpf.c"; then
	echo "tour: that should have been refused" >&2
	exit 1
fi
sleep "$pause"

chapter 'And when an overlay fails, it fails alone'
cat >"$UIO_RUNTIME_DIR/faulty.c" <<'C'
#include <stdio.h>

struct user {
	const char *name;
};

static struct user *volatile nobody;

int main(void)
{
	printf("looking up the user\n");
	printf("%s\n", nobody->name);
	return 0;
}
C
run uioctl overlay build "$UIO_RUNTIME_DIR/faulty.c" --kernel build/refguest/count.elf --key build/keys/demo.pem -o build/overlays/faulty.uio
printf '$ uioctl exec count faulty\n'
status=0
uioctl exec count faulty || status=$?
printf '(exit status %s)\n' "$status"
[ "$status" = 139 ]
sleep 1.2
run uioctl logs --tail 2 count
run uioctl stop count database
wait "${daemons[@]}"
daemons=()
printf '\ntour: done; nothing is left running.\n'
