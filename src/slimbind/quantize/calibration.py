"""The data a tower is calibrated and judged with: real files, prepared arrays, or the samples that come with slimbind.

Everything is found, read and preprocessed before any work on weights begins, so that a wrong folder costs seconds. Of
each modality some items are held out: calibration never sees them, and the fidelity is measured on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimbind.artifact import Artifact
from slimbind.errors import EngineError, MediaError, UsageError
from slimbind.media import preprocessor
from slimbind.media.ready import read_npz
from slimbind.media.samples import contents, from_path, shipped
from slimbind.media.spec import TextSpec
from slimbind.modalities import check_modality
from slimbind.runtime.batches import batches, views_of
from slimbind.towers import registry

Array = NDArray[np.generic]
Item = TypeVar("Item")

# Items to calibrate with, and held-out ones. A sentence has a tenth of the tokens of a picture and says a tenth as much
# about the ranges of activations.
ITEMS = {"text": 128}
HELD_OUT = {"text": 48}
_ITEMS, _HELD_OUT = 32, 16
_MOST_VIEWS = 3  # of one item; a film has 15, which would count for more than 14 other films
_WORKERS = 4


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
    found: dict[str, Calibration] = {}
    useful: set[Path] = set()
    for modality in modalities:
        paths = [named[modality]] if modality in named else shared
        maker = _Maker(artifact, modality, samples)
        for path in paths:
            calibration = maker.from_path(path, alone=modality in named or len(modalities) == 1)
            if calibration is not None:
                found[modality] = calibration
                useful.add(path)
                break
        if modality not in found and modality in named:
            raise _nothing(named[modality], [modality])
    for path in shared:
        if path not in useful:
            raise _nothing(path, [name for name in modalities if name not in named])
    for modality in modalities:
        if modality not in found:
            found[modality] = _Maker(artifact, modality, samples).shipped()
    return {modality: found[modality] for modality in modalities}


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


def _nothing(path: Path, modalities: Sequence[str]) -> UsageError:
    wanted = " or ".join(modalities)
    return UsageError(
        f"{path} has nothing to calibrate {wanted} with; it has {contents(path)}",
        hint="name a folder of such files, a .npz with such an array, or give nothing to use the shipped samples",
    )


class _Maker:
    """Turns items into the calibration data of one tower."""

    def __init__(self, artifact: Artifact, modality: str, samples: int | None) -> None:
        self.modality = modality
        self.artifact = artifact
        self.spec = artifact.tower(modality).preprocess
        self.count = samples or ITEMS.get(modality, _ITEMS)
        self.held = min(HELD_OUT.get(modality, _HELD_OUT), max(1, self.count))
        entry = artifact.tower(modality)
        tower = registry.build(artifact.manifest.model.family, modality, entry.config)
        self.rank = tower.example(1).ndim

    def shipped(self) -> Calibration:
        samples = shipped(self.modality)
        return self._prepare(samples.items, samples.source)

    def from_path(self, path: Path, *, alone: bool) -> Calibration | None:
        """None where the path holds nothing of this modality."""
        if path.suffix.lower() == ".npz" and path.is_file():
            if not alone and not _has_array(path, self.modality):
                return None
            arrays = read_npz(path, self.modality, self.spec)
            return self._split(_spread(arrays, self.count + self.held), f"arrays of {path.name}", {})
        samples = from_path(path, self.modality, alone=alone)
        return self._prepare(samples.items, samples.source) if samples.items else None

    def _prepare(self, items: Sequence[object], source: str) -> Calibration:
        folder = self.artifact.folder / self.modality
        prepare = preprocessor(self.spec, folder=folder)
        chosen = _spread(items, self.count + self.held)
        good: list[Array] = []
        skipped: dict[str, str] = {}

        def one(item: object) -> Array | MediaError:
            try:
                return prepare(item)
            except MediaError as error:
                return error

        with ThreadPoolExecutor(_WORKERS) as pool:
            for done in pool.map(one, chosen):
                if isinstance(done, MediaError):
                    skipped[done.item] = done.reason
                else:
                    good.append(done)
        if not good:
            name, reason = next(iter(skipped.items()))
            raise UsageError(
                f"none of the {len(chosen)} items for {self.modality} is usable ({source}); first: {name}: {reason}",
                hint=f"name a folder of {self.modality} files",
            )
        return self._split(good, source, skipped)

    def _split(self, arrays: Sequence[Array], source: str, skipped: Mapping[str, str]) -> Calibration:
        text = self.spec if isinstance(self.spec, TextSpec) else None
        try:
            items = [views_of(array, rank=self.rank, is_text=text is not None) for array in arrays]
        except EngineError as error:
            raise UsageError(f"{source}: {error.message}", hint=f"this is no data for {self.modality}") from error
        if text is None:
            items = [item[_places(len(item), _MOST_VIEWS)] for item in items]
        held_count = max(1, round(len(items) * self.held / (self.count + self.held)))
        held = {int((k + 0.5) * len(items) / held_count) for k in range(held_count)}
        kept = [item for k, item in enumerate(items) if k not in held]
        apart = [items[k] for k in sorted(held)]
        if not kept:  # there is one item
            kept, source = apart, f"{source} (a single item, which is also what it is judged by)"
        return Calibration(
            items=kept,
            held=apart,
            source=f"{source}: {len(kept)} items, {len(apart)} held out",
            pad_id=text.pad_id if text else None,
            context=text.context if text else 0,
            skipped=skipped,
        )


def _spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    return [items[place] for place in _places(len(items), most)]


def _places(count: int, most: int) -> list[int]:
    """At most so many of ``count`` places, evenly from first to last: a folder is sorted, its first files are alike."""
    return list(range(count)) if count <= most else [int((k + 0.5) * count / most) for k in range(most)]


def _has_array(path: Path, modality: str) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return f"{modality}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return True  # read_npz says what is wrong with it
