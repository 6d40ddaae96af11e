"""Options that several commands share, each with its environment variable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from slimbind.errors import UsageError

Model = Annotated[
    str, typer.Option("--model", "-m", envvar="SLIMBIND_MODEL", help="A known name, a folder or hf://org/repo.")
]
Modality = Annotated[
    str,
    typer.Option(
        "--modality",
        "--modalities",
        envvar="SLIMBIND_MODALITY",
        help="auto (by file type) | vision | text | audio | depth | thermal | imu.",
    ),
]
Modalities = Annotated[
    str,
    typer.Option("--modalities", "--modality", help="Only these towers, separated by commas; all by default."),
]
BatchSize = Annotated[
    int | None, typer.Option(envvar="SLIMBIND_BATCH_SIZE", min=1, help="Most items in one forward pass.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        envvar="SLIMBIND_THREADS", min=1, help="Cores for decoding and engine together (default: all we may)."
    ),
]
MemoryBudget = Annotated[
    str | None,
    typer.Option(envvar="SLIMBIND_MEMORY_BUDGET", help="Close towers to stay below this, for example 500MB or 2GiB."),
]
Device = Annotated[
    str,
    typer.Option(
        envvar="SLIMBIND_DEVICE",
        help="cpu, or for split models also cuda, or for example cuda:1,f16,compile (see docs/gpu.md).",
    ),
]
Progress = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", envvar="SLIMBIND_PROGRESS", help="Default: only on a terminal."),
]
IndexPath = Annotated[
    Path | None,
    typer.Option(
        "--index", envvar="SLIMBIND_INDEX", help="The index folder (default: slimbind/index in your data folder)."
    ),
]
Table = Annotated[str, typer.Option("--table", help="The table there.")]
Codec = Annotated[
    str,
    typer.Option(
        "--codec",
        envvar="SLIMBIND_CODEC",
        help="What a new collection is searched with: auto (by its size), f32 (exact), sq8, ... (see docs/codecs.md).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def only_modality(value: str) -> str | None:
    """The modality named on the command line; None for ``auto``.

    Raises:
        UsageError: it is neither.
    """
    from slimbind.modalities import MODALITIES

    if value == "auto":
        return None
    if value not in MODALITIES:
        raise UsageError.unknown("modality", value, ["auto", *MODALITIES])
    return value


def modality_list(value: str) -> list[str] | None:
    """The modalities named on the command line, separated by commas; None for all.

    Raises:
        UsageError: one is unknown.
    """
    from slimbind.modalities import check_modality

    return [check_modality(name.strip()) for name in value.split(",") if name.strip()] or None


def index_folder(given: Path | None) -> Path:
    """The index folder asked for, or the default; ``~`` is resolved, because shells leave it in ``--index=~/photos``.

    Raises:
        UsageError: there is no such home folder, or an address was given.
    """
    from slimbind.collection import default_location

    try:
        place = default_location() if given is None else given.expanduser()
    except RuntimeError as error:  # a user without a home, as containers have
        raise UsageError(f"the index has no place: {error}", hint="name a folder with --index") from error
    # A path has made one / of two; C:\ is a drive. The rest of an address may hold a password.
    if found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\]", str(place)):
        raise UsageError(
            f"{found[1]}://... is an address, not a folder",
            hint="`slimbind push` writes there, and `slimbind search` asks there",
        )
    return place


def keep_codec(own: str, asked: str, dim: int | None) -> None:
    """Say that a collection that is there keeps its codec, where another one was asked for.

    Raises:
        UsageError: there is no such codec.
    """
    from slimbind.cli import console
    from slimbind.collection.codes import check

    if (wanted := check(asked, dim)) not in (own, "auto"):
        console.say(f"the codec stays {own}: `slimbind collection compact --codec {wanted}` changes it")


def lasting(source: str) -> str:
    """A model's name as it can be kept: folders by their absolute path, all else as it is."""
    import os

    from slimbind.hub.known import find

    return os.path.abspath(source) if find(source) is None and os.path.isdir(source) else source
