# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl overlay build | sign | verify | inspect | scan | keygen`: what needs no running VM.

Results go to standard output, the rest to standard error. Exit status: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from overlays.errors import OverlayError, UnfitError

app = typer.Typer(
    no_args_is_help=True,
    help="Build, check and sign overlays.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
File = Annotated[Path, typer.Argument(help="An overlay (.uio).", show_default=False)]
Keys = Annotated[
    list[Path] | None,
    typer.Option(
        "--keys",
        "-k",
        help="A trusted public key, or a directory of them; may be given several times.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="A file with the key's passphrase; else $UIO_PASSPHRASE, else the prompt."),
]
Expires = Annotated[
    str | None,
    typer.Option(help="When the signature ends: 2027-06-30, or a time from now like 90d.", show_default=False),
]  # fmt: skip


@app.command(
    epilog="Example: uioctl overlay build hello.c -o hello.uio --kernel app.dbg --key demo.pem"
)
def build(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="C, C++, Rust, assembler, or objects.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: the first source's name, .uio.")
    ] = None,
    every: Annotated[
        Path | None,
        typer.Option("--all", help="Build every overlay of this directory instead."),
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Where --all puts them.")] = Path(),
    skip_unfit: Annotated[
        bool, typer.Option(help="With --all: leave out what this kernel has no names for.")
    ] = False,
    kernel: Annotated[
        Path | None, typer.Option(help="Check names and types against this kernel (with symbols).")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Sign with this private key.")] = None,
    passphrase_file: PassphraseFile = None,
    expires: Expires = None,
    cc: Annotated[str, typer.Option(help="The compiler: gcc, clang-14, …")] = "gcc",
    flag: Annotated[
        list[str] | None, typer.Option("--flag", help="One more option for it, e.g. --flag=-DX=1.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="The manifest as TOML; default: beside or in the source.")
    ] = None,
    split_debug: Annotated[
        Path | None, typer.Option(help="Put the debugging information there instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile sources to an overlay."""
    if bool(sources) == bool(every):
        raise typer.BadParameter("give sources, or --all DIRECTORY")
    end = moment(expires)
    with told():
        from overlays import build as builder  # noqa: PLC0415
        from overlays import inspect, keys  # noqa: PLC0415

        wanted: list[tuple[list[Path], Path]] = []
        if every:
            for name, files in builder.find_sources(every).items():
                wanted.append((files, output_dir / f"{name}.uio"))
        elif sources:
            wanted.append((sources, output or Path(sources[0].with_suffix(".uio").name)))
        private = keys.load_private(key, passphrase(key, passphrase_file)) if key else None
        described = []
        for files, target in wanted:
            try:
                built = builder.build(
                    files,
                    target,
                    kernel=kernel,
                    key=private,
                    compiler=cc,
                    flags=flag or [],
                    manifest_file=manifest,
                    not_after=end,
                    split_debug=split_debug,
                )
            except UnfitError as error:
                if not skip_unfit:
                    raise
                typer.echo(f"left out: {target.stem}: {error.message}", err=True)
                continue
            if built.compiler_output:
                typer.echo(built.compiler_output.rstrip(), err=True)
            for warning in built.warnings:
                typer.echo(f"warning: {warning}", err=True)
            if as_json:
                described.append(inspect.describe(target))
            else:
                names = ", ".join(built.overlay.manifest.imports) or "nothing"
                signed = f", signed with {key}" if key else ", not signed"
                typer.echo(f"{target}: {len(built.overlay.data)} bytes, imports {names}{signed}")
        if as_json:
            show_json(described if every else described[0])


@app.command(epilog="Example: uioctl overlay sign hello.uio --key demo.pem --expires 90d")
def sign(
    files: Annotated[
        list[Path], typer.Argument(help="Overlays; changed in place.", show_default=False)
    ],
    key: Annotated[Path, typer.Option(help="The private key.", show_default=False)],
    passphrase_file: PassphraseFile = None,
    expires: Expires = None,
    replace: Annotated[bool, typer.Option(help="Drop the signatures that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Add a signature."""
    with told():
        from overlays import inspect, keys  # noqa: PLC0415
        from overlays import sign as signer  # noqa: PLC0415

        private = keys.load_private(key, passphrase(key, passphrase_file))
        for file in files:
            signer.sign_file(file, private, not_after=moment(expires), replace=replace)
        if as_json:
            show_json({str(f): inspect.signatures(f.read_bytes()) for f in files})
        else:
            for file in files:
                typer.echo(f"{file}: signed by {keys.key_name(key)}")


@app.command(
    epilog="Examples: uioctl overlay verify hello.uio --keys /etc/uio/keys · "
    "uioctl overlay verify hello.uio --extract sig && openssl pkeyutl -verify -pubin -inkey demo.pub.pem "
    "-rawin -in sig/1.payload -sigfile sig/1.sig"
)
def verify(
    file: File,
    keys: Keys = None,
    unsigned: Annotated[
        str, typer.Option(help="What to do with files that no known key signed: refuse or warn.")
    ] = "refuse",
    extract: Annotated[
        Path | None,
        typer.Option(help="Write N.payload and N.sig there, for openssl.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether a site that trusts these keys would run it: signatures, scan, imports."""
    if not keys and extract is None:
        raise typer.BadParameter("--keys (or --extract) is needed: trust whom?")
    if unsigned not in ("refuse", "warn"):
        raise typer.BadParameter("--unsigned is refuse or warn")
    with told():
        from overlays import inspect  # noqa: PLC0415
        from overlays import sign as signer  # noqa: PLC0415
        from overlays.overlay import read_file  # noqa: PLC0415
        from overlays.trust import Trust  # noqa: PLC0415

        data = read_file(file)
        answer: dict[str, Any] = {"path": str(file)}
        if extract is not None:
            answer["extracted"] = signer.extract(data, extract)
        if keys:
            trust = Trust.load(keys, "warn" if unsigned == "warn" else "refuse")
            answer |= inspect.judge(data, file, trust)
            answer["signatures"] = _readable(data, trust)
        if as_json:
            show_json(answer)
        else:
            for entry in answer.get("extracted", []):
                typer.echo(f"{entry['key_id']}: {entry['payload']} {entry['signature']}")
            for entry in answer.get("signatures", []):
                typer.echo(f"{entry['key_id']}  {entry['state']:8}  {entry['sentence']}")
            if keys and answer["ok"]:
                by = ", ".join(answer["signed_by"])
                typer.echo(f"{file}: good" + (f", signed by {by}" if by else ""))
            for warning in answer.get("warnings", []) if keys else ():
                typer.echo(f"warning: {warning}", err=True)
        if keys and not answer["ok"]:
            fail(f"{file}: {answer['reason']}")


def _readable(data: bytes, trust: Any) -> list[dict[str, Any]]:
    from overlays import inspect  # noqa: PLC0415

    try:
        return inspect.signatures(data, trust)
    except OverlayError:  # the verdict says what is wrong with them
        return []


@app.command(
    epilog="Example: uioctl overlay inspect hello.uio --keys /etc/uio/keys --kernel app.dbg"
)
def inspect(
    file: File,
    keys: Keys = None,
    kernel: Annotated[
        Path | None, typer.Option(help="Say what each import is in this kernel.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is in an overlay."""
    with told():
        from overlays import inspect as inspector  # noqa: PLC0415
        from overlays.trust import Trust  # noqa: PLC0415

        about = inspector.describe(file, Trust.load(keys) if keys else None, kernel)
        if as_json:
            show_json(about)
        else:
            typer.echo(text_of(about))


@app.command(epilog="Example: uioctl overlay scan hello.uio")
def scan(
    files: Annotated[list[Path], typer.Argument(help="Overlays or objects.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Look for instructions that no overlay may have; status 1 if there are any."""
    with told():
        from overlays import scan as scanner  # noqa: PLC0415
        from overlays import sign as signer  # noqa: PLC0415
        from overlays.overlay import read_file  # noqa: PLC0415

        found = {str(f): scanner.scan(signer.split(read_file(f))[0]) for f in files}
        if as_json:
            fields = scanner.Finding.__slots__
            show_json(
                {f: [{k: getattr(x, k) for k in fields} for x in xs] for f, xs in found.items()}
            )
        else:
            for name, findings in found.items():
                for finding in findings:
                    typer.echo(f"{name}: {finding}")
                if not findings:
                    typer.echo(f"{name}: nothing found")
        if any(found.values()):
            raise typer.Exit(1)


@app.command(epilog="Example: uioctl overlay keygen demo.pem   (writes demo.pem and demo.pub.pem)")
def keygen(
    path: Annotated[Path, typer.Argument(help="The private key's file.", show_default=False)],
    protect: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase that protects it.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a key pair for signing."""
    with told():
        from overlays import keys  # noqa: PLC0415

        secret = given(passphrase_file)
        if protect and secret is None:
            secret = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
        public = keys.generate(path, secret)
        identity = keys.load_public(public).id.hex()
        if as_json:
            show_json({"private": str(path), "public": str(public), "key_id": identity})
        else:
            typer.echo(f"private key: {path} (keep it)")
            typer.echo(f"public key:  {public} (for the hosts' [trust] keys)")
            typer.echo(f"key id:      {identity}")


# What the commands share.


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors of this package become a sentence on standard error and status 1."""
    try:
        yield
    except OverlayError as error:
        fail(error.message, error.hint)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def fail(message: str, hint: str = "") -> None:
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(hint, err=True)
    raise typer.Exit(1)


def show_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def given(file: Path | None) -> str | None:
    """A passphrase from a file or the environment."""
    if file is not None:
        return file.read_text().rstrip("\n")
    return os.environ.get("UIO_PASSPHRASE")


def passphrase(key: Path | None, file: Path | None) -> str | None:
    """The passphrase of a private key that has one."""
    from overlays import keys  # noqa: PLC0415

    if key is None or not keys.is_encrypted(key):
        return None
    secret = given(file)
    if secret is None and sys.stdin.isatty():
        secret = typer.prompt(f"Passphrase of {key}", hide_input=True, err=True)
    return secret


def moment(text: str | None) -> int:
    """Unix seconds of a date or a time from now; 0 for none."""
    if text is None:
        return 0
    now = datetime.datetime.now(datetime.UTC)
    if match := re.fullmatch(r"(\d{1,5})([dhm])", text):
        unit = {"d": "days", "h": "hours", "m": "minutes"}[match[2]]
        return int((now + datetime.timedelta(**{unit: int(match[1])})).timestamp())
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date: write 2027-06-30 or 90d") from None
    when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
    if when <= now:
        raise typer.BadParameter(f"{text} is in the past")
    return int(when.timestamp())


def text_of(about: dict[str, Any]) -> str:
    """The output of inspect for people."""
    manifest = about["manifest"]
    image = about["image"]
    rows = [
        ("name", f"{manifest['name']} {manifest['version']}"),
        ("description", manifest["description"]),
        ("usage", f"{manifest['name']} {manifest['usage']}".rstrip()),
        ("sha256", about["hash"]),
        ("size", f"{about['size']} bytes, {image.get('size', image.get('error'))} in the guest"),
        ("imports", ", ".join(i["name"] + (" (weak)" if i["weak"] else "") for i in about["imports"])),
        ("domain", f"application {manifest['app']}, {manifest['domain']}"),
        ("limits", f"stack {manifest['stack']}, memory {manifest['memory'] or 'any'}, "
                   f"time {manifest['timeout_ms'] or 'any'}" + (" ms" if manifest["timeout_ms"] else "")),
    ]  # fmt: skip
    for segment in image.get("segments", ()):
        rows.append(
            ("segment", f"{segment['prot']} {segment['offset']:#8x} {segment['size']} bytes")
        )
    for entry in about["signatures"]:
        state = entry.get("sentence") or (
            f"until {entry['expires']}" if entry["expires"] else "no end"
        )
        rows.append(("signature", f"{entry['key_id']} ({state})"))
    if not about["signatures"]:
        rows.append(("signature", "none"))
    rows += [("found", finding) for finding in about["findings"]]
    if "verdict" in about:
        verdict = about["verdict"]
        rows.append(("verdict", "good" if verdict["ok"] else f"refused: {verdict['reason']}"))
    if "kernel" in about:
        kernel = about["kernel"]
        rows.append(("kernel", f"{kernel['path']} {kernel['build_id']}"))
        if not kernel["ok"]:
            rows.append(("does not fit", kernel["reason"]))
        for name, target in kernel.get("imports", {}).items():
            rows.append(
                ("import", f"{name} = {target['symbol']} {target['address']:#x} ({target['kind']})"
                 if target else f"{name} is not there (weak)")
            )  # fmt: skip
    if manifest["help"]:
        rows.append(("help", manifest["help"].rstrip()))
    return "\n".join(f"{label + ':':13} {value}" for label, value in rows if value)
