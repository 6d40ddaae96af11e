"""Fine-tuning while quantized: a tower learns to say, in 8 or 4 bits, what it said in float32. No labels are needed.

The tower is its own teacher: on unlabeled inputs the quantized embeddings are pulled towards the float32 ones by
their cosine. Codes, scales, ranges and biases of the planned layers learn; norms and everything the plan leaves alone
do not. What is kept is the state that did best on held-out inputs, the beginning included, so that it is never worse
than that.

The cosine after subtracting the mean embedding is measured, but not learned from: where a tower's embeddings hardly
differ from their mean it says nothing of the mean, and learning from it lost that.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from slimbind.errors import UsageError
from slimbind.quantize import sites
from slimbind.quantize.emulate import emulate
from slimbind.quantize.plan import Plan, StaticRange
from slimbind.quantize.qat_layers import LearnedLayer
from slimbind.towers.layers import Tower

Batches = Callable[[int], Iterable[Tensor]]  # number of a pass over the data -> its batches, the same every time


@dataclass(frozen=True)
class QatConfig:
    """How to fine-tune.

    Args:
        steps: batches to learn from.
        rate: of codes, in steps of a code per batch; biases learn in the like unit at the same rate.
        range_rate: of scales and ranges, as a ratio per batch.
        warmup: share of the steps in which the rate grows; then it falls along a cosine.
        every: steps between two looks at the held-out inputs.
        patience: looks without a better result after which it ends early.
        seed: of whatever is random in the tower or the data.
    """

    steps: int = 300
    rate: float = 0.01
    range_rate: float = 0.01
    warmup: float = 0.1
    every: int = 25
    patience: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        for name, ok, allowed in (
            ("steps", self.steps >= 1, "1 or more"),
            ("rate", self.rate > 0, "above 0"),
            ("range_rate", self.range_rate >= 0, "0 or more"),
            ("warmup", 0 <= self.warmup < 1, "from 0 to below 1"),
            ("every", self.every >= 1, "1 or more"),
            ("patience", self.patience >= 1, "1 or more"),
        ):
            if not ok:
                raise UsageError(f"{name} of the fine-tuning is {getattr(self, name)}; allowed is {allowed}")


@dataclass(frozen=True)
class Score:
    """How the quantized tower agrees with the float32 one on the held-out inputs: cosines, plain and centred."""

    step: int
    cosine_mean: float
    cosine_min: float
    centred_mean: float
    centred_min: float


@dataclass(frozen=True)
class Progress:
    """What is told after every step; ``score`` where the held-out inputs were looked at."""

    step: int
    steps: int
    loss: float | None
    score: Score | None


@dataclass(frozen=True)
class Refined:
    """The outcome.

    Args:
        tower: the tower with what was learned; its planned weights are what their codes stand for.
        plan: the new codes and ranges.
        before, after: agreement on the held-out inputs.
        scores: of every look, in order.
        steps: batches learned from.
    """

    tower: Tower
    plan: Plan
    before: Score
    after: Score
    scores: tuple[Score, ...]
    steps: int


def refine(
    tower: Tower,
    plan: Plan,
    batches: Batches,
    held_out: Sequence[Tensor],
    config: QatConfig | None = None,
    *,
    teacher: Tower | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] = lambda told: None,
) -> Refined:
    """Fine-tune a planned tower against itself in float32.

    Args:
        tower: the float32 tower that the plan was made for (simplified and smoothed).
        plan: what begins; layers without codes stay as they are.
        batches: pass number -> batches of inputs. A generator that draws anew is fine if a pass can be repeated.
        held_out: batches that are not learned from.
        config: see ``QatConfig``.
        teacher: gives the embeddings to learn; ``tower`` itself by default.
        checkpoint: a safetensors file that is written at every look and gone on from where it is there. Remove it
            when the work is done.
        progress: is told of every step.

    Raises:
        UsageError: the plan quantizes nothing that can learn, there are no inputs, or the checkpoint is of another run.
    """
    config = config or QatConfig()
    learned = _layers(tower, plan)
    if not learned:
        raise UsageError("the plan has no quantized linear or convolution layer", hint="fine-tune after quantizing")
    if not held_out:
        raise UsageError("there are no held-out inputs", hint="keep some of the calibration data apart")
    return _Run(tower, teacher or tower, plan, learned, batches, held_out, config, checkpoint, progress).go()


def _layers(tower: Tower, plan: Plan) -> dict[str, LearnedLayer]:
    found = {}
    for name, site in sites.sites(tower).items():
        layer = plan.layers.get(name)
        if layer is not None and layer.weight is not None and isinstance(site.module, nn.Linear | nn.Conv2d):
            found[name] = LearnedLayer(site.module, layer, plan.group_size)
    return found


@dataclass
class _State:
    """What a checkpoint holds besides tensors."""

    step: int = 0
    best: int = 0  # index into scores
    scores: list[Score] = field(default_factory=list)


class _Run:
    def __init__(
        self,
        tower: Tower,
        teacher: Tower,
        plan: Plan,
        learned: dict[str, LearnedLayer],
        batches: Batches,
        held_out: Sequence[Tensor],
        config: QatConfig,
        checkpoint: Path | None,
        progress: Callable[[Progress], None],
    ) -> None:
        self.tower, self.teacher, self.plan, self.learned = tower, teacher.eval(), plan, learned
        self.batches, self.held_out, self.config = batches, held_out, config
        self.checkpoint, self.progress = checkpoint, progress
        self.student = sites.replace(_rest_emulated(tower, plan, learned), dict(learned)).eval()
        self.modules = nn.ModuleDict({name.replace(".", "/"): layer for name, layer in learned.items()})
        self.parameters = {
            name: value for name, value in sorted(self.modules.named_parameters()) if value.requires_grad
        }
        self.optimizer = torch.optim.Adam(_groups(self.modules, config), betas=(0.9, 0.99))
        self.kept: dict[str, Tensor] = {}
        self.state = _State()

    def go(self) -> Refined:
        config, state = self.config, self.state
        torch.manual_seed(config.seed)
        self.digest = _digest(self.tower, self.plan, config)
        with torch.no_grad():
            targets = [self.teacher(batch) for batch in self.held_out]
        self.centre = torch.cat(targets).mean(0)
        if not self._resume():
            self._look(targets)
            self.progress(Progress(0, config.steps, None, state.scores[-1]))
        for batch in self._stream():
            loss = self._learn(batch)
            score = None
            if state.step % config.every == 0 or state.step == config.steps:
                score = self._look(targets)
            self.progress(Progress(state.step, config.steps, loss, score))
            if state.step == config.steps or len(state.scores) - 1 - state.best >= config.patience:
                break
        return self._finish()

    def _stream(self) -> Iterator[Tensor]:
        """The batches that are still to come: those before ``state.step`` are drawn and dropped."""
        if self._done():
            return
        drawn, number = 0, 0
        while True:
            before = drawn
            for batch in self.batches(number):
                drawn += 1
                if drawn > self.state.step:
                    yield batch
            if drawn == before:
                raise UsageError("there are no inputs to fine-tune on", hint="give at least one batch")
            number += 1

    def _done(self) -> bool:
        state = self.state
        return state.step >= self.config.steps or len(state.scores) - 1 - state.best >= self.config.patience

    def _learn(self, batch: Tensor) -> float:
        with torch.no_grad():
            target = self.teacher(batch)
        share = _share(self.state.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        loss = (1 - F.cosine_similarity(self.student(batch), target)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.state.step += 1
        return float(loss.detach())

    def _look(self, targets: Sequence[Tensor]) -> Score:
        """Measure on the held-out inputs, keep the best state, and write the checkpoint."""
        state = self.state
        with torch.no_grad():
            found = torch.cat([self.student(batch) for batch in self.held_out])
        target = torch.cat(list(targets))
        plain = F.cosine_similarity(found, target)
        centred = F.cosine_similarity(found - self.centre, target - self.centre)
        score = Score(state.step, float(plain.mean()), float(plain.min()), float(centred.mean()), float(centred.min()))
        state.scores.append(score)
        if not self.kept or score.cosine_mean > state.scores[state.best].cosine_mean:
            state.best = len(state.scores) - 1
            self.kept = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._save()
        return score

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        tensors = {f"now/{name}": value.detach().contiguous() for name, value in self.parameters.items()}
        tensors |= {f"best/{name}": value for name, value in self.kept.items()}
        for name, value in self.parameters.items():
            moments = self.optimizer.state.get(value, {})
            tensors |= {f"{key}/{name}": moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments}
        told = asdict(self.state) | {"digest": self.digest}
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_name(self.checkpoint.name + ".partial")
        try:
            save_file(tensors, partial, metadata={"qat": json.dumps(told)})
            os.replace(partial, self.checkpoint)
        finally:
            partial.unlink(missing_ok=True)

    def _resume(self) -> bool:
        path = self.checkpoint
        if path is None or not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                told: dict[str, Any] = json.loads((file.metadata() or {})["qat"])
                if told.pop("digest") != self.digest:
                    raise UsageError(
                        f"{path} belongs to the fine-tuning of another tower, plan or setting",
                        hint="remove it, or fine-tune with what it was begun with",
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            self.state.step, self.state.best = int(told["step"]), int(told["best"])
            self.state.scores = [Score(**score) for score in told["scores"]]
            with torch.no_grad():
                for name, value in self.parameters.items():
                    value.copy_(tensors[f"now/{name}"])
                    if self.state.step:
                        self.optimizer.state[value] = {
                            "step": torch.tensor(float(self.state.step)),
                            "exp_avg": tensors[f"exp_avg/{name}"],
                            "exp_avg_sq": tensors[f"exp_avg_sq/{name}"],
                        }
            self.kept = {name: tensors[f"best/{name}"] for name in self.parameters}
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
            raise UsageError(f"{path} is no checkpoint of a fine-tuning: {error}", hint="remove it") from error
        return True

    def _finish(self) -> Refined:
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(self.kept[name])
        done = {name: layer.finish() for name, layer in self.learned.items()}
        state = self.state
        return Refined(
            tower=sites.replace(self.tower, {name: module for name, (module, _) in done.items()}),
            plan=replace(self.plan, layers={**self.plan.layers, **{name: plan for name, (_, plan) in done.items()}}),
            before=state.scores[0],
            after=state.scores[state.best],
            scores=tuple(state.scores),
            steps=state.step,
        )


def _rest_emulated(tower: Tower, plan: Plan, learned: dict[str, LearnedLayer]) -> Tower:
    """The tower with what cannot learn (embeddings, the stem of two frames) quantized for good."""
    others = {name: layer for name, layer in plan.layers.items() if name not in learned}
    return emulate(tower, replace(plan, layers=others))


def _groups(modules: nn.Module, config: QatConfig) -> list[dict[str, Any]]:
    """Parameters by the rate they learn at."""
    codes: list[Tensor] = []
    ratios: list[Tensor] = []
    for name, value in modules.named_parameters():
        if value.requires_grad:
            (ratios if name.endswith("ratio") else codes).append(value)
    return [
        {"params": codes, "lr": 0.0, "peak": config.rate},
        {"params": ratios, "lr": 0.0, "peak": config.range_rate},
    ]


def _share(step: int, config: QatConfig) -> float:
    """The share of the full rate that a step has."""
    rising = max(1, round(config.warmup * config.steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, config.steps - rising)))


def _digest(tower: Tower, plan: Plan, config: QatConfig) -> str:
    """What a checkpoint must agree on: settings, ranges, codes, and the tower they are of."""
    digest = hashlib.sha256(json.dumps([asdict(config), tower.family, tower.modality, tower.config]).encode())
    for name, layer in sorted(plan.layers.items()):
        activation = layer.activation
        told = [activation.low, activation.high] if isinstance(activation, StaticRange) else activation
        digest.update(json.dumps([name, told]).encode())
        if layer.weight is not None:
            for tensor in (layer.weight.codes, layer.weight.scale):
                digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
