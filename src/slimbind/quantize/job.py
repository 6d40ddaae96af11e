"""Quantizes an artifact: a tower at a time is rewritten, quantized, written, compared, and kept or refused."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimbind.artifact import Artifact, ArtifactWriter, TowerEntry, check_destination, check_space
from slimbind.errors import ArtifactError, DriftError, UsageError
from slimbind.evaluate import fidelity
from slimbind.evaluate.speed import in_turns
from slimbind.export.job import WRITERS, load_tower, open_split
from slimbind.modalities import MODALITIES, check_modality
from slimbind.quantize import keep, mixed, qat, weight_only
from slimbind.quantize.calibration import Calibration, gather
from slimbind.quantize.hollow import hollow
from slimbind.quantize.plan import Plan
from slimbind.quantize.recipe import Recipe
from slimbind.quantize.report import Progress, Report, silent
from slimbind.quantize.schemes import LEAST, EagerDynamic, EagerStatic, Int4Weight, Keeping, Learning, Mixed, Scheme
from slimbind.quantize.schemes import scheme as named_scheme
from slimbind.quantize.sites import sites
from slimbind.quantize.work import Work, place
from slimbind.runtime.cpu import int8_note
from slimbind.runtime.engine import INPUT, Options, files_of
from slimbind.runtime.engine import engine as runtime_engine
from slimbind.runtime.memory import drop_file_pages, returning_blocks, trim_heap
from slimbind.runtime.threads import resolve_threads
from slimbind.towers import registry
from slimbind.towers.layers import Tower
from slimbind.towers.simplify import simplify

_FLOAT = ("f32", "f16", "bf16")
_TIMING = 1.0  # seconds
_SLACK = 1.1  # norms, positions, graphs: what an estimate by parameters leaves out


def quantize(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    scheme: str | Scheme = "int8-dynamic",
    engine: str | None = None,
    modalities: Iterable[str] | None = None,
    calibrate: Sequence[str | os.PathLike[str]] = (),
    samples: int | None = None,
    force: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    report: Callable[[str, TowerEntry], None] = lambda modality, entry: None,
    note: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> Artifact:
    """Write a quantized artifact from a split folder.

    Args:
        source: a folder written by ``slimbind split``.
        destination: the artifact's folder; appears whole or not at all. Towers that were finished when the job was
            stopped wait beside it, and the same call goes on from there.
        scheme: a name from ``SCHEMES``, or one with settings (``schemes.scheme``).
        engine: ``openvino`` or ``onnx``; the paper's baselines run on ``torch`` alone.
        modalities: which towers; all by default.
        calibrate: data: folders, ``.npz`` or ``.txt`` files, ``modality=path`` (see ``calibration.gather``); the
            samples that come with slimbind where none is given.
        samples: how many items of a modality are used at most.
        force: keep towers that say something else than their reference, instead of refusing them.
        overwrite: replace an artifact that is there.
        threads: threads of PyTorch and of the comparison.
        report: is told of every finished tower.
        note: is told what people should know (what data is used, that int8 will not be faster here).
        progress: is told of the stages.

    Raises:
        UsageError: unknown scheme, engine or modality, a pair that does not go together, data that is of no use, a
            recipe that does not fit.
        ArtifactError: the source is no split folder, or was quantized already; the destination cannot be written.
        DriftError: a tower says something else than its reference; nothing is written.
    """
    config = named_scheme(scheme) if isinstance(scheme, str) else scheme
    chosen_engine = _engine_for(config, engine)
    check_destination(Path(destination), overwrite=overwrite, source=Path(source))
    artifact = open_split(source)
    entries = _entries(artifact, modalities)
    _check_settings(config, artifact, entries, chosen_engine, note)
    estimate = sum(entry.parameters * config.bits / 8 for entry in entries.values()) * _SLACK
    check_space(Path(destination), int(estimate))
    if config.multiplies_int8 and int8_note():
        note(int8_note())
    data = gather(artifact, list(entries), [os.fspath(path) for path in calibrate], samples=samples)
    for modality, calibration in data.items():
        note(f"{modality}: {'calibrated and ' if config.looks_at_data else ''}compared with {calibration.source}")
        for name, reason in calibration.skipped.items():
            note(f"skipped: {name}: {reason}")
    manifest = artifact.manifest
    towers: dict[str, Artifact] = {}
    job = _Job(artifact, config, chosen_engine, Options(resolve_threads(threads)), progress)
    work = Work(Path(destination), model=manifest.model, embedding_dim=manifest.embedding_dim)
    with work:
        try:
            for modality, entry in entries.items():
                path = work.path(modality, entry, config, chosen_engine, data[modality].digest)
                finished = work.find(path)
                if finished is None:
                    artifact.verify(modality)
                    with work.begin(path) as one:
                        job.tower(modality, entry, data[modality], one)
                    finished = Artifact.open(path)
                    gc.collect()  # traced modules refer to themselves
                    trim_heap()  # the next tower needs the room
                else:
                    note(f"{modality}: was finished before the job was stopped")
                _check(finished.tower(modality), modality, config, force=force, note=note)
                towers[modality] = finished
                report(modality, finished.tower(modality))
            with ArtifactWriter(
                destination,
                model=manifest.model,
                embedding_dim=manifest.embedding_dim,
                overwrite=overwrite,
                scores=manifest.scores,
            ) as writer:
                for modality, finished in towers.items():
                    place(finished, modality, writer)
        except BaseException:
            if work.kept or work.begun:
                waits = "finished towers wait" if work.kept else "the fine-tuning that was begun waits"
                note(f"{waits} in {work.folder}; the same job, run again, goes on from there")
            raise
        work.done()
    return Artifact.open(destination)


def _engine_for(config: Scheme, name: str | None) -> str:
    if name is None:
        return config.engines[0]
    if name not in config.engines:
        raise UsageError.unknown(f"engine for {config.name}", name, config.engines)
    return name


def _entries(artifact: Artifact, modalities: Iterable[str] | None) -> dict[str, TowerEntry]:
    wanted = artifact.modalities if modalities is None else tuple(check_modality(name) for name in modalities)
    found = {name: artifact.tower(name) for name in MODALITIES if name in wanted}
    if not found:
        raise UsageError("no modality was asked for", hint=f"this model has {', '.join(artifact.modalities)}")
    for modality, entry in found.items():
        hint = "quantize the folder that `slimbind split` wrote"
        if entry.quantization is not None or entry.scheme not in _FLOAT:
            raise ArtifactError(
                f"the {modality} tower of {artifact.folder} is already quantized ({entry.scheme})", hint=hint
            )
        if entry.engine != "torch":
            raise ArtifactError(
                f"the {modality} tower of {artifact.folder} was already exported for {entry.engine}", hint=hint
            )
    return found


def _check_settings(
    config: Scheme,
    artifact: Artifact,
    entries: Mapping[str, TowerEntry],
    engine: str,
    note: Callable[[str], None],
) -> None:
    """Refuse a budget that says nothing, and what does not fit its towers, before any work is done."""
    if isinstance(config, Mixed):
        mixed.check(config)
    if not isinstance(config, Int4Weight) and getattr(config, "recipe", None) is None:
        return
    family = artifact.manifest.model.family
    bare = {name: simplify(registry.build(family, name, entry.config)) for name, entry in entries.items()}
    if isinstance(config, Int4Weight):
        for name, tower in bare.items():
            if left := weight_only.left_in_8_bits(name, sites(tower), config.group):
                note(left)
    elif isinstance(config, Mixed) and config.recipe is not None:
        recipe = Recipe.from_json(config.recipe)
        recipe.check({name: list(sites(tower)) for name, tower in bare.items()})
        for name, tower in bare.items():
            mixed.check_recipe(recipe, name, sites(tower), engine)


def _check(entry: TowerEntry, modality: str, config: Scheme, *, force: bool, note: Callable[[str], None]) -> None:
    """Refuse a tower below its scheme's threshold, unless forced."""
    assert entry.fidelity is not None
    try:
        fidelity.check(entry.fidelity, modality=modality, scheme=config.name, least=least_cosine(config))
    except DriftError as error:
        if not force:
            raise
        note(f"kept all the same: {error.message}")


def least_cosine(config: Scheme) -> float:
    """The smallest cosine that the worst held-out item may have; see ``schemes.LEAST``."""
    asked = getattr(config, "min_fidelity", None)
    return LEAST[config.name][0] if asked is None else float(asked)


@dataclass(frozen=True)
class _Job:
    """What is the same for all towers."""

    artifact: Artifact
    config: Scheme
    engine: str
    options: Options
    progress: Progress

    def tower(self, modality: str, entry: TowerEntry, data: Calibration, writer: ArtifactWriter) -> None:
        """Quantize one tower, write it, and measure what was written."""

        weights = files_of(self.artifact.folder, entry)

        def progress(stage: str, total: int) -> Callable[[int], None]:
            # What a stage has read of the weights' file, and what it has freed, would count for the next one too.
            drop_file_pages(weights)
            trim_heap()
            return self.progress(f"{modality}: {stage}", total)

        folder = writer.folder(modality)
        inputs = list(data.held_out())
        with returning_blocks(), _threads(self.options.threads):
            tower = load_tower(self.artifact, modality)
            reference = _embed(tower, inputs, progress)
            plan, made = self._write(tower, folder, data, progress, Work.checkpoint(writer.destination))
            del tower
        for file in entry.files:
            if not file.path.endswith(".safetensors"):  # the tokenizer
                shutil.copyfile(self.artifact.folder / file.path, folder / Path(file.path).name)
        gc.collect()
        trim_heap()
        fields = self._fields(entry, plan, made, data)
        written = writer.add(modality, **fields)
        found, ratio = self._run(folder.parent, written, modality, inputs, progress)
        measured = fidelity.measure(
            np.concatenate(reference),
            np.concatenate(found),
            data=data.source,
            reference_bytes=entry.bytes,
            time_ratio=ratio,
        )
        digests = {file.path: file.sha256 for file in written.files}
        writer.add(modality, digests=digests, **(fields | {"fidelity": measured}))

    def _write(
        self, tower: Tower, folder: Path, data: Calibration, progress: Progress, checkpoint: Path
    ) -> tuple[Plan, Report]:
        if isinstance(self.config, EagerDynamic | EagerStatic):
            from slimbind.quantize import eager  # deprecated parts of PyTorch, which only these two need

            baseline, plan, made = self.config.make(tower, data, progress)
            eager.write(baseline, folder, self.config.name)
            return plan, made
        simple = simplify(tower)
        tower, plan, made = self.config.make(simple, data, progress)
        learns = isinstance(self.config, Learning) and self.config.qat_steps > 0
        if isinstance(self.config, Keeping) and self.config.keep and not learns:
            least = least_cosine(self.config)
            tower, plan, made = keep.enough((tower, plan, made), simple, data, least, progress)
        if isinstance(self.config, Learning) and self.config.qat_steps:
            tower, plan, made = qat.finish(
                (tower, plan, made), simple, data, self.config.qat_steps, progress, checkpoint=checkpoint
            )
        del simple
        tower = hollow(tower, plan)
        progress("writing", 1)
        WRITERS[self.engine][0](tower, folder, plan)
        if isinstance(self.config, Mixed):
            (folder / "recipe.json").write_text(mixed.recipe_of(made).to_json(), encoding="utf-8")
        return plan, made

    def _fields(self, entry: TowerEntry, plan: Plan, made: Report, data: Calibration) -> dict[str, Any]:
        config = dict(entry.config) | {"precision": plan.precision, "group_size": plan.group_size or 0}
        record = self.config.to_record()
        if self.config.looks_at_data or made.kept:
            record["calibration"] = data.digest
        record["report"] = made.model_dump(mode="json", exclude_defaults=True) | {"data": data.source}
        return {
            "engine": self.engine,
            "scheme": self.config.name,
            "weights": entry.weights,
            "parameters": entry.parameters,
            "config": config,
            "preprocess": entry.preprocess,
            "logit_scale": entry.logit_scale,
            "quantization": record,
        }

    def _run(
        self, folder: Path, entry: TowerEntry, modality: str, inputs: Sequence[torch.Tensor], progress: Progress
    ) -> tuple[list[NDArray[np.float32]], float]:
        """What the written tower gives, and how many times as fast as the split one it is: one item, one thread."""
        done = progress("comparing", len(inputs))
        model = self.artifact.manifest.model
        # With more threads the ratio would be of how two libraries wait for each other's on a busy machine.
        options = Options(threads=1)
        session = runtime_engine(self.engine).open(folder, entry, options, model=model, modality=modality)
        with closing(session):
            found = []
            for number, x in enumerate(inputs, 1):
                found.append(session.run({INPUT: x.numpy()}))
                done(number)
            progress("timing", 1)
            split = self.artifact.tower(modality)
            reference = runtime_engine(split.engine).open(
                self.artifact.folder, split, options, model=model, modality=modality
            )
            with closing(reference):
                single = {INPUT: inputs[len(inputs) // 2][:1].numpy()}
                pace = in_turns([partial(reference.run, single)], [partial(session.run, single)], seconds=_TIMING)
        return found, pace.ratio


def _embed(tower: Tower, inputs: Sequence[torch.Tensor], progress: Progress) -> list[NDArray[np.float32]]:
    done = progress("reference", len(inputs))
    found = []
    with torch.inference_mode():
        for number, x in enumerate(inputs, 1):
            found.append(tower(x).numpy().astype(np.float32))
            done(number)
    return found


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch's number of threads belongs to the process; it is set for the time of the work only."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
