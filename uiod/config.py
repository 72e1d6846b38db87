# SPDX-License-Identifier: BSD-3-Clause
"""The configuration of one VM: TOML as declared here, every mistake with its key and line.

`load` gives a `Config` that is complete: sizes are numbers, paths are absolute (relative ones count from the file's
directory), defaults are filled in. What is on the other end of the paths is checked by who uses them.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from uiod import toml_lines
from uiod.errors import ExitStatus, UiodError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_FORWARD = re.compile(
    r"(?P<protocol>tcp|udp):(?P<host>[0-9.]*):(?P<port>\d{1,5})-(?P<guest>[0-9.]*):(?P<to>\d{1,5})"
)


_SIZE_TEXT = 'bytes: a number, or text such as "128M" (K, M, G, T are powers of 1024)'
Size = Annotated[int, msgspec.Meta(description=_SIZE_TEXT)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$")]
Word = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,31}$")]
Interface = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Mac = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]


class _Table(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the tables."""


class Vm(_Table):
    """[vm]: the machine."""

    kernel: Path
    name: Name = ""
    symbols: Path | None = None  # ELF with symbols; default: the kernel itself
    initrd: Path | None = None
    memory: Size = 128 << 20
    cpus: Annotated[int, msgspec.Meta(ge=1, le=255)] = 1
    machine: Literal["q35", "pc", "microvm"] = "q35"
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    append: str = ""
    qemu: str = "qemu-system-x86_64"
    extra: list[str] = []  # further arguments for QEMU, as they are
    ready_timeout_s: Seconds = 60.0
    stop_timeout_s: Seconds = 10.0


class Share(_Table):
    """[[share]]: a directory as virtio-9p device, served by QEMU."""

    tag: Word
    path: Path
    readonly: bool = True
    # "mapped": owners and modes in extended attributes, nothing that the guest makes is special on the host.
    security: Literal["mapped", "none"] = "mapped"


class Net(_Table):
    """[[net]]: a network interface."""

    kind: Literal["user", "tap", "bridge", "socket"]
    forward: list[str] = []  # user: "tcp:127.0.0.1:8080-:80"
    ifname: Interface | None = None  # tap
    bridge: Interface | None = None  # bridge
    connect: str | None = None  # socket: "127.0.0.1:1234"
    listen: str | None = None
    mac: Mac | None = None
    model: Literal["virtio-net-pci", "e1000"] = "virtio-net-pci"


class Uio(_Table):
    """[uio]: what the guest may use of the host."""

    overlays: list[Path] = []
    exchange: Path | None = None
    exchange_max_bytes: Size | None = None
    exchange_max_files: int | None = None
    mount: bool = False
    group: str | None = None  # members may use the API
    log_bytes: Size = 8 << 20  # of the serial log on disk, in all
    confine: Literal["auto", "require", "off"] = "auto"  # Landlock, seccomp, capabilities
    domain: Literal["auto", "require"] = "auto"  # for overlays: protection keys in the guest
    readable: list[Path] = []  # more files that QEMU needs, such as those named in [vm] extra
    writable: list[Path] = []
    exec_timeout_s: Seconds = 0.0  # for commands that bring none; 0: none


class Trust(_Table):
    """[trust]: whose overlays run."""

    keys: list[Path] = []
    unsigned: Literal["refuse", "warn"] = "refuse"
    bpf: Literal["verified", "checked"] = "verified"


class Limits(_Table):
    """[limits]: of the VM's cgroup, QEMU and uiod together."""

    memory: Size | None = None
    memory_high: Size | None = None
    cpu: Annotated[float, msgspec.Meta(gt=0)] | None = None  # cores
    cpu_weight: Annotated[int, msgspec.Meta(ge=1, le=10000)] | None = None
    pids: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cgroup: Literal["auto", "require", "off"] = "auto"


class Restart(_Table):
    """[restart]: what happens when the VM ends by itself."""

    policy: Literal["never", "on-failure", "always"] = "never"
    delay_s: Seconds = 1.0  # doubled each time up to max_delay_s, anew after a minute of running
    max_delay_s: Seconds = 60.0
    max_tries: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: no end


class Document(_Table):
    """A whole file."""

    vm: Vm
    share: list[Share] = []
    net: list[Net] = []
    uio: Uio = msgspec.field(default_factory=Uio)
    trust: Trust = msgspec.field(default_factory=Trust)
    limits: Limits = msgspec.field(default_factory=Limits)
    restart: Restart = msgspec.field(default_factory=Restart)


class Config(Document, kw_only=True):
    """A checked file, and where it is."""

    file: Path

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.vm.name

    @property
    def symbols(self) -> Path:
        """The ELF that overlays are linked against."""
        return self.vm.symbols or self.vm.kernel


_TABLES: dict[str, tuple[type[_Table], bool]] = {
    "vm": (Vm, False),
    "share": (Share, True),
    "net": (Net, True),
    "uio": (Uio, False),
    "trust": (Trust, False),
    "limits": (Limits, False),
    "restart": (Restart, False),
}


class ConfigError(UiodError):
    """A configuration with mistakes, one line of text for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes), status=ExitStatus.CONFIG)
        self.mistakes = mistakes


def parse_size(text: str | int) -> int:
    """`"128M"` or a number. :raise ValueError: it is no size."""
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError('expected a size such as 134217728 or "128M"')  # noqa: TRY004 - a mistake in a file
    if isinstance(text, int):
        value = float(text)
    else:
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f'{text!r} is no size; write a number of bytes, or K, M, G or T behind it: "128M"'
            )
        value = float(match[1]) * _UNITS[match[2].upper()]
    if not 0 <= value < 1 << 50:
        raise ValueError(f"{text!r} is no sensible size")
    return int(value)


class _Checker:
    """Collects all mistakes of one file."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self.base = file.absolute().parent
        self.lines = toml_lines.lines(text)
        self.mistakes: list[tuple[int, str]] = []

    def mistake(self, path: toml_lines.Path, message: str) -> None:
        line = 0
        for end in range(len(path), -1, -1):
            if line := self.lines.get(path[:end], 0):
                break
        where = ".".join(str(part) for part in path if not isinstance(part, int))
        index = next((f"[{part}]" for part in path if isinstance(part, int)), "")
        place = f"{self.file}:{line}" if line else str(self.file)
        self.mistakes.append((line, f"{place}: {where}{index and ' ' + index}: {message}"))

    def unknown(self, path: toml_lines.Path, known: list[str]) -> None:
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        what = "key" if len(path) > 1 else "table"
        advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        self.mistake(path, f"unknown {what}; {advice}")

    def convert(self, kind: Any, value: Any) -> Any:
        if kind == Size:
            return parse_size(value)
        if kind is Path:
            if not isinstance(value, str) or not value or "\0" in value:
                raise ValueError("expected a path")
            return Path(os.path.normpath(self.base / Path(value).expanduser()))
        if get_origin(kind) is list:
            if not isinstance(value, list):
                raise ValueError('expected a list, in brackets: ["…"]')
            return [self.convert(get_args(kind)[0], item) for item in value]
        options = [option for option in get_args(kind) if option is not type(None)]
        if type(None) in get_args(kind) and len(options) == 1:
            return self.convert(options[0], value)
        return msgspec.convert(value, kind)

    def table(self, kind: type[_Table], path: toml_lines.Path, value: Any) -> _Table | None:
        if not isinstance(value, dict):
            brackets = f"[[{path[0]}]]" if _TABLES[str(path[0])][1] else f"[{path[0]}]"
            self.mistake(path, f"expected a table: write {brackets} on a line of its own")
            return None
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        good = True
        for key, item in value.items():
            field = fields.get(key)
            if field is None:
                self.unknown((*path, key), list(fields))
                continue
            try:
                values[key] = self.convert(field.type, item)
            except (msgspec.ValidationError, ValueError) as error:
                self.mistake((*path, key), _words(str(error), field.type))
                good = False
        for field in fields.values():
            if field.required and field.name not in value:
                self.mistake(path, f"the key {field.name!r} is missing")
                good = False
        return kind(**values) if good else None


def _words(message: str, kind: Any) -> str:
    """msgspec's message for people."""
    if "Invalid enum value" in message:
        for option in (kind, *get_args(kind)):
            if get_origin(option) is Literal:
                return f"{message.split('Invalid enum value ')[1]} is none of {', '.join(get_args(option))}"
    if "matching regex" in message:
        return f"not of the form {message.split('matching regex ')[1]}"
    message = message.split(" - at `", maxsplit=1)[0]
    return message[0].lower() + message[1:]


def load(file: Path) -> Config:
    """Read and check a configuration. :raise ConfigError: it has mistakes, or cannot be read."""
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise ConfigError([f"{file}: {error.strerror}; give the path of a configuration"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{file}: no UTF-8 text, so no configuration"]) from None
    return parse(text, file)


def parse(text: str, file: Path) -> Config:
    """As `load`, of a text. :raise ConfigError: it has mistakes."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"\(at line (\d+), column \d+\)", str(error))
        place = f"{file}:{match[1]}" if match else str(file)
        message = str(error).split(" (at ")[0]
        raise ConfigError([f"{place}: no TOML: {message}"]) from None
    check = _Checker(file, text)
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in _TABLES:
            check.unknown((key,), list(_TABLES))
            continue
        kind, several = _TABLES[key]
        if not several:
            values[key] = check.table(kind, (key,), value)
        elif not isinstance(value, list):
            check.mistake((key,), f"there may be several: write [[{key}]]")
        else:
            values[key] = [check.table(kind, (key, i), item) for i, item in enumerate(value)]
    if "vm" not in document:
        check.mistake((), 'the table [vm] is missing; it needs at least kernel = "…"')
    for rule in _RULES:
        for path, message in rule(values):
            check.mistake(path, message)
    if not check.mistakes and not values["vm"].name:
        try:
            values["vm"].name = msgspec.convert(file.stem, Name)
        except msgspec.ValidationError:
            check.mistake(("vm",), f'{file.stem!r} cannot be a VM\'s name; set name = "…"')
    if check.mistakes:
        raise ConfigError([message for _, message in sorted(check.mistakes)])
    return Config(**values, file=file.absolute())


# What no single value shows

Mistakes = Iterator[tuple[toml_lines.Path, str]]


def _memory(values: dict[str, Any]) -> Mistakes:
    vm, limits = values.get("vm"), values.get("limits")
    if vm and not 1 << 20 <= vm.memory <= 1 << 42:
        yield (
            ("vm", "memory"),
            f'{vm.memory} bytes is no memory for a VM; write a size such as "128M"',
        )
    if vm and limits and limits.memory is not None and limits.memory < vm.memory + (32 << 20):
        yield (
            ("limits", "memory"),
            f"{limits.memory >> 20}M leaves QEMU and uiod no room beside the guest's {vm.memory >> 20}M; "
            f"give at least {(vm.memory >> 20) + 64}M",
        )


def _tags(values: dict[str, Any]) -> Mistakes:
    seen = set()
    for i, share in enumerate(values.get("share", [])):
        if share and share.tag in seen:
            yield ("share", i, "tag"), f"{share.tag!r} is used by another share"
        if share:
            seen.add(share.tag)


_NET_KEYS = {
    "user": {"forward"},
    "tap": {"ifname"},
    "bridge": {"bridge"},
    "socket": {"connect", "listen"},
}


def _nets(values: dict[str, Any]) -> Mistakes:
    for i, net in enumerate(values.get("net", [])):
        if net is None:
            continue
        given = {key for keys in _NET_KEYS.values() for key in keys if getattr(net, key)}
        for key in sorted(given - _NET_KEYS[net.kind]):
            yield ("net", i, key), f"means nothing for kind = {net.kind!r}"
        if net.kind == "bridge" and net.bridge is None:
            yield ("net", i), "kind = 'bridge' needs bridge = \"NAME\""
        if net.kind == "socket" and (net.connect is None) == (net.listen is None):
            yield ("net", i), "kind = 'socket' needs either connect or listen = \"HOST:PORT\""
        for key in ("connect", "listen"):
            address = getattr(net, key)
            if address is not None and not re.fullmatch(r"[0-9.]*:\d{1,5}", address):
                yield ("net", i, key), f"{address!r} is not of the form 127.0.0.1:1234"
        for forward in net.forward:
            match = _FORWARD.fullmatch(forward)
            if match is None or not 0 < int(match["to"]) < 65536 > int(match["port"]):
                yield (
                    ("net", i, "forward"),
                    f"{forward!r} is not of the form tcp:127.0.0.1:8080-:80",
                )


def _machine(values: dict[str, Any]) -> Mistakes:
    vm = values.get("vm")
    for i, net in enumerate(values.get("net", [])):
        if vm and net and vm.machine == "microvm" and net.model == "e1000":
            yield ("net", i, "model"), "microvm has no PCI bus, so no e1000"


_RULES: tuple[Callable[[dict[str, Any]], Mistakes], ...] = (_memory, _tags, _nets, _machine)


def schema() -> dict[str, Any]:
    """JSON schema of the file, for editors."""

    def hook(kind: type) -> dict[str, Any]:
        if issubclass(kind, Path):
            return {
                "type": "string",
                "description": "a path; relative ones count from the file's directory",
            }
        raise NotImplementedError(kind)

    found = msgspec.json.schema(Document, schema_hook=hook)
    _allow_texts(found)
    return found


def _allow_texts(part: Any) -> None:
    # A size is a number for us, and may be a text in the file.
    if isinstance(part, dict):
        if part.get("description") == _SIZE_TEXT and part.get("type") == "integer":
            part["type"] = ["integer", "string"]
        for value in part.values():
            _allow_texts(value)
    elif isinstance(part, list):
        for value in part:
            _allow_texts(value)
