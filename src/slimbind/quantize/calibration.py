"""The data a tower is calibrated and judged with: real files, prepared arrays, or the samples that come with slimbind.

Everything is found, read and preprocessed before any work on weights begins, so that a wrong folder costs seconds. Of
each modality some items are held out: calibration never sees them, and the fidelity is measured on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimbind.artifact import Artifact
from slimbind.errors import UsageError
from slimbind.evaluate import inputs
from slimbind.media.spec import TextSpec
from slimbind.modalities import check_modality
from slimbind.runtime.batches import batches, views_of
from slimbind.towers import registry

Array = NDArray[np.generic]

# Items to calibrate with, and held-out ones. A sentence has a tenth of the tokens of a picture and says a tenth as much
# about the ranges of activations.
ITEMS = {"text": 128}
HELD_OUT = {"text": 48}
_ITEMS, _HELD_OUT = 32, 16
_MOST_VIEWS = 3  # of one item; a film has 15, which would count for more than 14 other films


@dataclass(frozen=True)
class Calibration:
    """Inputs of one tower: ``batches`` to calibrate with, ``held_out`` to judge by; the same every time.

    Attributes:
        source: what the data is, for people and for the manifest.
        digest: sha256 over every value, in hex; equal data gives equal digests.
        skipped: name of an item -> why it could not be used.
    """

    items: Sequence[Array]
    held: Sequence[Array]
    source: str
    pad_id: int | None = None
    context: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for part in (self.items, self.held):
            for array in part:
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
            digest.update(b"|")
        object.__setattr__(self, "digest", digest.hexdigest())

    def __len__(self) -> int:
        """How many rows ``batches`` gives in all (an item may have several views)."""
        return sum(len(item) for item in self.items)

    def batches(self, batch_size: int = 8) -> Iterator[Tensor]:
        """Inputs ``[n, ...]`` of the tower, ``n`` at most ``batch_size``; texts of like length together."""
        return self._batches(self.items, batch_size)

    def held_out(self, batch_size: int = 8) -> Iterator[Tensor]:
        """The inputs that calibration does not see, as ``batches`` gives the others."""
        return self._batches(self.held, batch_size)

    def _batches(self, items: Sequence[Array], size: int) -> Iterator[Tensor]:
        for batch in batches(list(enumerate(items)), size=size, pad_id=self.pad_id, context=self.context):
            yield torch.from_numpy(np.ascontiguousarray(batch.array))


def gather(
    artifact: Artifact, modalities: Sequence[str], given: Sequence[str] = (), *, samples: int | None = None
) -> dict[str, Calibration]:
    """The calibration data of every modality asked for.

    Args:
        artifact: says how its towers want their inputs prepared.
        modalities: which.
        given: folders, ``.npz`` and ``.txt`` files, each for all modalities it has something for, or
            ``modality=path`` for one alone. A modality that nothing was given for gets the shipped samples, and
            ``Calibration.source`` says so.
        samples: how many items at most, held-out ones not counted; ``ITEMS`` by default.

    Raises:
        UsageError: a path is missing or has nothing for the modalities it is given for, or none of its items is good.
        ArtifactError: the tokenizer of the artifact, or a shipped sample, is missing.
        MissingExtraError: video, without the package that reads it.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"{samples} samples are asked for", hint="give 1 or more")
    named, shared = _parse(given, modalities)
    others = [modality for modality in modalities if modality not in named]
    for useless in shared if not others else ():
        raise UsageError(
            f"{useless} is given for all modalities, but each has data of its own already", hint="leave it out"
        )
    there = {path: inputs.present(path, others) for path in shared}
    for number, path in enumerate(shared):
        before = {modality: first for first in reversed(shared[:number]) for modality in there[first]}
        if before.keys() >= set(there[path]):
            raise UsageError(
                f"{path} would not be used: {before[there[path][0]]} is there for {', '.join(there[path])} already",
                hint="put the files into one folder, or name what each is for: modality=path",
            )
    found = {}
    for modality in modalities:
        own = named.get(modality) or next((path for path in shared if modality in there[path]), None)
        alone = modality in named or len(others) == 1
        found[modality] = _prepare(artifact, modality, own, samples, alone=alone)
    return found


def _parse(given: Sequence[str], modalities: Sequence[str]) -> tuple[dict[str, Path], list[Path]]:
    named: dict[str, Path] = {}
    shared: list[Path] = []
    for text in given:
        modality, equals, path = str(text).partition("=")
        if not equals or "/" in modality or Path(text).exists():
            shared.append(Path(text).expanduser())
            continue
        if check_modality(modality) not in modalities:
            raise UsageError.unknown("modality of this job", modality, modalities, hint=f"{text} is of no use here")
        if modality in named:
            raise UsageError(f"{modality} is given twice: {named[modality]} and {path}")
        named[modality] = Path(path).expanduser()
    for place in [*named.values(), *shared]:
        if not place.exists():
            raise UsageError(f"{place}: no such file or folder", hint="check what is given for calibration")
    return named, shared


def _prepare(artifact: Artifact, modality: str, path: Path | None, samples: int | None, *, alone: bool) -> Calibration:
    entry = artifact.tower(modality)
    text = entry.preprocess if isinstance(entry.preprocess, TextSpec) else None
    count = samples or ITEMS.get(modality, _ITEMS)
    held = min(HELD_OUT.get(modality, _HELD_OUT), count)
    found = inputs.gather(artifact, modality, path, most=count + held, alone=alone)
    rank = registry.build(artifact.manifest.model.family, modality, entry.config).example(1).ndim
    items = [views_of(array, rank=rank, is_text=text is not None) for array in found.arrays]
    if text is None:
        items = [item[_places(len(item), _MOST_VIEWS)] for item in items]
    chosen = set(_places(len(items), max(1, round(len(items) * held / (count + held)))))
    apart = [items[place] for place in sorted(chosen)]
    kept = [item for place, item in enumerate(items) if place not in chosen]
    source = f"{found.source}: {len(kept)} items, {len(apart)} held out"
    if not kept:
        kept, source = apart, f"{found.source}: a single item, by which it is judged too"
    return Calibration(
        items=kept,
        held=apart,
        source=source,
        pad_id=text.pad_id if text else None,
        context=text.context if text else 0,
        skipped={name: error.message for name, error in found.failed},
    )


def _places(count: int, most: int) -> list[int]:
    """At most so many of ``count`` places, evenly from first to last: a folder is sorted, its first files are alike."""
    return list(range(count)) if count <= most else [int((k + 0.5) * count / most) for k in range(most)]
