"""The toy artifact as a model."""

from __future__ import annotations

import pytest

from slimbind.artifact import Artifact
from slimbind.runtime.model import Model


@pytest.fixture(scope="session")
def toy(toy_artifact):
    with Model(Artifact.open(toy_artifact), threads=1) as model:
        yield model
