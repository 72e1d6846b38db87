# SPDX-License-Identifier: BSD-3-Clause
"""The messages of an exec stream (docs/api.md): header `type u8, pad[3], length u32`, then the payload. No sockets."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from uiod.ctl.errors import ProtocolError

STDIN, STDOUT, STDERR, EXIT, WINDOW, SIGNAL, END_OF_STDIN = range(7)
PAYLOAD_MAX = 65_536
_HEADER = struct.Struct("<B3xI")


def message(kind: int, payload: bytes = b"") -> bytes:
    """One message."""
    return _HEADER.pack(kind, len(payload)) + payload


def window(rows: int, columns: int) -> bytes:
    """The message about the terminal's size."""
    return message(WINDOW, struct.pack("<HH", min(rows, 65_535), min(columns, 65_535)))


def signal(number: int) -> bytes:
    """The message that interrupts (2) or ends (9) the command."""
    return message(SIGNAL, bytes([number]))


class Decoder:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(type, payload) of all messages that are complete now.

        :raise ProtocolError: a type or a length that no daemon sends
        """
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _HEADER.size:
            kind, length = _HEADER.unpack_from(buffer, at)
            if length > PAYLOAD_MAX or kind not in (STDOUT, STDERR, EXIT):
                raise ProtocolError("uiod sent something that is no exec message")
            end = at + _HEADER.size + length
            if len(buffer) < end:
                break
            yield kind, bytes(buffer[at + _HEADER.size : end])
            at = end
        del buffer[:at]
