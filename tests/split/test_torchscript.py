"""TorchScript archives: their weights are read, their program is not, and a pickle in one cannot do more either."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.errors import CheckpointError, SlimbindError, UnsafeCheckpointError
from slimbind.towers import torchscript
from slimbind.towers.checkpoint import open_weights


class Model(torch.nn.Module):
    """What the archives of OpenAI's CLIP have: half precision, nested modules, buffers, numbers and lists."""

    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Parameter(torch.randn(3, 2).half())
        self.linear = torch.nn.Linear(2, 2)
        self.blocks = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
        self.heads = 4
        self.sizes = [1, 2]
        self.nothing = None

    def forward(self, x):
        return self.blocks(self.linear(x)) * self.heads


@pytest.fixture(scope="module", params=["script", "trace"])
def archive(request, tmp_path_factory):
    """A file and the state dict that belongs to it."""
    path = tmp_path_factory.mktemp("script") / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # writing such a file is on its way out; reading it is not
        model = Model()
        made = torch.jit.script(model) if request.param == "script" else torch.jit.trace(model, torch.ones(1, 2))
        made.save(str(path))
        return path, {key: value.clone() for key, value in made.state_dict().items()}


def rewrite(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """Copy an archive with other contents for some members (None leaves it out)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = changes.get(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def test_the_weights_are_those_of_the_program(archive):
    path, state = archive
    with open_weights([path]) as weights:
        assert weights.shapes == {key: tuple(value.shape) for key, value in state.items()}
        for key, value in state.items():
            assert weights.dtypes[key] == value.dtype
            assert torch.equal(weights.read(key), value)


def test_the_program_is_not_needed(archive, tmp_path):
    path, state = archive
    with zipfile.ZipFile(path) as old:
        code = {name.partition("/")[2]: b"raise SystemExit" for name in old.namelist() if "/code/" in name}
    assert code
    with open_weights([rewrite(path, tmp_path / "other.pt", code)]) as weights:
        assert set(weights.shapes) == set(state)


# A module with one tensor, to which something may be done before it is stored.
TENSOR = (
    b"\x80\x02c__torch__\nV\n)\x81}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00(K\x01t(K\x01t\x89NtR%ssb."
)


def test_the_crafted_pickle_of_these_tests_is_a_good_one(archive, tmp_path):
    path = rewrite(archive[0], tmp_path / "crafted.pt", {"data.pkl": TENSOR % b"", "data/0": b"\0\0\x80?"})
    with open_weights([path]) as weights:
        assert weights.read("w").tolist() == [1.0]


class Call:
    def __init__(self, function, *arguments):
        self.made = (function, arguments)

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize(
    "bomb",
    [
        lambda proof: Call(__import__("os").system, f"touch {proof}"),
        lambda proof: Call(eval, f"open({str(proof)!r}, 'w')"),
        lambda proof: Call(torch.load, str(proof)),
        lambda proof: Call(getattr, "text", "upper"),
        lambda proof: Call(Path, str(proof)),
    ],
)
def test_a_pickle_that_runs_code_is_refused(bomb, archive, tmp_path):
    proof = tmp_path / "it-ran"
    hostile = rewrite(archive[0], tmp_path / "bomb.pt", {"data.pkl": pickle.dumps({"a": bomb(proof)}, protocol=2)})
    with pytest.raises(UnsafeCheckpointError, match="it was not loaded"):
        open_weights([hostile])
    assert not proof.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80\x02",
        b"not a pickle",
        pickle.dumps({"a": 1}, protocol=2),
        pickle.dumps(OrderedDict(), protocol=2),
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02c__torch__\nV\n)\x81}b.",  # a module without a tensor
        b"\x80\x02c__torch__\nV\n)\x81K\x05b.",  # whose state is a number
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # a reference to nothing
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo entry far out
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.",  # an array of petabytes
        TENSOR % b"}X\x05\x00\x00\x00shapeX\x03\x00\x00\x00abcsb",  # a tensor changed after it was made
        TENSOR.replace(b"(K\x01t(K", b"(J\xff\xff\xff\xfft(K") % b"",  # of negative size
        TENSOR.replace(b"X\x01\x00\x00\x000", b"]") % b"",  # in a member whose name is a list
    ],
)
def test_nonsense_is_an_error(raw, archive, tmp_path):
    with pytest.raises(CheckpointError, match=r"broken\.pt"):
        open_weights([rewrite(archive[0], tmp_path / "broken.pt", {"data.pkl": raw})])


@settings(deadline=None, max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_one_changed_byte_never_escapes(place, byte, tmp_path_factory):
    """Whatever a changed module tree says, the answer is weights or one of our errors."""
    folder = tmp_path_factory.mktemp("flip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "whole.pt"))
    with zipfile.ZipFile(folder / "whole.pt") as whole:
        raw = bytearray(whole.read("whole/data.pkl"))
    raw[int(place * len(raw))] = byte
    path = rewrite(folder / "whole.pt", folder / "changed.pt", {"data.pkl": bytes(raw)})
    try:
        with open_weights([path]) as weights:
            for key in weights.shapes:
                weights.read(key)
    except SlimbindError:
        pass


def test_a_missing_member_is_an_error(archive, tmp_path):
    path = rewrite(archive[0], tmp_path / "less.pt", {"data/0": None})
    with open_weights([path]) as weights, pytest.raises(CheckpointError, match="data/0"):
        for key in weights.shapes:
            weights.read(key)


def test_a_short_member_is_an_error(archive, tmp_path):
    path = rewrite(archive[0], tmp_path / "short.pt", {"data/0": b"\0"})
    with open_weights([path]) as weights, pytest.raises(CheckpointError, match="data/0"):
        for key in weights.shapes:
            weights.read(key)


def test_a_view_that_claims_more_than_it_has_is_refused(archive, tmp_path, monkeypatch):
    large = torchscript.Stored("x/data/0", torch.float32, 1, 0, (1 << 20, 1 << 20), (0, 0))
    monkeypatch.setattr(torchscript, "tensors_in", lambda path: {"w": large})
    with pytest.raises(CheckpointError, match="claims"):
        open_weights([archive[0]])
