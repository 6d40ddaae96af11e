"""Takes a checkpoint apart: one safetensors file per modality and a manifest, with memory for one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimbind.artifact import ArtifactWriter, ModelInfo, TowerEntry, check_destination, check_space
from slimbind.errors import ArtifactError, CheckpointError, UsageError
from slimbind.media.clip_tokenizer import VOCABULARY, clip_tokenizer_json
from slimbind.media.spec import PreprocessSpec
from slimbind.modalities import MODALITIES, check_modality
from slimbind.towers import registry
from slimbind.towers.checkpoint import Weights
from slimbind.towers.layers import logit_scale_of
from slimbind.towers.preparation import specs_of
from slimbind.towers.weightfile import Slot, write

TOWER_FILE = "tower.safetensors"
TOKENIZER_FILE = "tokenizer.json"
LICENSES = {"imagebind": "CC-BY-NC-4.0"}
ATTRIBUTIONS = {"imagebind": "ImageBind (Girdhar et al., CVPR 2023), Copyright (c) Meta Platforms, Inc."}
UNKNOWN_LICENSE = "unknown"

# Width and depth of ImageBind-Huge's trunks: a checkpoint of these sizes can be held against the paper's Table I.
_HUGE = {
    "vision": (1280, 32),
    "text": (1024, 24),
    "audio": (768, 12),
    "thermal": (768, 12),
    "depth": (384, 12),
    "imu": (512, 6),
}
_SCHEMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_LOGIT_KEY = "log_logit_scale"


@dataclass(frozen=True)
class Plan:
    """What a split will write, known before a weight is read.

    ``slots`` is modality -> tower key -> type and shape.
    """

    weights: Weights
    checkpoint: registry.Checkpoint
    slots: Mapping[str, Mapping[str, Slot]]
    specs: Mapping[str, PreprocessSpec]

    @property
    def family(self) -> str:
        """The model family."""
        return self.checkpoint.family

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that will be written, in the project's order."""
        return tuple(self.slots)

    @property
    def bytes(self) -> int:
        """Size of all tensors that will be written."""
        return sum(slot.bytes for slots in self.slots.values() for slot in slots.values())

    @property
    def is_huge(self) -> bool:
        """Whether the towers have the sizes of ImageBind-Huge."""
        configs = self.checkpoint.configs
        return self.family == "imagebind" and all(
            (configs[modality]["width"], configs[modality]["depth"]) == _HUGE[modality] for modality in self.slots
        )


def plan(
    weights: Weights,
    *,
    modalities: Iterable[str] | None = None,
    config: Mapping[str, Any] | None = None,
    preparation: Mapping[str, Any] | None = None,
) -> Plan:
    """Find out what a checkpoint holds and what splitting it will write. Reads names and shapes only.

    Args:
        weights: the open checkpoint; every key of it must have a place in a tower.
        modalities: which towers to write; all by default.
        config: what the weights do not tell (heads of unusual widths, CLIP's activation).
        preparation: the preprocessing published beside the weights, if it is not the family's own.

    Raises:
        CheckpointError: unknown family; missing, left-over or misshapen keys (named); a text tower that needs another
            tokenizer than CLIP's.
        UsageError: a modality that does not exist or that the checkpoint lacks.
    """
    checkpoint = registry.detect(weights.shapes, config)
    wanted = list(checkpoint.modalities) if modalities is None else [check_modality(name) for name in modalities]
    if not wanted:
        raise UsageError("no modality was asked for", hint=f"this checkpoint has {', '.join(checkpoint.modalities)}")
    for name in wanted:
        if name not in checkpoint.modalities:
            raise UsageError.unknown("modality of this checkpoint", name, checkpoint.modalities)
    chosen = [name for name in MODALITIES if name in wanted]
    words = checkpoint.configs["text"]["vocabulary"] if "text" in chosen else VOCABULARY
    if words != VOCABULARY:  # with another tokenizer it would run, and understand nothing
        raise CheckpointError(
            f"the text tower knows {words} tokens; CLIP's tokenizer, the only one that is supported, has {VOCABULARY}",
            hint="leave it out: --modalities " + (",".join(m for m in checkpoint.modalities if m != "text") or "..."),
        )
    slots = {modality: _slots(checkpoint, modality, weights) for modality in chosen}
    specs = specs_of({modality: checkpoint.configs[modality] for modality in chosen}, preparation)
    return Plan(weights=weights, checkpoint=checkpoint, slots=slots, specs=specs)


def run(
    plan: Plan,
    destination: Path,
    *,
    model: ModelInfo,
    overwrite: bool = False,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> dict[str, TowerEntry]:
    """Write the artifact: ``<modality>/tower.safetensors``, the tokenizer beside the text tower, the manifest.

    It appears whole or not at all. Returns modality -> manifest entry; ``on_bytes`` hears of every chunk written.

    Raises:
        ArtifactError: the destination exists, cannot be written, or has too little space.
        CheckpointError: the weights are damaged, or hold what no tower computes.
    """
    check_destination(destination, overwrite=overwrite)
    check_space(destination, plan.bytes)
    registry.check_recomputed(plan.checkpoint, plan.weights.read)
    dims = {plan.checkpoint.configs[modality]["dim"] for modality in plan.modalities}
    if len(dims) != 1:
        raise CheckpointError(f"the towers have embeddings of different sizes: {', '.join(map(str, sorted(dims)))}")
    with ArtifactWriter(destination, model=model, embedding_dim=dims.pop(), overwrite=overwrite) as writer:
        for modality in plan.modalities:
            try:
                _write_tower(plan, modality, writer, on_bytes)
            except PermissionError as error:
                raise ArtifactError(f"cannot write to {destination}: {error.strerror}") from error
        return writer.towers


def _write_tower(plan: Plan, modality: str, writer: ArtifactWriter, on_bytes: Callable[[int], None]) -> None:
    slots, rules = plan.slots[modality], registry.tower_keys(plan.checkpoint, modality)
    logit_scale: list[float] = []

    def read(key: str) -> Tensor:
        value = rules[key].apply(plan.weights.read, slots[key].shape).to(slots[key].dtype)
        if key == _LOGIT_KEY:
            logit_scale.append(logit_scale_of(value))
        return value

    folder = writer.folder(modality)
    digest = write(folder / TOWER_FILE, slots, read, on_bytes=on_bytes)
    if modality == "text":
        (folder / TOKENIZER_FILE).write_text(clip_tokenizer_json(), encoding="utf-8")
    writer.add(
        modality,
        digests={f"{modality}/{TOWER_FILE}": digest},
        engine="torch",
        scheme=_scheme(slots),
        weights=digest,
        parameters=sum(slot.count for slot in slots.values()),
        config=dict(plan.checkpoint.configs[modality]),
        preprocess=plan.specs[modality],
        logit_scale=logit_scale[0] if logit_scale else None,
    )


def _slots(checkpoint: registry.Checkpoint, modality: str, weights: Weights) -> dict[str, Slot]:
    slots = {}
    for key, rule in registry.tower_keys(checkpoint, modality).items():
        dtype = weights.dtypes[rule.sources[0]]
        # float64 says nothing more to a tower, and integers are no weights. A product with a batch normalisation has
        # more digits than its half-precision factor, and may leave its range.
        if dtype not in _SCHEMES or rule.op in ("bn_weight", "bn_bias"):
            dtype = torch.float32
        slots[key] = Slot(dtype, checkpoint.shapes[modality][key])
    return slots


def _scheme(slots: Mapping[str, Slot]) -> str:
    """The type that most of the bytes have: half-precision models keep their norms in float32."""
    sizes: dict[torch.dtype, int] = {}
    for slot in slots.values():
        sizes[slot.dtype] = sizes.get(slot.dtype, 0) + slot.bytes
    return _SCHEMES[max(sizes, key=lambda dtype: sizes[dtype])]
