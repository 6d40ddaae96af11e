"""The tiny ImageBind, split and exported for both engines; its six towers are real ones, only small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slimbind.artifact import ModelInfo
from slimbind.export import job
from slimbind.towers import split
from slimbind.towers.checkpoint import open_weights

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def convert_once(converted_once):
    """See ``converted_once``."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder that all artifacts of the tiny ImageBind lie in."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def split_folder(folder):
    config = json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())
    with open_weights([GOLDEN / "imagebind_tiny.pth"]) as weights:
        info = ModelInfo(id="tiny", family="imagebind", license="CC0-1.0")
        split.run(split.plan(weights, config=config), folder / "split", model=info)
    return folder / "split"


@pytest.fixture(scope="session")
def artifacts(folder, split_folder):
    """Engine -> artifact folder."""
    found = {"torch": split_folder}
    for engine in ("openvino", "onnx"):
        job.export(split_folder, folder / engine, engine=engine, threads=1)
        found[engine] = folder / engine
    return found


@pytest.fixture(scope="session")
def few_artifacts(folder, split_folder):
    """Engine -> artifact folder; those of the exports have texts and imu alone, which is enough for most tests."""
    found = {"torch": split_folder}
    for engine in ("openvino", "onnx"):
        job.export(split_folder, folder / f"few-{engine}", engine=engine, modalities=["text", "imu"], threads=1)
        found[engine] = folder / f"few-{engine}"
    return found


@pytest.fixture(scope="session")
def golden():
    with np.load(GOLDEN / "imagebind_tiny_io.npz") as data:
        return {name: data[name] for name in data.files}
