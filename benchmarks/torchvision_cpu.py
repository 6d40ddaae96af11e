"""Lets torchvision be imported beside a PyTorch without CUDA.

The compiled part of its wheels on PyPI is made for CUDA and does not load there; the import then fails at two operators
that it only wants to describe. Naming them is enough: no benchmark and no test calls them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_KEPT: list[torch.library.Library] = []  # their operators go with them


def name_operators() -> None:
    """Call this before the first import of torchvision."""
    spec = importlib.util.find_spec("torchvision")
    if "torchvision" in sys.modules or _KEPT or spec is None or not spec.submodule_search_locations:
        return
    for compiled in Path(spec.submodule_search_locations[0]).glob("_C*"):
        try:
            torch.ops.load_library(compiled)
        except OSError:
            continue
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
