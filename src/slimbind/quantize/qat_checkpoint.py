"""The checkpoint of a fine-tuning: one safetensors file with what was learned, how it was going, and of what it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slimbind.errors import UsageError
from slimbind.export.saving import saving
from slimbind.quantize.plan import Plan, StaticRange
from slimbind.towers.layers import Tower

Tensors = Mapping[str, Tensor]
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam


@dataclass(frozen=True)
class Score:
    """How the quantized tower agrees with the float32 one on the held-out inputs: cosines, plain and centred."""

    step: int
    cosine_mean: float
    cosine_min: float
    centred_mean: float
    centred_min: float


@dataclass
class State:
    """How far it is: ``best`` is the place in ``scores`` of the state that is kept."""

    step: int = 0
    best: int = 0
    scores: list[Score] = field(default_factory=list)


def save(
    path: Path, digest: str, parameters: Tensors, optimizer: torch.optim.Optimizer, kept: Tensors, state: State
) -> None:
    """Write the checkpoint, whole or not at all.

    Args:
        path: of the file.
        digest: what the checkpoint is of.
        parameters: by name, as they are now.
        optimizer: Adam over them.
        kept: the same parameters as they were at their best.
        state: how far it is.

    Raises:
        ArtifactError: it cannot be written.
    """
    tensors = {f"now/{name}": value.detach().contiguous() for name, value in parameters.items()}
    tensors |= {f"best/{name}": value for name, value in kept.items()}
    for name, value in parameters.items():
        moments = optimizer.state.get(value, {})
        tensors |= {f"{key}/{name}": moments[key] for key in _MOMENTS if key in moments}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with saving(path):
            save_file(tensors, partial, metadata={"qat": json.dumps(asdict(state) | {"digest": digest})})
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(
    path: Path, digest: str, parameters: Tensors, optimizer: torch.optim.Optimizer
) -> tuple[State, dict[str, Tensor]] | None:
    """Put a checkpoint into ``parameters`` and ``optimizer``; gives the state and what was kept, None without a file.

    Raises:
        UsageError: the file is no checkpoint, or of another tower, plan or setting.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            told: dict[str, Any] = json.loads((file.metadata() or {})["qat"])
            if told["digest"] != digest:
                raise UsageError(
                    f"{path} belongs to the fine-tuning of another tower, plan or setting",
                    hint="remove it, or fine-tune with what it was begun with",
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        state = State(int(told["step"]), int(told["best"]), [Score(**score) for score in told["scores"]])
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(tensors[f"now/{name}"])
                if state.step:
                    optimizer.state[value] = {key: tensors[f"{key}/{name}"] for key in _MOMENTS}
                    optimizer.state[value]["step"] = torch.tensor(float(state.step))
        return state, {name: tensors[f"best/{name}"] for name in parameters}
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        raise UsageError(f"{path} is no checkpoint of a fine-tuning: {error}", hint="remove it") from error


def digest_of(tower: Tower, plan: Plan, settings: Mapping[str, Any], held_out: Iterable[Tensor]) -> str:
    """What a checkpoint must agree on: settings, plan, every value of the tower, and what it is judged by."""
    rest = [plan.rest, plan.precision, plan.group_size]
    digest = hashlib.sha256(json.dumps([dict(settings), rest, tower.family, tower.modality, tower.config]).encode())
    for name, layer in sorted(plan.layers.items()):
        activation = layer.activation
        told = [activation.low, activation.high] if isinstance(activation, StaticRange) else activation
        digest.update(json.dumps([name, told, layer.stored]).encode())
        if layer.weight is not None:
            for tensor in (layer.weight.codes, layer.weight.scale):
                _take(digest, tensor)
    for name, value in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        _take(digest, value)
    for batch in held_out:
        _take(digest, batch)
    return digest.hexdigest()


def _take(digest: hashlib._Hash, tensor: Tensor) -> None:
    digest.update(f"{list(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
