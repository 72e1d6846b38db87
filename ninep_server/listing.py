# SPDX-License-Identifier: BSD-3-Clause
"""A directory's entries in the form of Rreaddir."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ninep_server.backend import ENTRY, Listing, oserror
from ninep_server.messages import QTDIR, QTFILE, QTSYMLINK, Qid

_DT_DIR, _DT_REG, _DT_LNK, _DT_UNKNOWN = 4, 8, 10, 0
_DOT = ord(".")


def list_directory(
    fd: int,
    dots: tuple[Qid, Qid],
    hidden: tuple[bytes, ...],
    number: Callable[[int], int] | None,
    limit: int,
) -> Listing:
    """List the directory that is open at fd.

    :param dots: what `.` and `..` are.
    :param hidden: prefixes of names that are left out.
    :param number: what makes a qid's path of an inode number; None: they are the same.
    :raise OSError: ENOMEM if the listing is longer than the limit.
    """
    # Directories are long: one loop, in which every call counts. All prefixes may begin with a dot, then one look at
    # the first letter is enough; types come from the directory itself, without a keyword argument and its dictionary.
    listing = Listing()
    data, add, pack, fixed = listing.data, listing.starts.append, ENTRY.pack, ENTRY.size
    dotted = all(prefix[:1] == b"." for prefix in hidden)
    end = 0
    for name, qid in zip((b".", b".."), dots, strict=True):
        end += fixed + len(name)
        data += pack(qid.type, 0, qid.path, end, _DT_DIR, len(name)) + name
        add(end)
    # By this path and not by descriptor: names come as bytes, and two listings share no position.
    with os.scandir(b"/proc/self/fd/%d" % fd) as found:
        for entry in found:
            name = entry.name
            if (not dotted or name[0] == _DOT) and name.startswith(hidden):
                continue
            if entry.is_symlink():
                kind, qtype = _DT_LNK, QTSYMLINK
            elif entry.is_file():
                kind, qtype = _DT_REG, QTFILE
            elif entry.is_dir():
                kind, qtype = _DT_DIR, QTDIR
            else:
                kind, qtype = _DT_UNKNOWN, QTFILE
            size = len(name)
            end += fixed + size
            if end > limit:
                raise oserror(errno.ENOMEM)
            inode = entry.inode()
            data += pack(qtype, 0, number(inode) if number else inode, end, kind, size)
            data += name
            add(end)
    return listing
