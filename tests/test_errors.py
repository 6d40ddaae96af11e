"""Errors keep what they know, wherever they travel."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from slimbind.errors import DriftError, ItemsError, LimitError, MediaError, MissingExtraError, SlimbindError, UsageError

BAD = MediaError("a.jpg", "is empty", hint="copy it again")


@pytest.mark.parametrize(
    "error",
    [
        SlimbindError("cause", hint="mend"),
        UsageError.unknown("modality", "smell", ["text"], hint="mend"),
        MissingExtraError("PyAV", extra="video"),
        LimitError("a.mp4", "is long", hint="cut it"),
        DriftError("too far"),
        ItemsError({1: BAD}, vectors=np.ones((1, 2), np.float32), indices=[0]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_to_another_process_whole(error: SlimbindError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.args, copy.message, copy.hint) == (str(error), error.args, error.message, error.hint)
    assert copy.__dict__.keys() == error.__dict__.keys()


def test_a_batch_error_carries_what_was_done() -> None:
    copy = pickle.loads(pickle.dumps(ItemsError({1: BAD}, vectors=np.ones((1, 2), np.float32), indices=[0])))
    assert (copy.vectors.tolist(), copy.indices, copy.errors[1].reason) == ([[1.0, 1.0]], [0], "is empty")
