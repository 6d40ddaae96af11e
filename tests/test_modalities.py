"""File types lead to modalities only where they are unambiguous."""

from __future__ import annotations

import pytest

from slimbind.errors import ItemsError, MediaError, MissingExtraError, SlimbindError, UsageError
from slimbind.modalities import MODALITIES, check_modality, modality_of


@pytest.mark.parametrize(
    ("path", "modality"),
    [("a/b.JPG", "vision"), ("clip.mp4", "vision"), ("x.flac", "audio"), ("note.txt", "text"), ("run.csv", "imu")],
)
def test_a_file_type_means_a_modality(path: str, modality: str) -> None:
    assert modality_of(path) == modality


@pytest.mark.parametrize("path", ["map.npy", "data.bin", "README", ".jpg"])
def test_an_ambiguous_or_unknown_type_means_none(path: str) -> None:
    assert modality_of(path) is None


def test_no_type_stands_for_two_modalities() -> None:
    suffixes = [suffix for info in MODALITIES.values() for suffix in info.suffixes]
    assert len(suffixes) == len(set(suffixes))


def test_an_unknown_modality_lists_the_six() -> None:
    assert check_modality("imu") == "imu"
    with pytest.raises(UsageError, match="unknown modality 'smell'; allowed: audio, depth, imu, text, thermal, vision"):
        check_modality("smell")


def test_errors_say_what_to_do() -> None:
    assert 'pip install "slimbind[video]"' in str(MissingExtraError("PyAV", extra="video"))
    assert str(SlimbindError("cause", hint="mend")) == "cause (mend)"
    import numpy as np

    bad = MediaError("a.jpg", "cut short")
    error = ItemsError({1: bad}, vectors=np.zeros((2, 4), np.float32), indices=[0, 2])
    assert "1 of 3 items failed; first: a.jpg: cut short" in str(error)
    assert error.indices == [0, 2] and error.errors == {1: bad}
