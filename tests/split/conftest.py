"""Checkpoints to split: the reference's tiny ImageBind, and files made to do harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    return GOLDEN / "imagebind_tiny.pth"


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    return json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())


@pytest.fixture(scope="session")
def _tiny(tiny_path: Path) -> dict[str, torch.Tensor]:
    return torch.load(tiny_path, weights_only=True)


@pytest.fixture
def tiny(_tiny: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tiny checkpoint's state dict, to be changed freely (its tensors are shared: replace, do not write)."""
    return dict(_tiny)


@pytest.fixture
def part(tiny: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Only the towers of depth and imu: some hundred small tensors."""
    return {key: value for key, value in tiny.items() if key.split(".")[1] in ("depth", "imu")}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save tensors into a file of the temporary folder; the suffix says how (``.legacy`` is the old pickle format)."""

    def write(content: Any, name: str = "model.pth") -> Path:
        path = tmp_path / name
        if name.endswith(".safetensors"):
            save_file({key: value.contiguous() for key, value in content.items()}, path)
        else:
            torch.save(content, path, _use_new_zipfile_serialization=not name.endswith(".legacy"))
        return path

    return write
