"""The streaming writer: files that the safetensors library reads, byte for byte what was put in, and an honest hash."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from slimbind.errors import CheckpointError
from slimbind.towers.weightfile import Slot, write

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]


def slots_of(tensors):
    return {key: Slot(value.dtype, tuple(value.shape)) for key, value in tensors.items()}


@st.composite
def states(draw):
    keys = draw(
        st.lists(st.text(min_size=1, max_size=12).filter(lambda k: k != "__metadata__"), unique=True, max_size=6)
    )
    shapes = st.lists(st.integers(0, 4), max_size=3)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return {key: (torch.randn(draw(shapes), generator=generator) * 3).to(draw(st.sampled_from(DTYPES))) for key in keys}


@settings(deadline=None, max_examples=60)
@given(states())
def test_the_library_reads_back_what_was_written(tensors):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        digest = write(path, slots_of(tensors), tensors.__getitem__)
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        read = load_file(path)
    assert read.keys() == tensors.keys()
    for key, value in tensors.items():
        assert read[key].dtype == value.dtype
        assert read[key].shape == value.shape
        assert torch.equal(read[key], value)


def test_every_tensor_is_aligned_to_its_own_size(tmp_path):
    tensors = {f"{number}": torch.ones(3).to(dtype) for number, dtype in enumerate(reversed(DTYPES))}
    path = tmp_path / "w.safetensors"
    write(path, slots_of(tensors), tensors.__getitem__)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert (8 + length) % 8 == 0
    for key, value in tensors.items():
        assert header[key]["data_offsets"][0] % value.dtype.itemsize == 0


def test_the_bytes_do_not_depend_on_the_order_of_the_keys(tmp_path):
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.float16), "c": torch.zeros(1)}
    first = write(tmp_path / "1", slots_of(tensors), tensors.__getitem__)
    turned = dict(reversed(tensors.items()))
    assert write(tmp_path / "2", slots_of(turned), turned.__getitem__) == first


def test_views_and_transposes_are_written_as_they_read(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {"t": base.t(), "slice": base[:, 1:3], "scalar": base[0, 5]}
    write(tmp_path / "w", slots_of(tensors), tensors.__getitem__)
    with safe_open(tmp_path / "w", "pt") as file:
        assert all(torch.equal(file.get_tensor(key), value) for key, value in tensors.items())


def test_progress_hears_of_every_byte(tmp_path):
    tensors = {"a": torch.zeros(3 << 20), "b": torch.zeros(5)}
    heard: list[int] = []
    write(tmp_path / "w", slots_of(tensors), tensors.__getitem__, on_bytes=heard.append)
    assert sum(heard) == sum(value.nbytes for value in tensors.values())
    assert len(heard) > 2, "a large tensor is told of in pieces"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_numbers_are_refused_by_name(bad, dtype, tmp_path):
    value = torch.zeros(5, 3, dtype=dtype)
    value[3, 1] = bad
    with pytest.raises(CheckpointError, match=r"'the\.layer' holds NaN or infinite"):
        write(tmp_path / "w", {"the.layer": Slot(dtype, (5, 3))}, {"the.layer": value}.__getitem__)


def test_a_tensor_that_is_not_what_the_header_says_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="its header says"):
        write(tmp_path / "w", {"a": Slot(torch.float32, (2,))}, {"a": torch.zeros(3)}.__getitem__)


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "w").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write(tmp_path / "w", {}, {}.__getitem__)
    assert (tmp_path / "w").read_bytes() == b"mine"
