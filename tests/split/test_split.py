"""Splitting: towers that say what the checkpoint says, a manifest that tells the truth, and nothing half-done."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from slimbind.artifact import Artifact, ModelInfo, sha256_of
from slimbind.errors import ArtifactError, CheckpointError, UsageError
from slimbind.media.spec import ImuSpec, TextSpec
from slimbind.towers import registry
from slimbind.towers import split as module
from slimbind.towers.checkpoint import open_weights

GOLDEN = Path(__file__).parents[1] / "golden"
INFO = ModelInfo(id="tiny", family="imagebind", license="CC0-1.0")


def split(path, destination, *, config, overwrite=False, on_bytes=lambda count: None, **options):
    with open_weights([path]) as weights:
        plan = module.plan(weights, config=config, **options)
        return module.run(plan, destination, model=INFO, overwrite=overwrite, on_bytes=on_bytes)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("model."))


def test_every_tower_says_what_the_reference_says(tiny_path, tiny_config, tmp_path):
    split(tiny_path, tmp_path / "out", config=tiny_config)
    artifact = Artifact.open(tmp_path / "out")
    golden = np.load(GOLDEN / "imagebind_tiny_io.npz")
    assert artifact.modalities == ("vision", "text", "audio", "depth", "thermal", "imu")
    for modality in artifact.modalities:
        artifact.verify(modality)
        entry = artifact.tower(modality)
        tower = registry.build(artifact.manifest.model.family, modality, entry.config)
        registry.load(tower, load_file(artifact.folder / entry.files[-1].path))
        given, expected = torch.from_numpy(golden[f"in_{modality}"]), golden[f"out_{modality}"]
        given = given.float() if given.is_floating_point() else given
        if modality == "vision":
            given = given if given.dim() == 5 else given.unsqueeze(2)
        clips = given.dim() == 5 and modality == "audio"
        with torch.inference_mode():
            raw = tower.forward_raw(given.flatten(0, 1) if clips else given)
        got = raw.unflatten(0, given.shape[:2]).mean(1) if clips else raw
        scale = entry.logit_scale or 1.0
        assert np.abs(got.numpy() - expected).max() / scale < 1e-5, modality
        assert scale == pytest.approx(tower.logit_scale)


def test_the_manifest_counts_right(tiny_path, tiny_config, tiny, tmp_path):
    towers = split(tiny_path, tmp_path / "out", config=tiny_config)
    stored = sum(entry.parameters for entry in towers.values())
    mask = tiny["modality_preprocessors.text.mask"].numel()
    assert stored == sum(value.numel() for value in tiny.values()) - mask, (
        "the text mask is computed, all else is stored"
    )
    for modality, entry in towers.items():
        weights = tmp_path / "out" / modality / "tower.safetensors"
        assert entry.engine == "torch"
        assert entry.scheme == "f32"
        assert entry.weights == sha256_of(weights)
        assert {file.path: (file.bytes, file.sha256) for file in entry.files} == {
            path.relative_to(tmp_path / "out").as_posix(): (path.stat().st_size, sha256_of(path))
            for path in (tmp_path / "out" / modality).iterdir()
        }
    assert towers["text"].preprocess == TextSpec(context=77)
    assert towers["imu"].preprocess == ImuSpec(samples=2000)
    assert json.loads((tmp_path / "out" / "text" / "tokenizer.json").read_text(encoding="utf-8"))["model"]


def test_only_the_modalities_asked_for_are_written(tiny_path, tiny_config, tmp_path):
    split(tiny_path, tmp_path / "out", config=tiny_config, modalities=["text", "vision", "text"])
    assert Artifact.open(tmp_path / "out").modalities == ("vision", "text")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "text", "vision"]


def test_the_same_checkpoint_gives_the_same_bytes(part, save, tiny_config, tmp_path):
    first = split(save(part, "model.pth"), tmp_path / "a", config=tiny_config)
    again = split(save(dict(reversed(part.items())), "model.safetensors"), tmp_path / "b", config=tiny_config)
    assert {m: e.weights for m, e in first.items()} == {m: e.weights for m, e in again.items()}


@pytest.mark.parametrize(
    ("dtype", "scheme"), [(torch.float16, "f16"), (torch.bfloat16, "bf16"), (torch.float64, "f32")]
)
def test_the_stored_type_is_kept(dtype, scheme, part, save, tiny_config, tmp_path):
    towers = split(save({k: v.to(dtype) for k, v in part.items()}), tmp_path / "out", config=tiny_config)
    assert {entry.scheme for entry in towers.values()} == {scheme}


def test_what_is_not_a_modality_of_it_is_refused(part, save, tiny_config, tmp_path):
    path = save(part)
    with pytest.raises(UsageError, match="allowed: depth, imu"):
        split(path, tmp_path / "out", config=tiny_config, modalities=["vision"])
    with pytest.raises(UsageError, match="'smell'"):
        split(path, tmp_path / "out", config=tiny_config, modalities=["smell"])
    with pytest.raises(UsageError, match="no modality"):
        split(path, tmp_path / "out", config=tiny_config, modalities=[])
    assert left_over(tmp_path) == []


IMU_KEY = "modality_trunks.imu.blocks.1.mlp.fc1.weight"


def _lacks(part):
    del part[IMU_KEY]


def _has_too_much(part):
    part["modality_trunks.imu.blocks.1.mlp.fc3.weight"] = torch.zeros(2)


def _is_misshapen(part):
    part[IMU_KEY] = part[IMU_KEY][:-1]


def _is_not_a_number(part):
    part[IMU_KEY] = torch.full_like(part[IMU_KEY], torch.nan)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_lacks, r"lacks.*blocks\.1\.mlp\.fc1\.weight"),
        (_has_too_much, r"left over.*fc3\.weight"),
        (_is_misshapen, r"blocks\.1\.mlp\.fc1\.weight.*shape"),
        (_is_not_a_number, r"blocks\.1\.mlp\.fc1\.weight.*NaN"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_leaves_nothing(damage, named, part, save, tiny_config, tmp_path):
    damage(part)
    with pytest.raises(CheckpointError, match=named):
        split(save(part), tmp_path / "out", config=tiny_config)
    assert left_over(tmp_path) == []


def test_a_mask_that_is_not_causal_is_refused(tiny, save, tiny_config, tmp_path):
    tiny["modality_preprocessors.text.mask"] = torch.zeros(77, 77)
    with pytest.raises(CheckpointError, match=r"text\.mask"):
        split(save(tiny), tmp_path / "out", config=tiny_config)
    assert left_over(tmp_path) == []


def test_unknown_heads_are_asked_for(part, save, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        split(save(part), tmp_path / "out", config=None)
    assert "num_heads" in caught.value.hint


def test_what_is_there_is_not_overwritten_unless_asked(part, save, tiny_config, tmp_path):
    path, out = save(part), tmp_path / "out"
    split(path, out, config=tiny_config)
    with pytest.raises(ArtifactError, match="not empty"):
        split(path, out, config=tiny_config)
    split(path, out, config=tiny_config, overwrite=True, modalities=["imu"])
    assert Artifact.open(out).modalities == ("imu",)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="not empty"):
        split(path, mine, config=tiny_config, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_what_stops_it_in_the_middle_leaves_nothing(error, part, save, tiny_config, tmp_path):
    path, heard = save(part), []

    def stop(count):
        heard.append(count)
        if len(heard) == 60:
            raise error

    with pytest.raises((KeyboardInterrupt, ArtifactError)):
        split(path, tmp_path / "out", config=tiny_config, on_bytes=stop)
    assert left_over(tmp_path) == []


def test_another_tokenizer_than_clips_is_refused(tiny, save, tiny_config):
    """With CLIP's it would run, and understand nothing."""
    key = "modality_preprocessors.text.token_embedding.weight"
    with open_weights([save(tiny | {key: torch.zeros(32000, tiny[key].shape[1])})]) as weights:
        with pytest.raises(CheckpointError, match="the text tower knows 32000 tokens; CLIP's tokenizer"):
            module.plan(weights, config=tiny_config)
        assert module.plan(weights, config=tiny_config, modalities=["imu"]).modalities == ("imu",)


def test_a_failed_overwrite_keeps_the_old_artifact(part, save, tiny_config, tmp_path):
    path, out = save(part), tmp_path / "out"
    split(path, out, config=tiny_config)
    with pytest.raises(KeyboardInterrupt):
        split(
            path,
            out,
            config=tiny_config,
            overwrite=True,
            on_bytes=lambda count: (_ for _ in ()).throw(KeyboardInterrupt),
        )
    for modality in Artifact.open(out).modalities:
        Artifact.open(out).verify(modality)


def test_too_small_a_disk_is_noticed_before_anything_is_written(part, save, tiny_config, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("slimbind.artifact.shutil.disk_usage", lambda place: usage)
    with pytest.raises(ArtifactError, match=r"needs [1-9][\d.]* [KM]iB, but only 1000 bytes"):
        split(save(part), tmp_path / "deep" / "out", config=tiny_config)
    assert left_over(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_fills_up_leaves_nothing(part, save, tiny_config, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setattr(module, "check_space", lambda destination, needed: None)
        with pytest.raises(ArtifactError, match="No space left"):
            split(save(part), disk / "out", config=tiny_config)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_place_that_cannot_be_written_is_an_error(part, save, tiny_config, tmp_path):
    (tmp_path / "model.file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        split(save(part), tmp_path / "model.file" / "out", config=tiny_config)


def test_sizes_of_imagebind_huge_are_known_from_its_names_and_shapes():
    """The plan reads no weight, so the full-size checkpoint's table can be checked without it: the paper's Table I."""
    from slimbind.cli.split import PAPER_MIB, PAPER_WHOLE_MIB
    from slimbind.towers.checkpoint import Weights

    class Names(Weights):
        def read(self, key):
            raise AssertionError("a plan reads nothing")

    names = Names()
    listed = json.loads((GOLDEN / "imagebind_huge_state_dict.json").read_text())
    names.shapes = {key: tuple(shape) for key, (shape, _) in listed.items()}
    names.dtypes = dict.fromkeys(names.shapes, torch.float32)
    plan = module.plan(names)
    assert plan.is_huge
    for modality, slots in plan.slots.items():
        assert sum(slot.bytes for slot in slots.values()) / 2**20 == pytest.approx(PAPER_MIB[modality], abs=0.06)
    assert plan.bytes / 2**20 == pytest.approx(PAPER_WHOLE_MIB, abs=0.1)


def test_a_process_stopped_by_the_terminal_leaves_nothing(tiny_path, tmp_path):
    """Ctrl-C as a terminal sends it: the process ends, and its temporary folder is gone."""
    script = (
        "import os, signal, json, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background of a shell
        "from pathlib import Path\n"
        "from slimbind.artifact import ModelInfo\n"
        "from slimbind.towers import split\n"
        "from slimbind.towers.checkpoint import open_weights\n"
        "path, config, out = map(Path, sys.argv[1:])\n"
        "plan = split.plan(open_weights([path]), config=json.loads(config.read_text()))\n"
        "info = ModelInfo(id='x', family='imagebind', license='x')\n"
        "split.run(plan, out, model=info, on_bytes=lambda count: os.kill(os.getpid(), signal.SIGINT))\n"
    )
    config = GOLDEN / "imagebind_tiny_config.json"
    done = subprocess.run(
        [sys.executable, "-c", script, tiny_path, config, tmp_path / "out"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr
    assert left_over(tmp_path) == []
