#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# `build.sh ROOT VERSION DIRECTORY`: make what `make install DESTDIR=ROOT` has put there into a Debian package (`make deb`).
# What is in it is root's, has the time of the last commit, and is the same when it is built again.
set -eu
root=$1 version=$2 directory=$3
here=$(dirname "$0")
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
doc=$root/usr/share/doc/uio

# 1. As Debian wants it: license, changelog, packed manual, byte code by its own tools.
sed 's/^$/./; s/^/ /' "$doc/LICENSE" >"$root/license"
sed -e "/@LICENSE@/{r $root/license" -e 'd}' "$here/copyright" >"$doc/copyright"
rm "$doc/LICENSE" "$root/license"
printf 'uio (%s) unstable; urgency=medium\n\n  * See the history of its repository.\n\n -- %s  %s\n' "$version" \
	"$(sed -n 's/^Maintainer: //p' "$here/control.in")" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" |
	gzip -9n >"$doc/changelog.gz"
find "$root/usr/share/man" -type f ! -name '*.gz' -exec gzip -9n {} +
find "$root/usr/lib/uio/python" -type d \( -name tests -o -name _tests \) -prune -exec rm -r {} +
find "$root" -name __pycache__ -prune -exec rm -r {} +
find "$root/usr/lib/uio/python" -name '*.so*' -type f -exec strip --strip-unneeded {} +
find "$root" -type d -exec chmod 755 {} +
find "$root/usr/lib/uio/python" -name "*.so*" -exec chmod 644 {} +
find "$root" -type f ! -perm /111 -exec chmod 644 {} +

# 2. What dpkg is told.
python=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
mkdir -p "$root/DEBIAN"
(cd "$root" && find usr etc -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
size=$(du -ks --apparent-size --exclude=DEBIAN "$root" | cut -f1)
sed "s/@VERSION@/$version/; s/@SIZE@/$size/; s/@PYTHON@/$python/; s/@NEXT@/$next/" \
	"$here/control.in" >"$root/DEBIAN/control"
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN/"

# 3. The package.
find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz --build "$root" "$directory/uio_${version}_amd64.deb"
