#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# `fetch.sh DIR [PYTHON]`: put Monocypher's monocypher.c and monocypher.h (BSD-2-Clause or CC0-1.0) into DIR, from the
# source distribution of the Python package that carries them. Its digest is fixed here.
set -eu
PACKAGE=pymonocypher-4.0.2.6
SHA256=0b916b6e2d7c13f4eb90765dc733440761665f763532b070ef16af05bb52b38a
directory=$1
python=${2:-python3}

[ -f "$directory/monocypher.c" ] && [ -f "$directory/monocypher.h" ] && exit 0
mkdir -p "$directory/download"
"$python" -m pip download -q --no-deps --no-binary pymonocypher -d "$directory/download" \
  "pymonocypher==${PACKAGE#pymonocypher-}" || {
  echo "fetch.sh: Monocypher cannot be fetched; put monocypher.c and monocypher.h (version 4) somewhere and say MONOCYPHER=DIR" >&2
  exit 1
}
echo "$SHA256  $directory/download/$PACKAGE.tar.gz" | sha256sum -c --quiet -
tar -xzf "$directory/download/$PACKAGE.tar.gz" -C "$directory/download"
mv "$directory/download/$PACKAGE/monocypher.h" "$directory/download/$PACKAGE/monocypher.c" "$directory/"
rm -r "$directory/download"
