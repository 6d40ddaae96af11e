"""The label matrix ``L``: one text embedding per ImageNet class, and the centre of the common space."""

from __future__ import annotations

from pathlib import Path

import torch
import wordnet
from tokenizers import Tokenizer

import towers
from slimbind.towers.mini import MiniText

PROMPTS = ("{}", "a photo of a {}", "a picture of a {}", "a drawing of a {}")
GLOSS, GENERAL, DECAY = 0.3, 0.5, 0.7


def prompted(name: str) -> list[str]:
    """A name in every prompt."""
    return [prompt.format(name) for prompt in PROMPTS]


def matrix(tower: MiniText, tokenizer: Tokenizer, cache: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """``L [1000, 384]``, centred, and the centre ``[384]`` itself.

    Per class: the mean over synonyms and prompts, + 0.3 of the definition, + 0.5 of the more general names, each step
    up counting 0.7 of the one before.
    """
    classes = wordnet.classes(cache)
    lines: dict[str, int] = {}
    for known in classes:
        for line in (*(p for name in known.names for p in prompted(name)), known.gloss, *(g for g, _ in known.general)):
            lines.setdefault(line, len(lines))
    told = towers.sentences(tower, tokenizer, list(lines))
    rows = []
    for known in classes:
        names = torch.stack([told[lines[line]] for name in known.names for line in prompted(name)]).mean(0)
        steps = torch.tensor([DECAY**level for _, level in known.general])
        above = torch.stack([told[lines[name]] for name, _ in known.general])
        general = (steps[:, None] * above).sum(0) / steps.sum()
        rows.append((names + GLOSS * told[lines[known.gloss]] + GENERAL * general) / (1 + GLOSS + GENERAL))
    table = torch.stack(rows)
    centre = table.mean(0)
    return table - centre, centre
