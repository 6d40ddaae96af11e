"""Retrieval: does each item find what belongs to it among all items of another modality, whole and compressed?"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import JsonValue

from slimbind.codecs.spec import CodecSpec, parse
from slimbind.datasets import Dataset, Sample
from slimbind.errors import UsageError
from slimbind.evaluate.compression import ranks_through, wanted
from slimbind.evaluate.embedding import Failed, Progress, Vectors, embed, silent, spread
from slimbind.evaluate.metrics import Integers, Positives
from slimbind.evaluate.outcome import WHOLE, Beside, Outcome
from slimbind.evaluate.record import Estimate, Record, environment
from slimbind.runtime.model import Model


@dataclass(frozen=True)
class Paired:
    """The two sides of a data set of pairs, embedded; an item that occurs in several pairs is there once.

    Args:
        first: unit vectors ``[n, dim]``.
        second: unit vectors ``[m, dim]``.
        pairs: which belong together: rows of ``first`` and ``second`` ``[p, 2]``. Every row is in a pair.
        failed: items that could not be read, and why.
        items: which item of the data each row is ``[n]``, ``[m]``; None where they are all and in their order.
    """

    first: Vectors
    second: Vectors
    pairs: Integers
    failed: Failed = ()
    items: tuple[Integers, Integers] | None = None


def retrieval(
    model: Model,
    data: Dataset,
    *,
    name: str = "",
    codecs: Sequence[str] = (),
    prompts: Sequence[str] = (),
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    beside: Beside | None = None,
    progress: Progress = silent,
) -> list[Record]:
    """Search the second side of each pair with the first, and the first with the second.

    Args:
        model: with the modalities of the data.
        data: with pairs. Equal items are one item, with all that it is paired with.
        name: the model's, for the record; by default its id.
        codecs: what the searched side is compressed with, one after the other (see ``codecs.spec``); f32 always comes
            first.
        prompts: texts that codes are fitted to where texts search, as a collection does; without them, and where the
            model has no text, codecs are used as they are.
        samples: most pairs, evenly spread over the data.
        seed: of the intervals.
        batch_size: most views in a forward pass.
        beside: has the first record of several models; by default the first record of this one is what the others
            are held against.
        progress: shows it.

    Returns:
        A record for each codec; see ``score`` for its measures. Those behind the first also have by how much they
        differ from it. A codec that needs more vectors than there are to learn from is among what failed.

    Raises:
        UsageError: the data have no pairs, there is no such codec, the model lacks a modality, or nothing can be read.
        ArtifactCorruptError, EngineError: a tower cannot be opened.
    """
    specs = wanted(codecs, model.dim)
    if len(data.modalities) != 2:
        raise UsageError(
            f"{data.path} has no pairs", hint="give a table with two columns, or two folders with the same names"
        )
    for modality in data.modalities:
        model.encoder(modality)  # a tower that is not there is told before anything is embedded
    found = embed_pairs(model, data, samples=samples, batch_size=batch_size, progress=progress)
    asked = model.embed(prompts, "text") if prompts and len(specs) > 1 and "text" in data.modalities else None
    about: dict[str, JsonValue] = {
        "data": str(data.path),
        "kind": data.kind,
        "modalities": list(data.modalities),
        "pairs": len(found.pairs),
        "seed": seed,
    }
    records: list[Record] = []
    failed = list(found.failed)
    beside = beside or Beside()
    for text, spec in specs.items():
        try:
            outcomes, directions = search(found, data.modalities, spec, prompts=asked, progress=progress)
        except UsageError as error:  # too few vectors to learn codes from, which nobody knew before
            if text == WHOLE:
                raise
            failed.append((f"codec {text}", error.message))
            continue
        record = Record(
            task="retrieval",
            title=f"{data.path.name}: {data.modalities[0]} and {data.modalities[1]}",
            model=name or model.id,
            settings=about | {"codec": text},
            measures=_measures(spec, outcomes, seed),
            details={"directions": directions},
            failed=found.failed,
            environment=environment(model),
        )
        records.append(beside.add(record, outcomes, seed=seed))
    return [replace(records[0], failed=tuple(failed)), *records[1:]]


def embed_pairs(
    model: Model,
    data: Dataset,
    *,
    samples: int | None = None,
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Paired:
    """Embed both sides of a data set of pairs, each item once; the data are read twice.

    Raises:
        UsageError: no item of a side can be embedded, or no pair is whole.
        ArtifactCorruptError, EngineError: the tower cannot be opened.
    """
    numbers: tuple[dict[Hashable, int], dict[Hashable, int]] = ({}, {})
    pairs: list[tuple[int, int]] = []

    def items(side: int) -> Iterator[tuple[str, Any]]:
        """What this side has, each once; the numbers of both sides are learned while the first is read."""
        told = -1
        for sample in spread(data, samples)[0]:
            keys = _identity(sample.data), _identity(sample.other)
            if side == 0:
                pairs.append(tuple(numbers[n].setdefault(key, len(numbers[n])) for n, key in enumerate(keys)))  # type: ignore[arg-type]
            number = numbers[side].get(keys[side], -1)  # -1: the data changed meanwhile
            if number > told:
                told = number
                yield _name(sample, side, data.modalities[side]), sample.other if side else sample.data

    left, right = (
        embed(
            model,
            items(side),
            data.modalities[side],
            total=len(numbers[1]) if side else spread(data, samples)[1],
            batch_size=batch_size,
            progress=progress,
        )
        for side in (0, 1)
    )
    # Only pairs whose two items could be read count, and only items that are in such a pair are searched.
    table = np.array(pairs, np.int64)
    whole = np.unique(table[np.isin(table[:, 0], left.places) & np.isin(table[:, 1], right.places)], axis=0)
    if not len(whole):
        raise UsageError(f"of no pair of {data.path} both items could be embedded", hint="see what failed")
    first, rows = np.unique(whole[:, 0], return_inverse=True)
    second, columns = np.unique(whole[:, 1], return_inverse=True)
    return Paired(
        left.vectors[np.searchsorted(left.places, first)],
        right.vectors[np.searchsorted(right.places, second)],
        np.stack([rows, columns], axis=1).astype(np.int64),
        failed=(*data.skipped, *left.failed, *right.failed),
        items=(first, second),
    )


def score(
    found: Paired,
    modalities: Sequence[str],
    codec: CodecSpec | str = WHOLE,
    *,
    prompts: Vectors | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[dict[str, Estimate], dict[str, JsonValue]]:
    """R@1, R@5, R@10 and the median rank of both directions, from embeddings that are there already; see ``search``.

    Returns:
        The measures, and for each direction how many queries and items it has.
    """
    spec = parse(codec, found.first.shape[1]) if isinstance(codec, str) else codec
    outcomes, directions = search(found, modalities, spec, prompts=prompts, progress=progress)
    return _measures(spec, outcomes, seed), directions


def search(
    found: Paired,
    modalities: Sequence[str],
    spec: CodecSpec,
    *,
    prompts: Vectors | None = None,
    progress: Progress = silent,
) -> tuple[list[Outcome], dict[str, JsonValue]]:
    """Search both sides with the other one, from embeddings that are there already.

    A query's rank is that of the best item that belongs to it (R@k counts as CLIP_benchmark does). Of codecs with
    ``refine(...)`` the ten best are searched for, as ``slimbind search`` does; where the median lies behind them, it is
    not told. Intervals draw whole groups: texts whose first partner is the same are drawn together.

    Args:
        found: the pairs.
        modalities: of both sides, for the names.
        spec: what the searched side is compressed with.
        prompts: texts that codes are fitted to where texts search ``[any, dim]``.
        progress: shows it.

    Returns:
        What becomes of the queries of both directions, and for each direction how many queries and items it has.
    """
    outcomes: list[Outcome] = []
    directions: dict[str, JsonValue] = {}
    names = list(modalities)
    if names[0] == names[1]:
        names = [f"first {names[0]}", f"second {names[1]}"]
    sides = (found.first, found.second)
    for asking, asked in ((0, 1), (1, 0)):
        direction = f"{names[asking]} to {names[asked]}"
        queries, gallery = sides[asking], sides[asked]
        positives = Positives.of_pairs(found.pairs[:, asking], found.pairs[:, asked], len(queries))
        known = {"text": prompts} if prompts is not None and modalities[asking] == "text" else {}
        with progress(f"searching {direction}, {spec}", total=len(queries)) as advance:
            ranks = ranks_through(spec, queries, gallery, positives, known, advance)
        groups = positives.items[positives.starts[:-1]]
        items = None if found.items is None else found.items[asking]
        outcomes.append(Outcome.of_queries(direction, ranks, groups, items))
        directions[direction] = {
            "queries": len(queries),
            "items": len(gallery),
            "right items for each query": len(positives.items) / len(queries),
        }
    return outcomes, directions


def _measures(spec: CodecSpec, outcomes: Sequence[Outcome], seed: int) -> dict[str, Estimate]:
    found = {"bytes_per_vector": Estimate(float(spec.bytes_per_vector))}
    for outcome in outcomes:
        found |= outcome.measures(seed=seed)
    return found


def _identity(item: Any) -> Hashable:  # noqa: ANN401  (each modality takes its own kinds)
    """What equal items have in common, small enough to be kept."""
    if isinstance(item, np.ndarray):
        return (item.shape, str(item.dtype), hashlib.sha256(np.ascontiguousarray(item).data).digest())
    if isinstance(item, bytes | bytearray | memoryview):
        return hashlib.sha256(item).digest()
    return str(item)


def _name(sample: Sample, side: int, modality: str) -> str:
    """How a message names one side of a pair."""
    item = sample.other if side else sample.data
    return str(item) if side and modality != "text" and not isinstance(item, bytes | np.ndarray) else sample.id
