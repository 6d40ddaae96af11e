"""The quantization of a split folder: what comes out says what went in, or nothing comes out at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

import slimbind
from slimbind.artifact import Artifact
from slimbind.errors import ArtifactCorruptError, ArtifactError, DriftError, UsageError
from slimbind.media.samples import shipped
from slimbind.quantize import job, schemes
from slimbind.quantize.schemes import SCHEMES, from_record, scheme
from slimbind.quantize.work import Work

SIX = ("vision", "text", "audio", "depth", "thermal", "imu")


@pytest.fixture(autouse=True, scope="module")
def in_no_time():
    """Three rounds of timing are enough to see that there is a number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "_TIMING", 0.0)
        yield


def quantize(source, out, **options):
    return job.quantize(source, out, **({"threads": 1, "samples": 4} | options))


@pytest.fixture(scope="session")
def dynamic(split_folder, tmp_path_factory):
    """All six towers in int8-dynamic."""
    return quantize(split_folder, tmp_path_factory.mktemp("dynamic") / "out")


def test_every_tower_is_written_measured_and_says_where_it_comes_from(dynamic, split_folder):
    source = Artifact.open(split_folder)
    assert dynamic.modalities == SIX
    for modality in SIX:
        dynamic.verify(modality)
        entry, before = dynamic.tower(modality), source.tower(modality)
        assert (entry.engine, entry.scheme) == ("openvino", "int8-dynamic")
        assert (entry.weights, entry.preprocess, entry.logit_scale, entry.parameters) == (
            before.weights,
            before.preprocess,
            before.logit_scale,
            before.parameters,
        )
        assert before.config.items() <= entry.config.items()
        told = entry.fidelity
        assert told.cosine_min > 0.998 and told.reference_bytes == before.bytes and told.time_ratio > 0
        record = entry.quantization
        assert from_record(record) == scheme("int8-dynamic")
        assert len(record["calibration"]) == 64 and record["report"]["layers"] >= 5
        assert "held out" in record["report"]["data"] and told.data == record["report"]["data"]
    assert dynamic.tower("depth").fidelity.data.startswith("made-up")


def test_it_opens_without_more_ado_and_embeds_real_files(dynamic, split_folder):
    photos = shipped("vision").items[:3]
    with slimbind.load(dynamic.folder, threads=1) as small, slimbind.load(split_folder, threads=1) as large:
        for modality, items in (("vision", photos), ("text", ["a dog", "two cats on a sofa"])):
            cosines = (small.embed(items, modality) * large.embed(items, modality)).sum(axis=1)
            assert cosines.min() > 0.995
        together = small.embed(photos, "vision")
        alone = np.concatenate([small.embed([photo], "vision") for photo in photos])
        assert np.abs(together - alone).max() < 1e-6


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("bf16", 0.9995, 0.75), ("f16", 0.9995, 0.75), ("int8-weight", 0.999, 0.5), ("int4-weight", 0.97, 0.46)],
)
def test_weight_only_schemes(split_folder, tmp_path, name, least, most):
    settings = {"group": "16"} if name == "int4-weight" else {}
    wanted = {"modalities": ["text", "depth"], "samples": 16, "force": True}
    artifact = quantize(split_folder, tmp_path / "out", scheme=scheme(name, settings), **wanted)
    told = artifact.tower("text").fidelity
    assert told.cosine_mean > least
    assert artifact.tower("text").bytes < most * told.reference_bytes
    assert artifact.tower("text").scheme == name
    assert (artifact.folder / "text" / "tokenizer.json").is_file()
    maps = np.random.default_rng(0).normal(0, 1, (7, 1, 224, 224)).astype(np.float32)
    texts = ["dog", "a dog", "two cats on a sofa", "x", "music", "the sea and a boat on it", "night"]
    with slimbind.load(artifact.folder, threads=1) as model:
        for items, modality in ((texts, "text"), (list(maps), "depth")):
            together = model.embed(items, modality)
            for count in (1, 2, 4):
                few = [model.embed(items[k : k + count], modality) for k in range(0, len(items), count)]
                assert np.abs(np.concatenate(few) - together).max() < 1e-6, (modality, count)


def test_layers_that_4_bits_do_not_fit_are_told_before_work(split_folder, tmp_path):
    def no_work(text, total):
        raise KeyboardInterrupt(text)

    notes = []
    wanted = {"modalities": ["imu"], "progress": no_work, "note": notes.append}
    with pytest.raises(
        UsageError, match="groups of 7 divide the inputs of no linear layer of the imu tower"
    ) as refused:
        quantize(split_folder, tmp_path / "out", scheme=scheme("int4-weight", {"group": "7"}), **wanted)
    group = refused.value.hint.partition("group=")[2].partition(",")[0]
    for text, left in ((group, False), (str(4 * int(group)), True)):
        notes.clear()
        with pytest.raises(KeyboardInterrupt):
            quantize(split_folder, tmp_path / "out", scheme=scheme("int4-weight", {"group": text}), **wanted)
        assert any("linear layers keep 8 bits" in note for note in notes) == left, notes


def test_error_compensation_pays(split_folder, tmp_path):
    found = {}
    for method in ("gptq", "nearest"):
        config = scheme("int4-weight", {"group": "16", "method": method})
        artifact = quantize(split_folder, tmp_path / method, scheme=config, modalities=["imu"], samples=32, force=True)
        found[method] = 1 - artifact.tower("imu").fidelity.cosine_mean
    assert found["gptq"] < 0.3 * found["nearest"]


@pytest.mark.parametrize("settings", [{"smoothing": "searched"}, {"correct": "yes"}, {"smoothing": "off"}])
def test_int8_dynamic_in_other_ways(split_folder, tmp_path, settings):
    config = scheme("int8-dynamic", settings)
    entry = quantize(split_folder, tmp_path / "out", scheme=config, modalities=["imu"]).tower("imu")
    assert entry.fidelity.cosine_min > 0.999
    alphas = entry.quantization["report"].get("smoothing", {})
    assert bool(alphas) == (settings.get("smoothing") != "off")


@pytest.mark.parametrize("name", ["eager-dynamic", "eager-static"])
def test_the_papers_baselines_run_on_pytorch(split_folder, tmp_path, name):
    artifact = quantize(split_folder, tmp_path / "out", scheme=name, modalities=["imu"])
    entry = artifact.tower("imu")
    assert (entry.engine, entry.scheme) == ("torch", name)
    assert entry.fidelity.cosine_min > 0.98
    with pytest.raises(UsageError, match="unknown engine for eager-.* 'onnx'; allowed: torch"):
        quantize(split_folder, tmp_path / "other", scheme=name, engine="onnx", modalities=["imu"])


def test_encoder_ids_tell_settings_and_data_apart(split_folder, tmp_path):
    ids = set()
    for number, options in enumerate([{}, {"scheme": scheme("int8-dynamic", {"smoothing": "off"})}, {"samples": 5}]):
        artifact = quantize(split_folder, tmp_path / str(number), modalities=["imu"], **options)
        ids.add(artifact.tower("imu").encoder_id)
    again = quantize(split_folder, tmp_path / "again", modalities=["imu"])
    assert len(ids) == 3 and again.tower("imu").encoder_id in ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "int3"}, "unknown scheme 'int3'; allowed: bf16, eager-dynamic"),
        ({"engine": "abacus"}, "unknown engine for int8-dynamic 'abacus'; allowed: onnx, openvino"),
        ({"scheme": "bf16", "engine": "onnx"}, "unknown engine for bf16 'onnx'"),
        ({"modalities": ["smell"]}, "unknown modality 'smell'"),
        ({"modalities": []}, "no modality was asked for"),
        ({"samples": 0}, "0 samples are asked for"),
        ({"calibrate": ["/no/such/folder"]}, "/no/such/folder: no such file or folder"),
    ],
)
def test_senseless_wishes_are_told_before_anything_is_done(split_folder, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        quantize(split_folder, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_quantized_already_is_refused(dynamic, split_folder, tmp_path):
    from slimbind.export.job import export

    with pytest.raises(ArtifactError, match=r"vision tower of .* is already quantized \(int8-dynamic\)"):
        quantize(dynamic.folder, tmp_path / "out")
    export(split_folder, tmp_path / "exported", modalities=["imu"], threads=1)
    with pytest.raises(ArtifactError, match="imu tower of .* was already exported for openvino"):
        quantize(tmp_path / "exported", tmp_path / "out")
    with pytest.raises(ArtifactError, match="is not a slimbind artifact"):
        quantize(tmp_path, tmp_path / "out")


def test_an_artifact_is_replaced_only_when_told_to(split_folder, tmp_path):
    quantize(split_folder, tmp_path / "out", scheme="bf16", modalities=["imu"])
    with pytest.raises(ArtifactError, match="not empty"):
        quantize(split_folder, tmp_path / "out", scheme="bf16", modalities=["depth"])
    assert Artifact.open(tmp_path / "out").modalities == ("imu",)
    quantize(split_folder, tmp_path / "out", scheme="bf16", modalities=["depth"], overwrite=True)
    assert Artifact.open(tmp_path / "out").modalities == ("depth",)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_read_is_not_replaced(split_folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(split_folder)
    before = sorted(path.name for path in split_folder.iterdir())
    for place in (split_folder, link, split_folder.parent):
        with pytest.raises(ArtifactError, match="is what .* is read from") as refused:
            quantize(split_folder, place, modalities=["imu"], overwrite=True)
        assert refused.value.hint == "choose another folder"
    assert sorted(path.name for path in split_folder.iterdir()) == before


def test_damaged_weights_are_not_quantized(split_folder, tmp_path):
    copy = shutil.copytree(split_folder, tmp_path / "copy")
    path = copy / "imu" / "tower.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactCorruptError, match="was changed"):
        quantize(copy, tmp_path / "out", modalities=["imu"])
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_tower_that_drifts_is_refused_unless_forced(split_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(schemes.LEAST, "int8-dynamic", (1.1, "for the test"))
    with pytest.raises(DriftError, match=r"imu tower in int8-dynamic says something else .* at least 1.1"):
        quantize(split_folder, tmp_path / "out", modalities=["imu"])
    assert not (tmp_path / "out").exists()
    notes = []
    forced = quantize(split_folder, tmp_path / "out", modalities=["imu"], force=True, note=notes.append)
    assert forced.tower("imu").fidelity.cosine_min > 0.99
    assert any("was finished before" in text for text in notes), "the refused tower is not made twice"
    assert any("kept all the same" in text for text in notes)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("stage", ["observing", "comparing"])
def test_a_stopped_job_leaves_nothing_half_done_and_goes_on(split_folder, tmp_path, stage):
    def stop(text, total):
        if text == f"depth: {stage}":
            raise KeyboardInterrupt
        return lambda done: None

    notes = []
    wanted = {"modalities": ["imu", "depth"], "note": notes.append}
    with pytest.raises(KeyboardInterrupt):  # depth comes before imu
        quantize(split_folder, tmp_path / "out", progress=stop, **wanted)
    assert list(tmp_path.iterdir()) == [], "nothing was finished, so nothing is kept"

    def stop_later(text, total):
        return stop(text.replace("imu", "depth"), total) if text.startswith("imu") else lambda done: None

    with pytest.raises(KeyboardInterrupt):
        quantize(split_folder, tmp_path / "out", progress=stop_later, **wanted)
    (work,) = tmp_path.iterdir()
    assert work.name == ".out.unfinished" and [path.name[:6] for path in work.iterdir()] == ["depth-"]
    assert "finished towers wait in" in notes[-1]
    notes.clear()
    stages = []
    done = quantize(
        split_folder, tmp_path / "out", progress=lambda s, n: stages.append(s) or (lambda k: None), **wanted
    )
    assert done.modalities == ("depth", "imu")
    assert not any(text.startswith("depth") for text in stages)
    assert any("depth: was finished" in text for text in notes)
    assert any(text.startswith("imu") for text in stages)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_jobs_do_not_write_to_one_place(split_folder, tmp_path):
    refused = []

    def second(text, total):
        if not refused:
            with pytest.raises(ArtifactError, match="another job is writing .*out") as error:
                quantize(split_folder, tmp_path / "out", scheme="bf16", modalities=["imu"])
            refused.append(error.value)
        return lambda done: None

    (tmp_path / ".out.lock").touch()  # what a job leaves behind that was killed
    first = quantize(split_folder, tmp_path / "out", scheme="f16", modalities=["imu"], progress=second)
    assert refused and "let it finish" in refused[0].hint
    assert first.tower("imu").scheme == "f16"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_waits_is_used_only_for_the_same_job_and_only_if_whole(split_folder, tmp_path):
    source = Artifact.open(split_folder)
    work = Work(tmp_path / "out", model=source.manifest.model, embedding_dim=source.manifest.embedding_dim)
    entry = source.tower("imu")
    paths = {
        work.path("imu", entry, scheme("int8-dynamic"), "openvino", "a"),
        work.path("imu", entry, scheme("int8-dynamic"), "openvino", "b"),
        work.path("imu", entry, scheme("int8-dynamic"), "onnx", "a"),
        work.path("imu", entry, scheme("int8-dynamic", {"smoothing": "off"}), "openvino", "a"),
        work.path("depth", entry, scheme("int8-dynamic"), "openvino", "a"),
        work.path("imu", entry.model_copy(update={"weights": "0" * 64}), scheme("int8-dynamic"), "openvino", "a"),
    }
    assert len(paths) == 6
    made = quantize(split_folder, tmp_path / "made", scheme="bf16", modalities=["imu"])
    assert work.find(made.folder) is not None
    with open(made.folder / "imu" / "tower.bin", "r+b") as file:
        file.write(b"changed")
    assert work.find(made.folder) is None and not made.folder.exists()


def test_too_small_a_disk_is_noticed_before_anything_is_written(split_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("slimbind.artifact.shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(ArtifactError, match=r"needs [\d.]+ [KM]iB, but only 1000 bytes are free there"):
        quantize(split_folder, tmp_path / "deep" / "out", modalities=["text"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("name", ["int8-dynamic", "eager-dynamic"])
def test_a_disk_that_fills_up_is_said_and_leaves_nothing(split_folder, tmp_path, monkeypatch, name):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setattr(job, "check_space", lambda destination, needed: None)
        with pytest.raises(ArtifactError, match="could not be written|was not written"):
            quantize(split_folder, disk / "out", scheme=name, modalities=["imu"])
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_cpu_without_int8_instructions_is_told_of_first(split_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "int8_note", lambda: "int8 will not be faster here")
    notes = []
    for name in ("int8-dynamic", "bf16"):
        quantize(split_folder, tmp_path / name, scheme=name, modalities=["imu"], note=notes.append)
    assert notes[0] == "int8 will not be faster here" and notes.count(notes[0]) == 1


def test_every_scheme_has_a_threshold_with_its_reason():
    assert schemes.LEAST.keys() == SCHEMES.keys()
    assert all(-1 <= least < 1 and reason for least, reason in schemes.LEAST.values())


def test_a_size_estimate_is_near_the_truth(split_folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(job, "check_space", lambda destination, needed: asked.append(needed))
    artifact = quantize(split_folder, tmp_path / "out", modalities=["text"])
    weights = sum(file.bytes for file in artifact.tower("text").files if file.path.endswith(".bin"))
    assert 0.8 * weights < asked[0] < 1.5 * weights


def test_the_manifest_is_plain_json(dynamic):
    told = json.loads((dynamic.folder / "manifest.json").read_text())
    assert told["towers"]["imu"]["quantization"]["type"] == "int8-dynamic"


def with_rules(*rules):
    told = [{"layers": layers, "scheme": name} for layers, name in rules]
    return scheme("mixed", {"recipe": json.dumps({"type": "slimbind-recipe", "rules": told})})


def test_a_recipe_that_does_not_fit_is_refused_before_any_work(split_folder, tmp_path):
    def no_work(text, total):
        raise AssertionError(text)

    wanted = {"modalities": ["depth", "imu"], "progress": no_work}
    with pytest.raises(UsageError, match="no rule for the imu tower"):
        quantize(split_folder, tmp_path / "out", scheme=with_rules(("depth/*", "int8-weight")), **wanted)
    table = with_rules(("depth/*", "bf16"), ("*", "int8-dynamic"))
    with pytest.raises(
        UsageError, match=r"not possible in the text tower: stem\.embedding is of the kind embedding"
    ) as no:
        quantize(split_folder, tmp_path / "out", scheme=table, **(wanted | {"modalities": ["depth", "text"]}))
    assert "before '*'" in no.value.hint
    both = with_rules(("head.proj", "int8-weight"), ("*mlp*", "int8-dynamic"))
    with pytest.raises(UsageError, match=r"head\.proj of the depth tower int8-weight beside int8-dynamic"):
        quantize(split_folder, tmp_path / "out", scheme=both, **wanted)


def test_the_recipe_of_one_tower_says_nothing_of_others(split_folder, tmp_path):
    config = with_rules(("depth/*", "int8-weight"), ("*", "bf16"))
    made = quantize(split_folder, tmp_path / "out", scheme=config, modalities=["depth", "imu"])
    alone = scheme("mixed", {"recipe": (made.folder / "imu" / "recipe.json").read_text()})
    assert quantize(split_folder, tmp_path / "again", scheme=alone, modalities=["imu"]).modalities == ("imu",)


def test_what_is_fine_tuned_is_another_encoder_with_other_data(split_folder, tmp_path):
    config = scheme("int8-weight", {"qat_steps": "1"})
    made = [quantize(split_folder, tmp_path / str(k), scheme=config, modalities=["imu"], samples=k) for k in (2, 5)]
    assert len({artifact.tower("imu").encoder_id for artifact in made}) == 2


def test_another_tokenizer_is_another_job(split_folder, tmp_path):
    source = Artifact.open(split_folder)
    work = Work(tmp_path / "out", model=source.manifest.model, embedding_dim=source.manifest.embedding_dim)
    entry = source.tower("text")
    files = [file.model_copy(update={"sha256": "0" * 64}) for file in entry.files]
    paths = {
        work.path("text", one, scheme("bf16"), "openvino", "a")
        for one in (entry, entry.model_copy(update={"files": files}))
    }
    assert len(paths) == 2
