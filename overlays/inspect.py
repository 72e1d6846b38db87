# SPDX-License-Identifier: BSD-3-Clause
"""Everything there is to know about an overlay file, as plain data for people and for --json."""

from __future__ import annotations

import collections
import hashlib
import time
from pathlib import Path
from typing import Any

import msgspec

from overlays import link, scan, sign
from overlays.errors import OverlayError
from overlays.kernel import Kernel
from overlays.overlay import Overlay, read_file
from overlays.store import admit
from overlays.trust import Trust

_PROT = {5: "r-x", 1: "r--", 3: "rw-"}
_RELOCS = {kind: rule.name for kind, rule in link.RULES.items()}


def describe(path: Path, trust: Trust | None = None, kernel: Path | None = None) -> dict[str, Any]:
    """
    :param trust: judge the signatures by it; without it they are listed only.
    :param kernel: also say what each import is in this kernel.
    :raise OverlayError: it is no overlay at all.
    """
    data = read_file(path)
    overlay = Overlay.parse(data, path)
    obj = overlay.object
    about: dict[str, Any] = {
        "path": str(path),
        "size": len(data),
        "hash": overlay.hash.hex(),
        "elf_hash": hashlib.sha256(overlay.elf).hexdigest(),
        "manifest": msgspec.to_builtins(overlay.manifest),
        "imports": [_import(s.name, s.bind == 2) for s in link.imports(obj)],
        "sections": [
            {"name": s.name, "size": s.size, "flags": _flags(s)} for s in obj.allocated() if s.size
        ],
        "relocations": dict(
            collections.Counter(
                _RELOCS.get(r.type, f"type {r.type}") for rs in obj.relocs.values() for r in rs
            )
        ),
        "debug_information": any(s.name.startswith(".debug_info") for s in obj.sections),
    }
    try:
        plan = link.layout(obj)
        about["image"] = {
            "size": plan.size,
            "segments": [
                {"offset": s.offset, "size": s.mem_size, "file_size": s.file_size, "prot": _PROT[s.prot]}
                for s in plan.segments
            ],
        }  # fmt: skip
    except OverlayError as error:
        about["image"] = {"error": error.message}
    about["findings"] = [str(f) for f in scan.scan(overlay.elf)]
    about["signatures"] = signatures(data, trust)
    if trust is not None:
        about["verdict"] = judge(data, path, trust)
    if kernel is not None:
        about["kernel"] = _against(overlay, Kernel.open(kernel))
    return about


def judge(data: bytes, path: Path, trust: Trust) -> dict[str, Any]:
    """Whether a store with this trust would offer the file, and why (not)."""
    verdict = sign.verify(data, trust)
    reason = verdict.reason
    if verdict.ok:
        try:
            admit(Overlay.parse(data, path), trust)
        except OverlayError as error:
            reason = error.message
    return {
        "ok": not reason,
        "reason": reason,
        "signed_by": verdict.signed_by,
        "warnings": verdict.warnings,
    }


def signatures(data: bytes, trust: Trust | None = None) -> list[dict[str, Any]]:
    """The signature blocks; with a trust, also what it thinks of each."""
    _, blocks = sign.split(data)
    infos = sign.verify(data, trust).signatures if trust else []
    out = []
    for number, block in enumerate(blocks):
        entry: dict[str, Any] = {
            "key_id": block.key_id.hex(),
            "not_after": block.not_after or None,
            "expires": sign.date(block.not_after) if block.not_after else None,
            "expired": bool(block.not_after and time.time() >= block.not_after),
        }
        if infos:
            entry |= {"key": infos[number].key, "state": infos[number].state,
                      "sentence": infos[number].sentence}  # fmt: skip
        out.append(entry)
    return out


def _import(name: str, weak: bool) -> dict[str, Any]:
    return {"name": name, "weak": weak}


def _flags(section: Any) -> str:
    return "r" + ("w" if section.writable else "-") + ("x" if section.executable else "-")


def _against(overlay: Overlay, kernel: Kernel) -> dict[str, Any]:
    found: dict[str, Any] = {"path": str(kernel.path), "build_id": kernel.build_id.hex()}
    try:
        targets = link.resolve(overlay, kernel)
    except OverlayError as error:
        return found | {"ok": False, "reason": error.message, "hint": error.hint}
    found["ok"] = True
    found["imports"] = {
        overlay.object.symbols[index].name: (
            {"symbol": target.name, "address": target.address, "kind": target.kind}
            if target
            else None
        )
        for index, target in targets.items()
    }
    return found
