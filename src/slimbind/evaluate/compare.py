"""Two artifacts of one model held against each other, tower by tower: what they say, their size, their speed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from slimbind.artifact import Artifact, Fidelity, TowerEntry
from slimbind.errors import UsageError
from slimbind.evaluate import inputs, speed
from slimbind.evaluate.fidelity import intervals, measure
from slimbind.evaluate.record import Estimate, Record, environment
from slimbind.evaluate.speed import Pace
from slimbind.hub import resolve
from slimbind.media.spec import TextSpec
from slimbind.modalities import MODALITIES, check_modality
from slimbind.runtime.device import Device
from slimbind.runtime.device import resolve as resolve_device
from slimbind.runtime.encoder import batch_size_of
from slimbind.runtime.engine import INPUT, Options, Session, engine
from slimbind.runtime.memory import trim_heap
from slimbind.runtime.threads import resolve_threads

SAMPLES = 32  # items of a modality
_TIMED = 8  # of which so many are timed
_FLOATS = ("f16", "bf16")


@dataclass(frozen=True)
class Compared:
    """How one tower compares.

    Args:
        modality: which tower.
        reference: its record in the reference.
        candidate: its record in the candidate.
        fidelity: what was measured; with ``time_ratio``, if it was timed.
        intervals: those of its means, see ``fidelity.intervals``.
        pace: the times, if it was timed: one item at a time, the forward pass only.
        failed: items that could not be read, and why.
        notes: what to know besides.
    """

    modality: str
    reference: TowerEntry
    candidate: TowerEntry
    fidelity: Fidelity
    intervals: Mapping[str, Estimate]
    pace: Pace | None
    failed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def size_ratio(self) -> float:
        """Bytes of the reference / bytes of the candidate: 4 is a quarter of the size."""
        return self.reference.bytes / max(1, self.candidate.bytes)

    def record(self, reference: str, candidate: str) -> Record:
        """The comparison as a record of an evaluation, for a page beside others.

        Args:
            reference: as it was named.
            candidate: so.
        """
        told = self.fidelity
        cosines = {
            "cosine_mean": told.cosine_mean,
            "cosine_min": told.cosine_min,
            "centred_cosine_mean": told.centred_mean,
            "centred_cosine_min": told.centred_min,
        }
        measures = {name: Estimate(value, n=told.samples) for name, value in cosines.items() if value is not None}
        measures |= self.intervals
        measures["weights_bytes"] = Estimate(self.candidate.bytes)
        measures["size_ratio"] = Estimate(self.size_ratio)
        if self.pace is not None:  # the rounds' own quartiles are no 95 % interval, and stand in the details
            measures["time_ratio"] = Estimate(self.pace.ratio, n=self.pace.rounds)
        details: dict[str, JsonValue] = {"notes": [*self.notes]} if self.notes else {}
        if self.pace is not None:
            details |= {
                "time ratio, lower quartile": self.pace.low,
                "time ratio, upper quartile": self.pace.high,
                "reference_seconds": self.pace.reference,
                "candidate_seconds": self.pace.candidate,
                "timed rounds": self.pace.rounds,
            }
        return Record(
            task="fidelity",
            title=f"fidelity, {self.modality}",
            model=candidate,
            settings={
                "reference": reference,
                "modality": self.modality,
                "data": told.data,
                "engine": self.candidate.engine,
                "scheme": self.candidate.scheme,
                "reference_scheme": self.reference.scheme,
            },
            measures=measures,
            details=details,
            failed=self.failed,
            environment=environment(),
        )


def compare(
    reference: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    modalities: Iterable[str] | None = None,
    samples: int = SAMPLES,
    threads: int | None = None,
    device: str = "cpu",
    timed: bool = True,
    seed: int = 0,
    on_tower: Callable[[str, int], object] = lambda modality, views: None,
    on_done: Callable[[int], object] = lambda views: None,
) -> Iterator[Compared]:
    """Compare the towers of two artifacts, one after the other; what does not go together is refused before any work.

    Both towers of a modality are open while it is compared.

    Args:
        reference: a name, a folder or ``hf://org/repo``: what to be faithful to. A folder of ``slimbind split`` or an
            f32 export.
        candidate: the same of the model in question.
        data: a folder of files, a ``.txt`` of sentences or a ``.npz`` of preprocessed arrays (see
            ``evaluate.inputs``); by default what comes with slimbind.
        modalities: which; by default all that both have and, with ``data``, that the data has.
        samples: most items of a modality.
        threads: of both engines.
        device: where the candidate runs and in which numbers (see ``runtime.device``); the reference is on the CPU.
        timed: time them as well.
        seed: of the intervals.
        on_tower: is told which modality begins, and how many views will be embedded.
        on_done: is told when so many of them are.

    Raises:
        UsageError: the two are not the same model, want their input prepared differently, or have no modality in
            common; or there is no data.
        ArtifactError, EngineError: a tower cannot be opened or run.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise UsageError(f"samples is {samples!r}", hint="give a whole number of 1 or more")
    options = Options(resolve_threads(threads))
    asked = None if modalities is None else tuple(dict.fromkeys(check_modality(name) for name in modalities))
    left, right = _open(reference, asked), _open(candidate, asked)
    chosen = check_comparable(left, right, asked)
    place = None if data is None else Path(data).expanduser()
    if place is not None:
        if not place.exists():
            raise UsageError(f"{place}: no such file or folder", hint="check the path")
        if asked is None:
            chosen = inputs.present(place, chosen)
    there = replace(options, device=resolve_device(Device.parse(device), right, chosen))
    return _compare(_Side(left, options), _Side(right, there), chosen, place, samples, timed, seed, on_tower, on_done)


def check_comparable(reference: Artifact, candidate: Artifact, modalities: Iterable[str] | None) -> tuple[str, ...]:
    """The modalities that can be compared, in the project's order.

    Raises:
        UsageError: another model, another number of dimensions, another preprocessing, or nothing in common.
    """
    for what, ours, theirs in (
        ("model", reference.manifest.model.id, candidate.manifest.model.id),
        ("number of dimensions", reference.manifest.embedding_dim, candidate.manifest.embedding_dim),
    ):
        if ours != theirs:
            raise UsageError(
                f"the reference and the candidate are not the same {what}: {ours} ({reference.folder}) and {theirs} "
                f"({candidate.folder})",
                hint="compare a model with what was made from it",
            )
    if modalities is None:
        chosen = tuple(name for name in reference.modalities if name in candidate.modalities)
        if not chosen:
            ours, theirs = ", ".join(reference.modalities), ", ".join(candidate.modalities)
            raise UsageError(
                f"no modality in common: the reference has {ours}, the candidate {theirs}",
                hint="compare artifacts that share one",
            )
    else:
        wanted = set(modalities)
        chosen = tuple(name for name in MODALITIES if name in wanted)
        if not chosen:
            raise UsageError("no modality was asked for", hint=f"the reference has {', '.join(reference.modalities)}")
    for name in chosen:
        _check_inputs(name, reference.tower(name), candidate.tower(name))
    return chosen


def _check_inputs(modality: str, reference: TowerEntry, candidate: TowerEntry) -> None:
    mend = "only towers that see the same input can be compared: build both from the same split model"
    ours, theirs = reference.preprocess.model_dump(mode="json"), candidate.preprocess.model_dump(mode="json")
    if ours != theirs:
        keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        told = ", ".join(f"{key} is {ours.get(key)} and {theirs.get(key)}" for key in keys)
        raise UsageError(f"the {modality} towers want their input prepared differently: {told}", hint=mend)
    if isinstance(reference.preprocess, TextSpec) and _tokenizer(reference) != _tokenizer(candidate):
        raise UsageError(f"the {modality} towers have different tokenizers", hint=mend)


def _tokenizer(entry: TowerEntry) -> list[str]:
    assert isinstance(entry.preprocess, TextSpec)
    named = entry.preprocess.tokenizer
    return [file.sha256 for file in entry.files if PurePosixPath(file.path).name == named]


def _open(source: str | os.PathLike[str], modalities: tuple[str, ...] | None) -> Artifact:
    return Artifact.open(resolve(source, modalities=modalities))


@dataclass(frozen=True)
class _Side:
    """One of the two, and how its engine is opened."""

    artifact: Artifact
    options: Options

    @contextmanager
    def session(self, modality: str) -> Iterator[Session]:
        artifact, entry = self.artifact, self.artifact.tower(modality)
        opened = engine(entry.engine).open(
            artifact.folder, entry, self.options, model=artifact.manifest.model, modality=modality
        )
        try:
            yield opened
        finally:
            opened.close()


def _compare(
    reference: _Side,
    candidate: _Side,
    chosen: tuple[str, ...],
    data: Path | None,
    most: int,
    timed: bool,
    seed: int,
    on_tower: Callable[[str, int], object],
    on_done: Callable[[int], object],
) -> Iterator[Compared]:
    # All items are looked at before the first tower is opened: bad data is told at once, not after an hour.
    found = {name: inputs.gather(reference.artifact, name, data, most=most, alone=len(chosen) == 1) for name in chosen}
    for name in chosen:
        items = found.pop(name)
        on_tower(name, 2 * items.views)
        for side in (reference, candidate):
            side.artifact.verify(name)
        yield _tower(reference, candidate, name, items, timed, seed, on_done)
        gc.collect()
        trim_heap()


def _tower(
    reference: _Side,
    candidate: _Side,
    modality: str,
    items: inputs.Inputs,
    timed: bool,
    seed: int,
    on_done: Callable[[int], object],
) -> Compared:
    ours = reference.artifact.tower(modality)
    theirs = candidate.options.device.record(candidate.artifact.tower(modality))
    spec = ours.preprocess
    size = batch_size_of(ours)
    with reference.session(modality) as first, candidate.session(modality) as second:
        left = inputs.embed(items, first, spec, size=size, on_done=on_done)
        right = inputs.embed(items, second, spec, size=size, on_done=on_done)
        pace = None
        if timed:
            few = inputs.Inputs(items.arrays[:: max(1, len(items.arrays) // _TIMED)][:_TIMED], items.source)
            pace = speed.in_turns(_jobs(few, first, spec), _jobs(few, second, spec))
    fidelity = measure(
        left,
        right,
        data=items.source,
        reference_bytes=ours.bytes,
        time_ratio=None if pace is None else pace.ratio,
    )
    failed = tuple((name, error.message) for name, error in items.failed)
    certain = intervals(left, right, seed=seed)
    return Compared(modality, ours, theirs, fidelity, certain, pace, failed, _notes(ours, theirs))


def _jobs(items: inputs.Inputs, session: Session, spec: object) -> list[Callable[[], object]]:
    return [partial(session.run, {INPUT: batch.array}) for batch in inputs.batches_of(items, session, spec, size=1)]


def _notes(reference: TowerEntry, candidate: TowerEntry) -> tuple[str, ...]:
    notes = []
    if reference.weights != candidate.weights:
        notes.append("its record names other fp32 weights than the reference's")
    as_published = reference.engine == "torch" and reference.scheme in _FLOATS  # a split keeps the checkpoint's type
    if reference.scheme != "f32" and not as_published:
        notes.append(f"the reference itself is {reference.scheme}, not fp32")
    return tuple(notes)
