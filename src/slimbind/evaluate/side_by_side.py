"""Several artifacts of one model side by side: fidelity, size, memory, speed, and what they are worth on data.

The first is the reference. What can be told tower by tower is measured tower by tower; what a model is worth on data is
measured of each whole artifact and, with ``mix``, of the reference with a single tower of another in its place: that
tells which tower costs how much (as Table 2 of the CLIP paper's int8 study does for the image and the text tower).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from slimbind.artifact import Artifact
from slimbind.codecs.spec import parse
from slimbind.datasets import Dataset
from slimbind.errors import UsageError
from slimbind.evaluate import compare, inputs, memory, similarity, throughput
from slimbind.evaluate.embedding import Progress, Steps, check_classes, silent
from slimbind.evaluate.linear_probe import linear_probe
from slimbind.evaluate.mixing import mixed
from slimbind.evaluate.outcome import Beside
from slimbind.evaluate.record import Estimate, Record, environment
from slimbind.evaluate.report.grouping import short_names
from slimbind.evaluate.retrieval import retrieval
from slimbind.evaluate.templates import choose
from slimbind.evaluate.zero_shot import zero_shot_through
from slimbind.hub import resolve
from slimbind.runtime.model import Model
from slimbind.runtime.threads import resolve_threads

_ROWS = 12  # of the similarity heat maps
_COSINES = ("cosine_mean", "cosine_min", "centred_cosine_mean", "centred_cosine_min")


@dataclass(frozen=True)
class Tasks:
    """What to measure.

    Args:
        fidelity: cosines to the reference, tower by tower, and how many times as fast.
        speed: seconds and items per second of each tower.
        memory: of each tower, in processes of its own; Linux only.
        similarity: heat maps of pictures and sentences that come with slimbind, where a model has both modalities.
        zero_shot: data with classes.
        templates: for them, see ``templates.choose``.
        retrieval: data with pairs.
        codecs: that the searched side is compressed with as well.
        train: data with classes that linear probes learn from.
        test: and are tested with; without it, with a part of ``train``.
    """

    fidelity: bool = True
    speed: bool = True
    memory: bool = True
    similarity: bool = True
    zero_shot: Dataset | None = None
    templates: Sequence[str] = ()
    retrieval: Dataset | None = None
    codecs: Sequence[str] = ()
    train: Dataset | None = None
    test: Dataset | None = None


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        modalities: which towers; None for all that all artifacts have.
        data: items for fidelity, speed and memory: a folder or a ``.txt``; None for what comes with slimbind.
        samples: most of them for each modality.
        most: most items of each data set.
        threads: of the engines; None for the CPUs this process may use.
        seconds: for the speed of each tower.
        repeats: processes in which the memory of each tower is measured.
        seed: of intervals and of what is held out.
    """

    modalities: Sequence[str] | None = None
    data: Path | None = None
    samples: int = 32
    most: int | None = None
    threads: int | None = None
    seconds: float = 2.0
    repeats: int = 3
    seed: int = 0


@dataclass(frozen=True)
class _Subject:
    """An artifact under the name that reports have for it; ``is_whole``: not a mix."""

    name: str
    artifact: Artifact
    is_whole: bool = True


@dataclass(frozen=True)
class _Job:
    """Everything that the parts of a comparison share."""

    subjects: Sequence[_Subject]
    modalities: tuple[str, ...]
    tasks: Tasks
    settings: Settings
    threads: int
    progress: Progress
    note: Callable[[str], object]
    own: tuple[str, ...] = field(default=())  # the modalities that the data hold something of

    @property
    def whole(self) -> list[_Subject]:
        return [one for one in self.subjects if one.is_whole]


def side_by_side(
    sources: Sequence[str | os.PathLike[str]],
    *,
    tasks: Tasks | None = None,
    settings: Settings | None = None,
    mix: bool = False,
    progress: Progress = silent,
    note: Callable[[str], object] = lambda text: None,
) -> list[Record]:
    """Measure several artifacts of one model.

    Args:
        sources: names, folders or ``hf://org/repo``; the first is the reference.
        tasks: what to measure.
        settings: how.
        mix: also the reference with each single tower of each of the others.
        progress: shows it.
        note: is told what people should know.

    Returns:
        The records, task by task; within a task in the order of the sources, mixes behind the one they take a tower
        from.

    Raises:
        UsageError: fewer than two sources, one of them twice, or not of one model; or see the tasks.
        ArtifactError, EngineError: one cannot be opened, or is damaged.
    """
    tasks, settings = tasks or Tasks(), settings or Settings()
    names = [os.fspath(source) for source in sources]
    if len(names) < 2:
        raise UsageError(f"{len(names)} artifacts are nothing to compare", hint="name the reference and another")
    if len(set(names)) < len(names):
        raise UsageError("an artifact is named twice", hint="name each once, the reference first")
    artifacts = [Artifact.open(resolve(name, modalities=settings.modalities)) for name in names]
    modalities = _shared(artifacts, settings.modalities)
    own = _own(settings.data, modalities)
    _check(tasks, artifacts[0], modalities)
    with progress("checking files", total=len(artifacts) * len(modalities)) as advance:
        for artifact in artifacts:  # one that is cut should not be found out at the end of an hour
            for modality in modalities:
                artifact.verify(modality)
                advance(1)
    short = short_names(names)
    with ExitStack() as stack:
        subjects = [_Subject(short[names[0]], artifacts[0])]
        for name, artifact in zip(names[1:], artifacts[1:], strict=True):
            subjects.append(_Subject(short[name], artifact))
            for modality in modalities if mix and len(modalities) > 1 else ():
                towers = {one: artifact if one == modality else artifacts[0] for one in modalities}
                subjects.append(_Subject(f"{short[name]} ({modality} only)", stack.enter_context(mixed(towers)), False))
        threads = resolve_threads(settings.threads)
        job = _Job(subjects, modalities, tasks, settings, threads, progress, note, own)
        return list(_records(job, dict(zip(short.values(), names, strict=True))))


def _records(job: _Job, paths: dict[str, str]) -> Iterator[Record]:
    yield from _sizes(job, paths)
    # Data that turn out to be of no use should do so in the first minutes: they come before what takes long.
    for wanted, part in (
        (job.tasks.zero_shot is not None, _zero_shot),
        (job.tasks.train is not None, _linear_probe),
        (job.tasks.retrieval is not None, _retrieval),
        (job.tasks.similarity and {"vision", "text"} <= set(job.modalities), _similarity),
        (job.tasks.fidelity, _fidelity),
        (job.tasks.speed, _speed),
        (job.tasks.memory, _memory),
    ):
        if wanted:
            yield from part(job)


def _shared(artifacts: Sequence[Artifact], asked: Sequence[str] | None) -> tuple[str, ...]:
    """The modalities that all have, once it is known that they can be compared."""
    for artifact in artifacts[1:]:
        found = compare.check_comparable(artifacts[0], artifact, asked)
    if asked is not None:
        return found
    shared = tuple(name for name in artifacts[0].modalities if all(name in one.modalities for one in artifacts))
    if not shared:
        raise UsageError("no modality is in all of the artifacts", hint="compare artifacts that share one")
    return shared


def _check(tasks: Tasks, artifact: Artifact, modalities: Sequence[str]) -> None:
    """Refuse what would only be refused by a task at the end of an hour."""
    if tasks.memory:
        memory.check_possible()
    for codec in tasks.codecs:
        parse(codec, artifact.manifest.embedding_dim)
    if tasks.zero_shot is not None:
        choose(tasks.templates, tasks.zero_shot.modalities[0])
    for data, spoken in ((tasks.zero_shot, True), (tasks.train, False), (tasks.test, False), (tasks.retrieval, False)):
        if data is None:
            continue
        if data is not tasks.retrieval:
            check_classes(data)
        elif len(data.modalities) != 2:
            raise UsageError(f"{data.path} has no pairs", hint="give a table with two columns, or two folders")
        for modality in (*data.modalities, *(("text",) if spoken else ())):
            if modality not in modalities:
                raise UsageError(
                    f"{data.path} needs {modality}; compared are {', '.join(modalities)}", hint="leave it out"
                )


def _own(data: Path | None, modalities: tuple[str, ...]) -> tuple[str, ...]:
    if data is None:
        return modalities
    if not data.exists():
        raise UsageError(f"{data}: no such file or folder", hint="check the path")
    return inputs.present(data, modalities)


def _sizes(job: _Job, paths: dict[str, str]) -> Iterator[Record]:
    total = sum(job.subjects[0].artifact.tower(name).bytes for name in job.modalities)
    for one in job.subjects:
        towers = {name: one.artifact.tower(name) for name in job.modalities}
        own = sum(tower.bytes for tower in towers.values())
        measures = {f"{name} bytes": Estimate(float(tower.bytes)) for name, tower in towers.items()}
        measures |= {"bytes": Estimate(float(own)), "size ratio": Estimate(total / max(1, own))}
        settings: dict[str, JsonValue] = {"path": paths.get(one.name, "(mixed)")}
        settings |= {name: f"{tower.scheme}, {tower.engine}" for name, tower in towers.items()}
        yield Record("size", "size on disk", one.name, settings, measures, environment=environment())


def _fidelity(job: _Job) -> Iterator[Record]:
    first = job.subjects[0]
    for name in job.own:  # what the others are beside: it is as faithful, as small and as fast as itself
        own = {key: Estimate(1.0) for key in _COSINES}
        own["weights_bytes"] = Estimate(float(first.artifact.tower(name).bytes))
        own |= {key: Estimate(1.0) for key in ("size_ratio", "time_ratio")}
        tower = first.artifact.tower(name)
        settings: dict[str, JsonValue] = {"modality": name, "engine": tower.engine, "scheme": tower.scheme}
        yield Record("fidelity", f"fidelity, {name}", first.name, settings, own, environment=environment())
    for other in job.whole[1:]:
        with Steps(_named(job, other)) as bar:
            for found in compare.compare(
                first.artifact.folder,
                other.artifact.folder,
                data=job.settings.data,
                modalities=job.own,
                samples=job.settings.samples,
                threads=job.threads,
                seed=job.settings.seed,
                on_tower=lambda modality, views, bar=bar: bar.begin(f"comparing {modality}", views),  # type: ignore[misc]
                on_done=bar.advance,
            ):
                for told in found.notes:
                    job.note(f"{other.name}, {found.modality}: {told}")
                yield found.record(first.name, other.name)


def _speed(job: _Job) -> Iterator[Record]:
    plan = throughput.Plan(
        threads=(job.threads,),
        callers=(1,),
        data=job.settings.data,
        samples=job.settings.samples,
        seconds=job.settings.seconds,
        seed=job.settings.seed,
    )
    for modality in job.own:
        with Steps(job.progress) as bar:
            found = throughput.measure_in_turns(
                [one.artifact.folder for one in job.whole],
                modality,
                plan,
                on_begin=lambda name, steps, bar=bar: bar.begin(f"timing {name}", steps),  # type: ignore[misc]
                on_done=bar.advance,
            )
        for one, record in zip(job.whole, found, strict=True):
            yield replace(record, model=one.name)


def _memory(job: _Job) -> Iterator[Record]:
    for modality in job.own:
        for one in job.whole:
            with Steps(_named(job, one)) as bar:
                bar.begin(f"memory of {modality}", job.settings.repeats)
                found = memory.record(
                    one.artifact.folder,
                    modality,
                    threads=job.threads,
                    data=job.settings.data,
                    repeats=job.settings.repeats,
                    on_done=bar.advance,
                )
            yield replace(found, model=one.name)


def _opened(job: _Job, one: _Subject) -> Model:
    return Model(one.artifact, threads=job.threads)


def _named(job: _Job, one: _Subject) -> Progress:
    return lambda label, *, total: job.progress(f"{one.name}: {label}", total=total)


def _on_data(job: _Job, subjects: Sequence[_Subject], evaluate: Callable[..., list[Record]]) -> Iterator[Record]:
    """What subjects are worth on data, each held against the first; ``evaluate`` is a task with its data."""
    beside = Beside()
    for one in subjects:
        with _opened(job, one) as model:
            yield from evaluate(
                model,
                name=one.name,
                samples=job.settings.most,
                seed=job.settings.seed,
                beside=beside,
                progress=_named(job, one),
            )


def _zero_shot(job: _Job) -> Iterator[Record]:
    assert job.tasks.zero_shot is not None
    task = partial(zero_shot_through, (), data=job.tasks.zero_shot, templates=job.tasks.templates)
    return _on_data(job, job.subjects, task)


def _linear_probe(job: _Job) -> Iterator[Record]:
    train, test = job.tasks.train, job.tasks.test
    assert train is not None
    # A probe uses one tower, which a mix shares with one of the others.
    return _on_data(job, job.whole, lambda model, **same: [linear_probe(model, train, test, **same)])


def _retrieval(job: _Job) -> Iterator[Record]:
    assert job.tasks.retrieval is not None
    return _on_data(job, job.subjects, partial(retrieval, data=job.tasks.retrieval, codecs=job.tasks.codecs))


def _similarity(job: _Job) -> Iterator[Record]:
    rows, columns = similarity.shipped(_ROWS)
    first = job.subjects[0]
    with _opened(job, first) as reference:
        for one in job.whole[1:]:
            with _opened(job, one) as model:
                yield similarity.similarity(
                    model,
                    rows,
                    columns,
                    reference=reference,
                    name=one.name,
                    reference_name=first.name,
                    title="photographs and what they show",
                    seed=job.settings.seed,
                    progress=_named(job, one),
                )
