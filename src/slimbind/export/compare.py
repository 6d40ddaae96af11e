"""Whether an exported tower says what the PyTorch tower says: the same inputs through both, compared by cosine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from slimbind.artifact import Fidelity
from slimbind.errors import DriftError
from slimbind.runtime.engine import INPUT, Session
from slimbind.towers.layers import Tower

# Largest cosine distance (1 - cosine) to the fp32 reference, for the worst sample. bf16 keeps 8 bits of each number,
# and OpenVINO computes f16 towers in bf16 on x86, so both have the same limit; measured is about 5e-5.
MOST_DRIFT = {"f32": 1e-5, "f16": 1e-3, "bf16": 1e-3}
BATCHES = (1, 3)
_SEED = 20240607


def samples(tower: Tower) -> Iterator[torch.Tensor]:
    """Inputs for the comparison: batches of 1 and 3; short, middling and full-length texts; stills and video.

    Half of the arrays are noise, half are noise in coarse blocks, which is closer to what pictures are made of.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for batch in BATCHES:
            example = tower.example(batch)
            if not example.is_floating_point():
                yield from _texts(tower, example)
                continue
            frames = (1, 2) if 2 in tower.dynamic_axes else (0,)
            for count in frames:
                x = example.repeat_interleave(count, 2) if count > 1 else example
                if count > 1:
                    x = x + 0.5 * torch.randn_like(x)
                x[::2] = _coarse(x[::2])
                yield x


def compare(references: Sequence[NDArray[np.float32]], inputs: Sequence[torch.Tensor], session: Session) -> Fidelity:
    """Run the inputs through a session and hold the outputs against the references ``[n, dim]`` (unit vectors)."""
    cosines: list[float] = []
    for reference, x in zip(references, inputs, strict=True):
        found = session.run({INPUT: x.numpy()}).astype(np.float64)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference.astype(np.float64), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines += ((found * reference).sum(axis=1) / lengths).tolist()
    return Fidelity(
        samples=len(cosines),
        cosine_mean=float(np.mean(cosines)),
        # min() of the built-in kind would skip a NaN; numpy's carries it to the check
        cosine_min=float(np.min(cosines)),
        data=f"random inputs in batches of {' and '.join(map(str, BATCHES))}",
    )


def check(fidelity: Fidelity, modality: str, scheme: str) -> None:
    """Refuse a tower that drifted.

    Raises:
        DriftError: the worst sample is further from the reference than ``MOST_DRIFT`` allows, or not a number.
    """
    drift = 1.0 - fidelity.cosine_min
    if not drift <= MOST_DRIFT[scheme]:
        raise DriftError(
            f"the exported {modality} tower is off by {drift:.2g} (1 - cosine, worst of {fidelity.samples} samples); "
            f"{scheme} may be off by {MOST_DRIFT[scheme]:.0e}",
            hint="nothing was written; try --dtype f32, or another --engine",
        )


def _texts(tower: Tower, example: torch.Tensor) -> Iterator[torch.Tensor]:
    """Token ids of several lengths; the greatest id of a row ends the text, what follows is padding."""
    longest = int(tower.config.get("tokens", 0)) or example.shape[1]
    last = example[:, -1:]
    for length in sorted({3, example.shape[1], longest}):
        middle = example[:, :-1].repeat(1, -(-length // max(1, example.shape[1] - 1)))[:, : length - 1]
        ids = torch.cat([middle, last], dim=1).contiguous()
        for row in range(1, len(ids)):  # rows of one batch end at different places
            end = max(1, length - 1 - 2 * row)
            ids[row, end] = last[row, 0]
            ids[row, end + 1 :] = 0
        yield ids


def _coarse(x: torch.Tensor, block: int = 16) -> torch.Tensor:
    """Every ``block``-th value of the last axis (of the last two, where there are as many) repeated."""
    out = x[..., ::block].repeat_interleave(block, -1)[..., : x.shape[-1]]
    if x.ndim > 3 and x.shape[-2] >= block:
        out = out[..., ::block, :].repeat_interleave(block, -2)[..., : x.shape[-2], :]
    return out
