# SPDX-License-Identifier: BSD-3-Clause
"""Sessions with the guest's eBPF machine (docs/bpf.md): only objects that the verifier has seen go there.

A session belongs to a client, whose stream it is, or is held here until somebody detaches it. The verifier runs in a
forked child, so that neither its memory nor its time is the daemon's.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

import trio

from uiod import aside
from uiod.apitypes import BpfRequest, BpfSession, ExecRequest, ExitInfo
from uiod.http import Refused

if TYPE_CHECKING:
    from uiod.guest import Execution, Guest

_FLAGS_AT, _VERIFIED = 12, 1  # in the header of an object
_HEADER_BYTES = 64
_MESSAGE = struct.Struct("<BBHI")
_PLACE = struct.Struct("<IIQ")
_LOAD, _ATTACH, _OK, _ERROR = 1, 2, 0x80, 0x81
_LOAD_SEQ = 1  # of the answer to LOAD, which the client gets
_PROGRAMS_MAX = 256
_NO_TIMEOUT_MS = (1 << 32) - 1
_ANSWER_S = 30.0

Policy = Literal["verified", "checked"]


def _judge(wire: bytes) -> str:
    """In the child: why the object is refused; empty if it is not."""
    from overlays.bpf import verifier  # noqa: PLC0415
    from overlays.bpf.model import from_wire  # noqa: PLC0415
    from overlays.errors import OverlayError  # noqa: PLC0415

    try:
        for report in verifier.verify(from_wire(wire)):
            if not report.accepted:
                return str(report)
    except OverlayError as error:
        return str(error)
    return ""


async def examine(text: str, policy: Policy) -> bytes:
    """The object as it is sent: marked as verified if it is.

    :raise Refused: it is none, or the verifier refuses it and the policy does not let it through
    """
    try:
        wire = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "object is not in base64") from None
    if len(wire) < _HEADER_BYTES:
        raise Refused(400, "object is no BPF object")
    try:
        reason = await aside.run(lambda: _judge(wire))
    except aside.Failed as error:
        reason = f"the verifier came to no end: {error}"
    if reason and policy == "verified":
        raise Refused(
            422, reason, 'only what the verifier accepts runs here: [trust] bpf = "verified"'
        )
    flags = struct.pack("<I", 0 if reason else _VERIFIED)
    return wire[:_FLAGS_AT] + flags + wire[_FLAGS_AT + 4 :]


@contextlib.asynccontextmanager
async def session(guest: Guest, wire: bytes) -> AsyncIterator[Execution]:
    """A session that has been sent its object; the guest's answer has the number 1."""
    argv = ["bpf", "session"]
    if not wire[_FLAGS_AT] & _VERIFIED:
        argv.append("unverified")
    request = ExecRequest(argv=argv, stdin=True, timeout_ms=_NO_TIMEOUT_MS)
    async with guest.exec(request) as execution:
        await execution.send(_MESSAGE.pack(_LOAD, 0, _LOAD_SEQ, len(wire)) + wire)
        yield execution


class _Answers:
    """Messages of a held session, of which only the answers count."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._data = bytearray()

    async def next(self) -> tuple[int, bytes]:
        """Type and payload of the next answer to a request. :raise Refused: the session has ended."""
        while True:
            while len(self._data) >= _MESSAGE.size:
                kind, _, seq, length = _MESSAGE.unpack_from(self._data)
                if length > 1 << 16:
                    raise Refused(502, "the guest's answer is no message of a BPF session")
                end = _MESSAGE.size + length
                if len(self._data) < end:
                    break
                payload = bytes(self._data[_MESSAGE.size : end])
                del self._data[:end]
                if seq:
                    return kind, payload
            got = await self._execution.receive()
            if isinstance(got, ExitInfo):
                raise Refused(502, got.message or "the guest has ended the session")
            stream, data = got
            self._data += data
            self._execution.passed_on(stream, len(data))

    async def number(self, what: str) -> int:
        """That of an OK. :raise Refused: it is an error."""
        kind, payload = await self.next()
        if kind == _OK and len(payload) == 4:
            return int.from_bytes(payload, "little")
        reason = payload[4:400].decode("utf-8", "replace") if kind == _ERROR else "no answer"
        raise Refused(422, f"{what}: {reason}")


async def hold(
    guest: Guest, wire: bytes, request: BpfRequest, task_status: trio.TaskStatus[BpfSession]
) -> None:
    """Attach, and keep it so until somebody ends the session; what its programs say is thrown away.

    :raise Refused: something of it cannot be done; then nothing of it stays
    """
    async with session(guest, wire) as execution:
        answers = _Answers(execution)
        with trio.move_on_after(_ANSWER_S) as scope:
            number = await answers.number("load")
            for index, (program, address) in enumerate(request.attach):
                place = _PLACE.pack(program, 0, address)
                await execution.send(_MESSAGE.pack(_ATTACH, 0, 2 + index, len(place)) + place)
                await answers.number(f"program {program}")
        if scope.cancelled_caught:
            raise Refused(504, "the guest does not answer")
        task_status.started(BpfSession(session=number))
        with contextlib.suppress(Refused):
            while True:
                await answers.next()


def check(request: BpfRequest) -> None:
    """:raise Refused: places that make no sense"""
    if len(request.attach) > _PROGRAMS_MAX:
        raise Refused(400, f"more than {_PROGRAMS_MAX} places")
    for program, address in request.attach:
        if not (0 <= program < 1 << 16 and 0 <= address < 1 << 64):
            raise Refused(400, "attach is a list of [program, address]")
