"""``slimbind quantize``: where it lies on standard output, what happened on standard error, exit codes for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from slimbind.artifact import Artifact, ModelInfo
from slimbind.quantize import job, schemes
from slimbind.towers import split
from slimbind.towers.checkpoint import open_weights

GOLDEN = Path(__file__).parent.parent / "golden"
FEW = ("--modalities", "imu", "--samples", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny") / "split"
    config = json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())
    with open_weights([GOLDEN / "imagebind_tiny.pth"]) as weights:
        info = ModelInfo(id="tiny", family="imagebind", license="CC0-1.0")
        split.run(split.plan(weights, config=config), place, model=info)
    return place


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch, converted_once):
    monkeypatch.setattr(job, "_TIMING", 0.0)
    monkeypatch.delenv("SLIMBIND_ENGINE", raising=False)


def test_where_is_printed_and_what_it_lost_is_told(cli, folder, tmp_path):
    done = cli("quantize", folder, "-o", tmp_path / "out", *FEW)
    assert done.code == 0 and done.lines == [str(tmp_path / "out")]
    assert "note: imu: calibrated and compared with made-up inertial recordings" in done.err
    assert "cosine 0.99" in done.err and "x as fast" in done.err
    assert Artifact.open(tmp_path / "out").tower("imu").scheme == "int8-dynamic"
    again = cli("quantize", folder, "-o", tmp_path / "out", *FEW)
    assert again.code == 1 and "exists and is not empty" in again.err
    other = cli("quantize", folder, "-o", tmp_path / "out", *FEW, "--overwrite", "--scheme", "bf16", "--json")
    told = other.json
    assert (told["scheme"], told["engine"], list(told["towers"])) == ("bf16", "openvino", ["imu"])
    assert told["towers"]["imu"]["fidelity"]["cosine_min"] > 0.999
    assert told["towers"]["imu"]["quantization"]["type"] == "bf16"


def test_progress_names_tower_and_stage(cli, folder, tmp_path):
    done = cli("quantize", folder, "-o", tmp_path / "out", *FEW, "--progress")
    assert done.code == 0
    assert "imu: observing: 4/4 items" in done.err and "imu: comparing: 1/1 items" in done.err


def test_settings_reach_the_scheme(cli, folder, tmp_path):
    settings = ("--scheme", "int4-weight", "--set", "group=16", "--set", "method=nearest", "--force")
    done = cli("quantize", folder, "-o", tmp_path / "out", *FEW, *settings)
    assert done.code == 0
    record = Artifact.open(tmp_path / "out").tower("imu").quantization
    assert (record["group"], record["method"]) == (16, "nearest")


def test_a_tower_that_drifts_is_exit_code_3_and_forced_is_not(cli, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(schemes.LEAST, "bf16", (1.1, "for the test"))
    refused = cli("quantize", folder, "-o", tmp_path / "out", *FEW, "-s", "bf16")
    assert refused.code == 3 and not (tmp_path / "out").exists()
    assert "says something else than its reference" in refused.err and "--force" in refused.err
    assert refused.out == b""
    forced = cli("quantize", folder, "-o", tmp_path / "out", *FEW, "-s", "bf16", "--force")
    assert forced.code == 0 and "kept all the same" in forced.err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


RECIPE = {"type": "slimbind-recipe", "version": 1}


@pytest.mark.parametrize(
    ("rules", "code", "message"),
    [
        ([{"layers": "blocks.*.mpl.fc1", "scheme": "bf16"}], 2, "matches no layer"),
        ([{"layers": "*", "scheme": "int9"}], 2, "int9"),
        ([{"layers": "*", "scheme": "int8-weight"}, {"layers": "head.proj", "scheme": "bf16"}], 2, "never decides"),
        ([{"layers": "head.proj", "scheme": "bf16"}, {"layers": "*", "scheme": "int8-weight"}], 0, "cosine"),
    ],
)
def test_recipes_are_checked_before_any_work(cli, folder, tmp_path, rules, code, message):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(RECIPE | {"rules": rules}))
    done = cli("quantize", folder, "-o", tmp_path / "out", *FEW, "--recipe", path)
    assert done.code == code and message in done.err
    assert (tmp_path / "out").exists() == (code == 0)
    if code == 0:
        assert Artifact.open(tmp_path / "out").tower("imu").scheme == "mixed"
    else:
        assert "note:" not in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheme", "int3"], "unknown scheme 'int3'; allowed: bf16, eager-dynamic, eager-static, f16, int4-weight"),
        (["--scheme", "bf16", "--max-size", "3MB"], "--max-size is of the scheme mixed, not of bf16"),
        (["--scheme", "bf16", "--recipe", "r.json"], "--recipe is of the scheme mixed, not of bf16"),
        (["--scheme", "mixed"], "mixed needs to know what for"),
        (["--max-size", "much"], "much"),
        (["--min-fidelity", "2"], "the fidelity is 2.0"),
        (["--set", "group"], "'group' is no NAME=VALUE"),
        (["--set", "group=3"], "unknown setting of int8-dynamic 'group'; allowed: "),
        (["--recipe", "nowhere.json"], "the recipe nowhere.json cannot be read"),
        (["--calibrate", "nowhere"], "nowhere: no such file or folder"),
        (["--modalities", "smell"], "unknown modality 'smell'"),
        (["--engine", "abacus"], "unknown engine for int8-dynamic 'abacus'"),
    ],
)
def test_wrong_wishes_are_exit_code_2_and_nothing_is_written(cli, folder, tmp_path, options, message):
    done = cli("quantize", folder, "-o", tmp_path / "out", *options)
    assert done.code == 2 and message in done.err, done.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_wrong_modality(cli, folder, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    done = cli("quantize", folder, "-o", tmp_path / "out", "--calibrate", tmp_path / "photos", *FEW)
    assert done.code == 2 and "holds nothing of imu; it holds 1 vision" in done.err
    assert not (tmp_path / "out").exists()


def test_a_budget_makes_a_mix_whose_recipe_is_told(cli, folder, tmp_path):
    done = cli("quantize", folder, "-o", tmp_path / "out", *FEW, "--min-fidelity", "0.99")
    assert done.code == 0, done.err
    entry = Artifact.open(tmp_path / "out").tower("imu")
    assert entry.scheme == "mixed" and entry.quantization["report"]["recipe"]
    assert entry.fidelity.cosine_min >= 0.99


def test_without_pytorch_the_mend_is_told(cli, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = cli("quantize", folder, "-o", tmp_path / "out")
    assert done.code == 1 and 'pip install "slimbind[build]"' in done.err
