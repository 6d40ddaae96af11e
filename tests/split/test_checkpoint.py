"""Reading checkpoints: every format gives the same tensors, and no file can run code or claim what it has not."""

from __future__ import annotations

import os
import pickle
import struct
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from slimbind.errors import CheckpointError, UnsafeCheckpointError
from slimbind.towers import checkpoint as module
from slimbind.towers.checkpoint import open_weights


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("name", ["model.pth", "model.bin", "model.legacy", "model.safetensors", "no-suffix-at-all"])
def test_every_format_gives_the_same_tensors(name, part, save):
    with open_weights([save(part, name)]) as weights:
        assert weights.shapes == {key: tuple(value.shape) for key, value in part.items()}
        assert all(torch.equal(weights.read(key), value) for key, value in part.items())
        assert bool(weights.notes) == (name == "model.legacy"), "only the format that costs memory deserves a word"


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_reading_survives_the_file_being_mapped_anew(name, part, save, monkeypatch):
    monkeypatch.setattr(module, "WINDOW_BYTES", 1000)
    with open_weights([save(part, name)]) as weights:
        assert all(torch.equal(weights.read(key), value) for key, value in part.items())


def test_a_mapped_file_is_let_go_of_as_it_is_read(save, monkeypatch):
    """Memory stays near the window, far below the file: this is what makes a 4.6 GB checkpoint splittable."""
    psutil = pytest.importorskip("psutil")
    megabytes = 192
    path = save({f"w{number}": torch.ones(1 << 20) for number in range(megabytes // 4)})
    monkeypatch.setattr(module, "WINDOW_BYTES", 8 << 20)
    own = psutil.Process()
    with open_weights([path]) as weights:
        before = own.memory_info().rss
        highest = 0
        for key in weights.shapes:
            weights.read(key).sum()
            highest = max(highest, own.memory_info().rss - before)
    assert highest < 64 << 20


def test_several_files_are_one_checkpoint(part, save):
    keys = list(part)
    first = save({key: part[key] for key in keys[:50]}, "a.safetensors")
    second = save({key: part[key] for key in keys[50:]}, "b.pth")
    with open_weights([first, second]) as weights:
        assert set(weights.shapes) == set(keys)
        assert torch.equal(weights.read(keys[0]), part[keys[0]])
        assert torch.equal(weights.read(keys[-1]), part[keys[-1]])


def test_a_key_in_two_files_is_refused(part, save):
    with pytest.raises(CheckpointError, match="two files"):
        open_weights([save(part, "a.safetensors"), save(part, "b.pth")])


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_a_training_checkpoint_is_unwrapped(wrap, part, save):
    devices = OrderedDict((f"module.{key}", value) for key, value in part.items())
    path = save({"epoch": 3, "name": "run", wrap: devices, "optimizer": {"state": {}, "param_groups": []}})
    with open_weights([path]) as weights:
        assert set(weights.shapes) == set(part)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_by_name(legacy, part, save, tmp_path):
    proof = tmp_path / "it-ran"
    path = save({**part, "bomb": Bomb(proof)}, "bomb.legacy" if legacy else "bomb.pth")
    with pytest.raises(UnsafeCheckpointError, match=r"system") as caught:
        open_weights([path])
    assert "state_dict()" in caught.value.hint
    assert not proof.exists()


def test_a_bare_pickle_is_refused(tmp_path):
    proof = tmp_path / "it-ran"
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps({"a": Bomb(proof)}, protocol=4))
    with pytest.raises(CheckpointError):
        open_weights([path])
    assert not proof.exists()


def test_a_whole_model_is_refused(save):
    with pytest.raises(UnsafeCheckpointError, match="torch.nn"):
        open_weights([save(torch.nn.Linear(2, 2))])


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["model.pth", "model.legacy", "model.safetensors"])
def test_a_cut_file_is_an_error(name, kept, part, save):
    path = save(part, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match=path.name):
        open_weights([path])


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git-lfs"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"just some text, longer than eight bytes", "neither"),
        (b"\x80\x02}q\x00.", "cannot be read|not a plain pickle"),
        (struct.pack("<Q", 1 << 60) + b"{}", "neither"),
        (struct.pack("<Q", 1 << 30) + b"{}", "not a valid safetensors"),
    ],
)
def test_files_that_are_something_else_say_so(content, cause, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=cause):
        open_weights([path])


@pytest.mark.parametrize("length", [0x80, 0x4B50, 0x80 + 256])
def test_a_safetensors_file_is_known_whatever_its_headers_length(length, tmp_path):
    """The length comes first, and its bytes may be those that a pickle or a zip archive begins with."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<Q", length) + header.ljust(length) + struct.pack("<f", 2.5))
    with open_weights([path]) as weights:
        assert weights.read("a").tolist() == [2.5]


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_weights([tmp_path / "nothing.pth"])


def test_a_zip_of_something_else_is_an_error(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"0")
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        open_weights([path])


def test_a_compressed_archive_is_refused_before_it_unfolds(part, save, tmp_path):
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(save(part)) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        open_weights([packed])


def test_a_tensor_that_claims_more_than_it_has_is_refused(save):
    """A view with stride 0 needs a few bytes in the file and petabytes once it is read."""
    path = save({"w": torch.zeros(1).expand(1 << 20, 1 << 20)})
    with pytest.raises(CheckpointError, match="claims"):
        open_weights([path])


@pytest.mark.parametrize(
    "value", [torch.eye(3).to_sparse(), torch.zeros(2, dtype=torch.complex64), 7, "text", [torch.zeros(1)]]
)
def test_values_that_are_no_plain_tensors_are_named(value, part, save):
    with pytest.raises(CheckpointError, match="the.odd.one"):
        open_weights([save({**part, "the.odd.one": value})])


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 1}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_an_error(content, save):
    with pytest.raises(CheckpointError, match="no state dict"):
        open_weights([save(content)])


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(["model.pth", "model.legacy", "model.safetensors"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3),
    kept=st.floats(0, 1) | st.just(1.0),
)
def test_a_changed_or_cut_file_never_escapes(name, changes, kept):
    """Whatever is broken in a file, the answer is tensors or one of our errors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        state = {"a.weight": torch.ones(3, 4), "scale": torch.tensor(1.0), "ids": torch.arange(5)}
        if name.endswith(".safetensors"):
            save_file(state, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=not name.endswith(".legacy"))
        raw = bytearray(path.read_bytes())
        for place, byte in changes:
            raw[int(place * len(raw))] = byte
        path.write_bytes(raw[: max(1, int(kept * len(raw)))])
        try:
            with open_weights([path]) as weights:
                for key in weights.shapes:
                    weights.read(key)
        except CheckpointError:
            pass
