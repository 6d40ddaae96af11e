"""Which model a checkpoint holds, and the towers it is made of.

``detect`` reads nothing but names and shapes: a checkpoint of gigabytes is known, or refused, before a weight is read.
Every key must have its place: a missing or a left-over one is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimbind.errors import CheckpointError, UsageError
from slimbind.towers import clip, imagebind, mini
from slimbind.towers.keys import Config, Family, Layout, Read, Rule, Shape, Shapes
from slimbind.towers.layers import Tower

FAMILIES: dict[str, Family] = {family.name: family for family in (imagebind.FAMILY, clip.FAMILY, mini.FAMILY)}


@dataclass(frozen=True)
class Checkpoint:
    """What ``detect`` found: the family, and for every modality the tower's config, key rules and shapes."""

    family: str
    layout: Layout
    shapes: dict[str, dict[str, Shape]]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the checkpoint has a tower for."""
        return tuple(self.layout.configs)

    @property
    def configs(self) -> dict[str, Config]:
        """Modality -> config (JSON-able, what ``build`` takes)."""
        return self.layout.configs

    @property
    def rules(self) -> dict[str, dict[str, Rule]]:
        """Modality -> tower key -> the rule that makes it."""
        return self.layout.rules

    @property
    def recomputed(self) -> tuple[str, ...]:
        """Checkpoint keys that are checked but not stored, because the tower computes them."""
        return tuple(self.layout.recomputed)


def detect(shapes: Shapes, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Find out the family and the towers of a checkpoint from its keys and shapes.

    Args:
        shapes: checkpoint key -> shape.
        config: what shapes do not tell (ImageBind: heads of unusual widths; CLIP: the activation).

    Raises:
        CheckpointError: no known family; a key is missing, left over or has the wrong shape; the config does not fit.
    """
    shapes = {key: tuple(shape) for key, shape in shapes.items()}
    if config is not None and not isinstance(config, Mapping):
        raise CheckpointError(f"the config is a {type(config).__name__}", hint="it must be a JSON object")
    family = next((f for f in FAMILIES.values() if f.claims(shapes)), None)
    if family is None or family.read is None:
        known = ", ".join(sorted(name for name, f in FAMILIES.items() if f.read is not None))
        some = ", ".join(repr(key) for key in list(shapes)[:3]) or "none"
        raise CheckpointError(
            f"the checkpoint's keys belong to no known model family (first keys: {some})",
            hint=f"known families: {known}; a file that wraps its state dict must be unwrapped first",
        )
    for key, shape in shapes.items():
        if 0 in shape:
            raise CheckpointError(f"the checkpoint's {key!r} is empty: shape {list(shape)}", hint="the file is damaged")
    layout = family.read(shapes, config)
    _check_keys(family.name, shapes, layout)
    dims = {modality: found["dim"] for modality, found in layout.configs.items()}
    if len(set(dims.values())) > 1:
        raise CheckpointError(
            f"the checkpoint's towers embed into spaces of different size: {dims}",
            hint="the file is damaged, or joined from several models",
        )
    made: dict[str, dict[str, Shape]] = {}
    for modality, rules in layout.rules.items():
        tower = build(family.name, modality, layout.configs[modality])
        made[modality] = _check_shapes(modality, tower, rules, shapes)
    return Checkpoint(family=family.name, layout=layout, shapes=made)


def tower_keys(checkpoint: Checkpoint, modality: str) -> dict[str, Rule]:
    """Tower key -> the rule that makes it; raises ``UsageError`` for a modality that the checkpoint lacks."""
    if modality not in checkpoint.rules:
        raise UsageError.unknown("modality of this checkpoint", modality, checkpoint.modalities)
    return checkpoint.rules[modality]


def convert(checkpoint: Checkpoint, modality: str, read: Read) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one tower, one at a time, from ``read(checkpoint key) -> Tensor``."""
    for key, rule in tower_keys(checkpoint, modality).items():
        yield key, rule.apply(read, checkpoint.shapes[modality][key])


def check_recomputed(checkpoint: Checkpoint, read: Read) -> None:
    """Make sure that the keys which are not stored hold what the towers compute; raises ``CheckpointError``."""
    for key, fits in checkpoint.layout.recomputed.items():
        if not fits(read(key)):
            raise CheckpointError(
                f"the checkpoint's {key!r} does not hold what the {checkpoint.family} family computes in its place",
                hint="this is a variant of the model that is not supported",
            )


def build(family: str, modality: str, config: Mapping[str, Any], *, device: str | torch.device = "meta") -> Tower:
    """A tower in eval mode: without weights on the ``meta`` device, with random ones elsewhere.

    Raises:
        UsageError: the family is not known.
        CheckpointError: the config lacks an entry or has a value that no tower can be built with.
    """
    if family not in FAMILIES:
        raise UsageError.unknown("model family", family, FAMILIES)
    try:
        with torch.device(device):
            tower = FAMILIES[family].build(modality, dict(config))
    except KeyError as error:
        raise CheckpointError(
            f"the config of {family} {modality} is not usable: {error} is missing or unknown",
            hint="use the config that was written with the weights",
        ) from error
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"the config of {family} {modality} is not usable: {error}",
            hint="use the config that was written with the weights",
        ) from error
    return tower.eval().requires_grad_(False)


def load(tower: Tower, tensors: Mapping[str, Tensor]) -> Tower:
    """Put weights into a tower, without a copy; floating ones are taken as float32.

    Raises:
        CheckpointError: a tensor is missing, left over or has the wrong shape; the message names it.
    """
    wanted = {key: tuple(value.shape) for key, value in tower.state_dict().items()}
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise CheckpointError(_key_message(f"the weights of {tower.modality}", missing, extra))
    for key, shape in wanted.items():
        if tuple(tensors[key].shape) != shape:
            raise CheckpointError(
                f"the weights of {tower.modality} have shape {list(tensors[key].shape)} for {key!r}; "
                f"expected {list(shape)}",
                hint="weights and config do not belong together",
            )
    values = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    tower.load_state_dict(values, strict=True, assign=True)
    return tower.eval().requires_grad_(False)


def _check_keys(family: str, shapes: Shapes, layout: Layout) -> None:
    used = {source for rules in layout.rules.values() for rule in rules.values() for source in rule.sources}
    missing = sorted((used | layout.recomputed.keys()) - shapes.keys())
    extra = sorted(shapes.keys() - used - layout.recomputed.keys())
    if missing or extra:
        raise CheckpointError(
            _key_message(f"the checkpoint (taken for {family}, {', '.join(layout.configs)})", missing, extra),
            hint="check that the file is complete and of this family",
        )


def _key_message(what: str, missing: list[str], extra: list[str]) -> str:
    parts = [
        f"{word} {len(keys)} key{'s' * (len(keys) > 1)}: {', '.join(map(repr, keys[:3]))}" + ", ..." * (len(keys) > 3)
        for word, keys in (("lacks", missing), ("has left over", extra))
        if keys
    ]
    return f"{what} {' and '.join(parts)}"


def _check_shapes(modality: str, tower: Tower, rules: Mapping[str, Rule], shapes: Shapes) -> dict[str, Shape]:
    wanted: dict[str, Shape] = {key: tuple(value.shape) for key, value in tower.state_dict().items()}
    if wanted.keys() != rules.keys():
        raise AssertionError(f"rules and tower disagree on {sorted(wanted.keys() ^ rules.keys())}")
    for key, rule in rules.items():
        got = rule.shape(shapes)
        if _squeezed(got) != _squeezed(wanted[key]):
            source = rule.sources[0] if len(rule.sources) == 1 or rule.op == "bn_weight" else list(rule.sources)
            raise CheckpointError(
                f"the checkpoint's {source!r} has shape {list(got)}; {modality} of this size needs {list(wanted[key])}",
                hint="the file is damaged or of another model",
            )
    return wanted


def _squeezed(shape: Shape) -> Shape:
    # One-sized axes carry no values: a class token [width] and [1, 1, width] are the same.
    return tuple(size for size in shape if size != 1)
