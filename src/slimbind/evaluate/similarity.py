"""The similarity of two sets of items as a table: a model's beside its reference's, and how far they are apart.

What the heat maps of papers show. A model that says the same as its reference gives the same table; one that finds
everything a little more alike gives the same pattern in other numbers; and where the pattern changes, results of a
search do. The measures tell the three apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from slimbind.errors import UsageError
from slimbind.evaluate import inputs, metrics
from slimbind.evaluate.compare import check_comparable
from slimbind.evaluate.embedding import Embeddings, Failed, Progress, embed, silent
from slimbind.evaluate.record import Estimate, Record, environment
from slimbind.evaluate.thumbnails import thumbnails
from slimbind.media import samples
from slimbind.media.source import describe
from slimbind.runtime.model import Model

ITEMS = 24  # rows or columns; more can be computed, and hardly read
_LONGEST = 60  # characters of a name
_PICTURED = 60  # rows; more have no room for pictures

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """The rows, or the columns.

    Args:
        modality: of all items.
        items: what its encoder takes.
        names: what they are called, as many.
    """

    modality: str
    items: Sequence[Any]
    names: Sequence[str]


def similarity(
    model: Model,
    rows: Side,
    columns: Side,
    *,
    reference: Model | None = None,
    name: str = "",
    reference_name: str = "",
    title: str = "",
    seed: int = 0,
    pictures: bool = True,
    progress: Progress = silent,
) -> Record:
    """Embed both sides with a model, and with its reference, and compare every row with every column.

    Args:
        model: with the modalities of both sides.
        rows: one side.
        columns: the other; it may be the same one.
        reference: what the model was made from.
        name: the model's, for the record; by default its id.
        reference_name: the reference's.
        title: of the record.
        seed: of the intervals.
        pictures: keep a thumbnail of each row in the record, where there are at most 60.
        progress: shows it.

    Returns:
        ``details`` has the names of rows and columns, ``scores`` and ``reference`` ``[rows, columns]``, and
        ``thumbnails``. For the measures see ``measure``. Items that cannot be embedded are left out and named.

    Raises:
        UsageError: a side is empty or cannot be embedded, or the reference is of another model.
        ArtifactError, EngineError: a modality is missing, or a tower cannot be opened.
    """
    modalities = list(dict.fromkeys((rows.modality, columns.modality)))
    if reference is not None:
        check_comparable(reference.artifact, model.artifact, modalities)
    models = [model] if reference is None else [model, reference]
    for one in models:
        for modality in modalities:
            one.encoder(modality)  # what is missing is told before anything is embedded
    sides: list[_Embedded] = []
    for side in (rows, columns):
        found = [
            embed(
                one, zip(side.names, side.items, strict=True), side.modality, total=len(side.items), progress=progress
            )
            for one in models
        ]
        sides.append(_common(found))
    tables = [_products(sides[0].vectors[which], sides[1].vectors[which]) for which in range(len(models))]
    own, other = tables[0], tables[1] if len(tables) > 1 else None
    kept = [[side.names[place] for place in found.places] for side, found in zip((rows, columns), sides, strict=True)]
    details: dict[str, JsonValue] = {
        "rows": [_shortened(one) for one in kept[0]],
        "columns": [_shortened(one) for one in kept[1]],
        "scores": own.tolist(),
        "reference": None if other is None else other.tolist(),
    }
    if pictures and len(sides[0].places) <= _PICTURED:
        chosen = [rows.items[place] for place in sides[0].places]
        details["thumbnails"] = list[JsonValue](thumbnails(model.artifact, rows.modality, chosen))
    settings: dict[str, JsonValue] = {"rows": rows.modality, "columns": columns.modality}
    if reference is not None:
        settings |= {"reference": reference_name or reference.id, "seed": seed}
    return Record(
        task="similarity",
        title=title or f"{rows.modality} and {columns.modality}",
        model=name or model.id,
        settings=settings,
        measures={} if other is None else measure(own, other, seed=seed),
        details=details,
        failed=(*sides[0].failed, *sides[1].failed),
        environment=environment(model),
    )


def measure(scores: Table, reference: Table, *, seed: int = 0) -> dict[str, Estimate]:
    """How far two tables ``[n, m]`` are apart, with intervals over rows where there are several.

    ``mean absolute difference``; ``mean shift``, what is left of it with its sign; ``pattern difference``, the mean
    absolute difference once the shift is taken away; ``greatest difference``; ``same best column``, the share of rows
    whose most similar column is the same.

    Raises:
        UsageError: the shapes differ, or there is nothing in them.
    """
    if scores.shape != reference.shape or scores.ndim != 2 or not scores.size:
        raise UsageError(f"cannot compare similarities of shapes {list(scores.shape)} and {list(reference.shape)}")
    difference = scores - reference
    same = (scores.argmax(1) == reference.argmax(1)).astype(np.float64)
    per_row: Mapping[str, Table] = {
        "mean absolute difference": np.abs(difference).mean(1),
        "mean shift": difference.mean(1),
        "pattern difference": np.abs(difference - difference.mean()).mean(1),
        "same best column": same,
    }
    found = metrics.bootstrap({key: metrics.mean_of(values) for key, values in per_row.items()}, len(scores), seed=seed)
    return found | {"greatest difference": Estimate(float(np.abs(difference).max()), n=difference.size)}


def shipped(most: int = ITEMS) -> tuple[Side, Side]:
    """Photographs that come with slimbind, and what each of them shows in words: row n belongs to column n."""
    pairs = samples.captioned("vision")
    chosen = inputs.evenly(pairs, most)
    paths, sentences = [path for path, _ in chosen], [sentence for _, sentence in chosen]
    return Side("vision", paths, [path.name for path in paths]), Side("text", sentences, sentences)


def of_path(path: Path, known: Sequence[str], *, modality: str | None = None, most: int = ITEMS) -> Side:
    """A folder of files or a ``.txt`` of sentences as a side, evenly spread if there are more than ``most``.

    Args:
        path: where they are.
        known: the modalities that the model has.
        modality: theirs; None to take the only one that is there.
        most: so many items.

    Raises:
        UsageError: there is nothing of the modality there, or of several and none was named.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder", hint="check the path")
    if path.is_file() and path.suffix.lower() == samples.SENTENCES:
        found: tuple[str, ...] = ("text",)
    else:
        found = inputs.present(path, (modality,) if modality else known)
    if modality is None and len(found) > 1:
        raise UsageError(f"{path} holds {', '.join(found)}", hint="name one of them, or a folder that holds only one")
    chosen = modality or found[0]
    items = samples.from_path(path, chosen, alone=True).items
    if not items:
        raise UsageError(f"{path} holds no {chosen}; it holds {samples.contents(path)}", hint="name another place")
    few = inputs.evenly(items, most)
    names = [item.relative_to(path).as_posix() if isinstance(item, Path) else describe(item) for item in few]
    return Side(chosen, few, names)


@dataclass(frozen=True)
class _Embedded:
    """One side with all models: vectors ``[n, dim]`` of the items that all of them could embed."""

    vectors: Sequence[NDArray[np.float32]]
    places: Sequence[int]
    failed: Failed


def _common(found: Sequence[Embeddings]) -> _Embedded:
    places = sorted(set.intersection(*(set(one.places.tolist()) for one in found)))
    if not places:
        raise UsageError("no item could be embedded by all models", hint="check the data")
    vectors = [one.vectors[np.searchsorted(one.places, places)] for one in found]
    failed = {name: why for one in found for name, why in one.failed}
    return _Embedded(vectors, places, tuple(failed.items()))


def _products(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Table:
    return rows.astype(np.float64) @ columns.astype(np.float64).T


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\u2026"
