"""How ``slimbind eval`` commands name data: the options they share, and what they open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import options
from slimbind.errors import UsageError

if TYPE_CHECKING:
    from slimbind.datasets import Dataset

Data = Annotated[Path, typer.Argument(metavar="DATA", help="A file or folder (see docs/evaluation.md).")]
Other = Annotated[
    Path | None,
    typer.Argument(
        metavar="[OTHER]", help="A second folder, in which partners have the same names.", show_default=False
    ),
]
BothSides = Annotated[
    str, typer.Option("--modalities", help="Of both sides, for example vision,text (default: by file type).")
]
Kind = Annotated[str, typer.Option("--kind", help="What DATA is, where it is not clear: folder, pairs, ...")]
Split = Annotated[str | None, typer.Option("--split", help="Which part of it, for example test.")]
Samples = Annotated[int | None, typer.Option("--samples", min=1, help="Most items, evenly spread over the data.")]
Columns = Annotated[
    str, typer.Option("--columns", help="Of a table: the two that belong together, for example image,caption.")
]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Of a table: where its paths begin, and what none may leave (default: its folder)."),
]
Codecs = Annotated[
    list[str] | None,
    typer.Option("--codec", "-c", help="Compress what is searched with this as well (see docs/codecs.md). Repeat it."),
]
Fitted = Annotated[bool, typer.Option("--fit/--no-fit", help="Fit codes to texts that people ask, as an index does.")]


def opened(
    paths: Sequence[Path],
    *,
    kind: str = "auto",
    modalities: Sequence[str | None] = (),
    split: str | None = None,
    columns: str = "",
    root: Path | None = None,
) -> Dataset:
    """The data set that is named on the command line; names of columns are separated by commas.

    Raises:
        UsageError, DatasetError: it is not there, or is none.
    """
    from slimbind import datasets

    names = [name.strip() for name in columns.split(",")] if columns else None
    return datasets.open(*paths, kind=kind, modalities=modalities, split=split, columns=names, root=root)


def opened_pairs(
    data: Path,
    other: Path | None,
    *,
    kind: str,
    modalities: str,
    split: str | None,
    columns: str,
    root: Path | None,
) -> Dataset:
    """Pairs as the command line names them: a table, or two folders; names of modalities are separated by commas.

    Raises:
        UsageError, DatasetError: see ``opened``.
    """
    return opened(
        [data] if other is None else [data, other],
        kind=kind,
        modalities=options.modality_list(modalities) or [],
        split=split,
        columns=columns,
        root=root,
    )


def towers(model: str, modalities: str, data: Path | None) -> tuple[list[str], Path | None]:
    """The towers of a model that were asked for and that the data, if any were named, hold items of; and the data.

    Raises:
        UsageError, ArtifactError: there is no such model, tower, or place, or nothing of these modalities in it.
    """
    from slimbind.artifact import Artifact
    from slimbind.evaluate import inputs
    from slimbind.hub import resolve

    asked = options.modality_list(modalities)
    artifact = Artifact.open(resolve(model, modalities=asked or ()))
    for name in asked or ():
        artifact.tower(name)
    if data is None:
        return asked or list(artifact.modalities), None
    place = data.expanduser()
    if not place.exists():
        raise UsageError(f"{place}: no such file or folder", hint="check the path")
    return list(inputs.present(place, asked or artifact.modalities)), place
