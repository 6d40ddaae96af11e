"""The export of an artifact: one tower at a time is loaded, simplified, written for an engine, and compared."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file

from slimbind.artifact import MANIFEST, Artifact, ArtifactWriter, TowerEntry, check_destination, check_space
from slimbind.errors import ArtifactError, UsageError
from slimbind.export import compare, onnx, openvino
from slimbind.hub.known import find
from slimbind.modalities import MODALITIES, check_modality
from slimbind.quantize.plan import Float, Plan
from slimbind.runtime.engine import Options, engine, single_file
from slimbind.runtime.memory import trim_heap
from slimbind.runtime.threads import resolve_threads
from slimbind.towers import registry
from slimbind.towers.layers import Tower
from slimbind.towers.simplify import simplify

# Engine -> how it writes a tower, and the types it can store weights in.
WRITERS: dict[str, tuple[Callable[[Tower, Path, Plan], None], tuple[Float, ...]]] = {
    "openvino": (openvino.write, ("f32", "f16", "bf16")),
    # ONNX Runtime has next to no bf16 kernels on the CPU.
    "onnx": (onnx.write, ("f32", "f16")),
}

_WEIGHT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}


def export(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    engine: str = "openvino",
    dtype: str = "f32",
    modalities: Iterable[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    report: Callable[[str, TowerEntry], None] = lambda modality, entry: None,
) -> Artifact:
    """Write an artifact for ``engine`` from a split folder.

    Args:
        source: a folder written by ``slimbind split``.
        destination: the artifact's folder; appears whole or not at all.
        engine: ``openvino`` or ``onnx``.
        dtype: how weights are stored: ``f32``, ``f16``, ``bf16`` (OpenVINO only).
        modalities: which towers; all by default.
        overwrite: replace an artifact that is there.
        threads: threads of the comparison.
        report: is told of every finished tower.

    Raises:
        UsageError: unknown engine, dtype or modality, or a pair that does not go together.
        ArtifactError: the source is no split folder, or the destination cannot be written.
        DriftError: an exported tower says something else than its reference; nothing is written.
    """
    if engine not in WRITERS:
        raise UsageError.unknown("engine to export to", engine, WRITERS)
    write, dtypes = WRITERS[engine]
    stored = next((known for known in dtypes if known == dtype), None)
    if stored is None:
        raise UsageError.unknown(f"dtype for {engine}", dtype, dtypes)
    check_destination(Path(destination), overwrite=overwrite, source=Path(source))
    artifact = open_split(source)
    wanted = artifact.modalities if modalities is None else tuple(check_modality(name) for name in modalities)
    chosen = [name for name in MODALITIES if name in wanted]
    entries = {name: _split_entry(artifact, name) for name in chosen}
    if not entries:
        raise UsageError("no modality was asked for", hint=f"this model has {', '.join(artifact.modalities)}")
    manifest = artifact.manifest
    options = Options(resolve_threads(threads))
    check_space(Path(destination), sum(entry.parameters for entry in entries.values()) * _WEIGHT_BYTES[stored])
    with ArtifactWriter(
        destination,
        model=manifest.model,
        embedding_dim=manifest.embedding_dim,
        overwrite=overwrite,
        scores=manifest.scores,
    ) as writer:
        for modality, entry in entries.items():
            artifact.verify(modality)
            report(modality, _export_tower(artifact, modality, entry, writer, engine, stored, write, options))
            gc.collect()  # traced modules refer to themselves
            trim_heap()  # the next tower needs the room
    return Artifact.open(destination)


def open_split(source: str | os.PathLike[str]) -> Artifact:
    """The folder that towers are taken from.

    Raises:
        ArtifactError: there is no artifact; says how one is made of what is there.
    """
    if (Path(source) / MANIFEST).exists():
        return Artifact.open(source)
    known = find(os.fspath(source))
    made = f"{Path(source).name.rpartition('.')[0] or Path(source).name}-split"
    hint = f"make one: slimbind split {source if known or Path(source).exists() else 'CHECKPOINT'} -o {made}/"
    if known is not None and known.packaged:
        hint = f"{source} comes quantized; recipes/{source}/split.py writes the folder it was made from"
    what = "is not a slimbind artifact" if Path(source).exists() else "is not there"
    if known is not None:
        what = "is the name of a model"
    raise ArtifactError(f"{source} {what}; what is wanted is a folder that `slimbind split` wrote", hint=hint)


def load_tower(artifact: Artifact, modality: str) -> Tower:
    """A tower of a split folder, its weights mapped from the file (f16 and bf16 ones converted to f32)."""
    entry = artifact.tower(modality)
    tensors = load_file(single_file(artifact.folder, entry, ".safetensors"))
    return registry.load(registry.build(artifact.manifest.model.family, modality, entry.config), tensors)


def _split_entry(artifact: Artifact, modality: str) -> TowerEntry:
    entry = artifact.tower(modality)
    if entry.engine != "torch":
        raise ArtifactError(
            f"the {modality} tower of {artifact.folder} was already exported (for {entry.engine}, {entry.scheme})",
            hint="export from the folder that `slimbind split` wrote",
        )
    return entry


def _export_tower(
    artifact: Artifact,
    modality: str,
    entry: TowerEntry,
    writer: ArtifactWriter,
    engine_name: str,
    dtype: Float,
    write: Callable[[Tower, Path, Plan], None],
    options: Options,
) -> TowerEntry:
    tower = load_tower(artifact, modality)
    inputs = list(compare.samples(tower))
    # The reference is the tower as it was split, so that the rewrites are held to it as well.
    with torch.inference_mode():
        references = [tower(x).numpy().astype("float32") for x in inputs]
    folder = writer.folder(modality)
    write(simplify(tower), folder, Plan(rest=dtype))
    del tower
    for file in entry.files:
        if not file.path.endswith(".safetensors"):  # the tokenizer
            shutil.copyfile(artifact.folder / file.path, folder / Path(file.path).name)
    fields = entry.model_dump(exclude={"files", "engine", "scheme", "fidelity"}) | {
        "engine": engine_name,
        "scheme": dtype,
    }
    fields["preprocess"] = entry.preprocess
    written = writer.add(modality, **fields)
    session = engine(engine_name).open(folder.parent, written, options, model=writer.model, modality=modality)
    try:
        fidelity = compare.compare(references, inputs, session)
    finally:
        session.close()
    compare.check(fidelity, modality, dtype)
    digests = {file.path: file.sha256 for file in written.files}
    return writer.add(modality, digests=digests, **(fields | {"fidelity": fidelity}))
