"""Fine-tuning while quantized: a tower learns to say, in 8 or 4 bits, what it said in float32. No labels are needed.

The tower is its own teacher: on unlabeled inputs the quantized embeddings are pulled towards the float32 ones by
their cosine, and what each block gives towards what it gave (as FitNets' hints do, Romero et al. 2014): a few hundred
inputs say more about every layer than their embeddings alone. Codes, scales, ranges and biases of the planned layers
learn; norms and everything the plan leaves alone do not. What is kept is the state that did best on held-out inputs,
the beginning included, so that it is never worse than that.

The mean-subtracted cosine is measured, but not learned from: it has no say over the mean itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimbind.errors import UsageError
from slimbind.quantize import sites
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.emulate import emulate
from slimbind.quantize.plan import Plan
from slimbind.quantize.qat_checkpoint import Score, State, digest_of, load, save
from slimbind.quantize.qat_layers import LearnedLayer
from slimbind.quantize.report import Progress as Told
from slimbind.quantize.schemes import Made
from slimbind.towers.layers import Tower

BATCH = 8  # items that are learned from at once
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
        blocks: also learn what each block gives, not the embedding alone.
        seed: of whatever is random in the tower.
    """

    steps: int = 300
    rate: float = 0.003
    range_rate: float = 0.001
    warmup: float = 0.1
    every: int = 25
    patience: int = 6
    blocks: bool = True
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


def finish(
    made: Made, teacher: Tower, calibration: Calibration, steps: int, progress: Told, *, checkpoint: Path | None = None
) -> Made:
    """Fine-tune what a scheme made, on its calibration data: one batch in five is held out from it.

    Args:
        made: the tower, plan and report of the scheme.
        teacher: the tower that the scheme was given.
        calibration: some hundred items or more; with fewer it learns those by heart, and stops early.
        steps: batches of ``BATCH`` items to learn from.
        progress: is told of one stage.
        checkpoint: see ``refine``.

    Raises:
        UsageError: see ``refine``.
    """
    tower, plan, report = made
    found = list(calibration.batches(BATCH))
    held = found[::5]
    kept = [batch for number, batch in enumerate(found) if number % 5] or found

    def batches(number: int) -> Iterator[Tensor]:
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(number)).tolist()
        return (kept[place] for place in order)

    done = progress("fine-tuning", steps)
    refined = refine(
        tower,
        plan,
        batches,
        held,
        QatConfig(steps=steps),
        teacher=teacher,
        checkpoint=checkpoint,
        progress=lambda told: done(told.step),
    )
    learned = {"steps": refined.steps, "before": asdict(refined.before), "after": asdict(refined.after)}
    return refined.tower, refined.plan, report.model_copy(update={"settings": report.settings | {"qat": learned}})


def _layers(tower: Tower, plan: Plan) -> dict[str, LearnedLayer]:
    found = {}
    for name, site in sites.sites(tower).items():
        layer = plan.layers.get(name)
        if layer is not None and layer.weight is not None and isinstance(site.module, nn.Linear | nn.Conv2d):
            found[name] = LearnedLayer(site.module, layer, plan.group_size)
    return found


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
        self.batches, self.held_out, self.config = batches, [_channels_last(x) for x in held_out], config
        self.checkpoint, self.progress = checkpoint, progress
        self.student = sites.replace(_rest_emulated(tower, plan, learned), dict(learned)).eval()
        self.modules = nn.ModuleDict({name.replace(".", "/"): layer for name, layer in learned.items()})
        self.parameters = {
            name: value for name, value in sorted(self.modules.named_parameters()) if value.requires_grad
        }
        self.optimizer = torch.optim.Adam(_groups(self.modules, config), betas=(0.9, 0.99))
        self.anchors = anchors(tower) if config.blocks else ()
        self.kept: dict[str, Tensor] = {}
        self.state = State()

    def go(self) -> Refined:
        config = self.config
        torch.manual_seed(config.seed)
        self.digest = digest_of(self.tower, self.plan, asdict(config), self.held_out)
        with torch.no_grad():
            targets = [self.teacher(batch) for batch in self.held_out]
        self.centre = torch.cat(targets).mean(0)
        begun = None
        if self.checkpoint is not None:
            begun = load(self.checkpoint, self.digest, self.parameters, self.optimizer)
        if begun is not None:
            self.state, self.kept = begun
        else:
            self.progress(Progress(0, config.steps, None, self._look(targets)))
        state = self.state
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
        batch = _channels_last(batch)
        with torch.no_grad(), _watched(self.teacher, self.anchors) as aims:
            target = self.teacher(batch)
        share = _share(self.state.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        with _watched(self.student, self.anchors) as found:
            loss = (1 - F.cosine_similarity(self.student(batch), target)).mean()
        if self.anchors:
            parts = [_missed(mine, aim) for mine, aim in zip(found, aims, strict=True)]
            loss = loss + torch.stack(parts).mean()
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
        if self.checkpoint is not None:
            save(self.checkpoint, self.digest, self.parameters, self.optimizer, self.kept, state)
        return score

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


def anchors(tower: Tower) -> tuple[str, ...]:
    """The blocks of a tower, by name: entries of its outermost lists that are made of layers themselves."""
    lists = {name: m for name, m in tower.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return tuple(
        f"{name}.{entry}" for name in outer for entry, module in lists[name].named_children() if len(module._modules)
    )


@contextmanager
def _watched(tower: nn.Module, names: Sequence[str]) -> Iterator[list[Tensor]]:
    """Collects what the modules of these names give, in the order they run."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        found.append(output)

    handles = [tower.get_submodule(name).register_forward_hook(keep) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _channels_last(batch: Tensor) -> Tensor:
    """Maps with their channels together: depthwise convolutions learn several times as fast so."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def _missed(found: Tensor, aim: Tensor) -> Tensor:
    """The squared error as a share of how far the aim spreads around its mean."""
    return F.mse_loss(found, aim) / aim.var(correction=0).clamp(min=torch.finfo(torch.float32).tiny)


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
