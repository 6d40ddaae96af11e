"""``slimbind fidelity``: a table for people, JSON for programs, exit codes for both."""

from __future__ import annotations

import pytest

from slimbind.runtime import quiet


@pytest.fixture
def pair(toy_artifact, make_toy, tmp_path):
    """The toy and a copy of it whose vision tower sees a little worse."""
    other = make_toy(tmp_path / "other", scheme="int8-dynamic")
    ov = quiet.openvino()
    path = other / "vision" / "tower.xml"
    model = ov.Core().read_model(path)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and list(node.get_output_shape(0)) == [3, 8]:
            from openvino import opset13 as op

            changed = node.data.copy()
            changed[0, 1] = 0.2
            node.output(0).replace(op.constant(changed).output(0))
    ov.save_model(model, tmp_path / "tower.xml", compress_to_fp16=False)
    return toy_artifact, rewrite(other, tmp_path)


def rewrite(folder, place):
    """Put the changed vision tower into a new artifact, with hashes that are right."""
    import shutil

    from slimbind.artifact import Artifact, ArtifactWriter

    old = Artifact.open(folder)
    with ArtifactWriter(place / "worse", model=old.manifest.model, embedding_dim=8) as writer:
        for name in old.modalities:
            entry = old.tower(name)
            shutil.copytree(folder / name, writer.folder(name), dirs_exist_ok=True)
            if name == "vision":
                for suffix in ("xml", "bin"):
                    shutil.copy(place / f"tower.{suffix}", writer.folder(name) / f"tower.{suffix}")
            fields = entry.model_dump(exclude={"files"}) | {"preprocess": entry.preprocess}
            writer.add(name, **fields)
    return place / "worse"


def test_the_table_tells_what_was_lost(cli, pair, toy_folder):
    done = cli("fidelity", *pair, "--data", toy_folder, "--no-time")
    assert done.code == 0
    heads, vision, text, audio, *origins = done.lines
    assert heads.split() == ["modality", "scheme", "cosine", "min", "centred", "min", "MiB", "size", "speed"]
    assert vision.split()[:2] == ["vision", "int8-dynamic"]
    mean, least, centred, centred_least = map(float, vision.split()[2:6])
    assert 0.9 < least <= mean < 0.9999 and centred_least <= centred < 0.9999
    assert text.split()[2:6] == ["1.00000", "1.00000", "-", "-"], "one text has no mean to subtract"
    assert audio.split()[2:6] == ["1.00000"] * 4
    size, speed = vision.split()[-2:]
    assert float(size.removesuffix("x")) == pytest.approx(1, abs=0.05) and speed == "-"
    assert [line.split(":")[0] for line in origins] == ["vision", "text", "audio"]
    assert "3 items, files of things; openvino" in origins[0]
    assert "comparing vision" in done.err and "no --data" not in done.err


def test_json_has_the_same_and_more(cli, pair, toy_folder):
    done = cli("fidelity", *pair, "--data", toy_folder, "--json", "--modalities", "vision", "--samples", 2)
    assert done.code == 0
    told = done.json["towers"]["vision"]
    assert set(done.json["towers"]) == {"vision"}
    assert (done.json["reference"], done.json["candidate"]) == tuple(map(str, pair))
    assert told["fidelity"]["samples"] == 2 and told["fidelity"]["cosine_min"] < 0.9999
    assert told["candidate"]["scheme"] == "int8-dynamic" and told["reference"]["scheme"] == "f32"
    assert told["time"]["ratio"] == told["fidelity"]["time_ratio"] > 0 and told["time"]["rounds"] >= 3
    assert told["failed"] == []


def test_without_data_what_is_shipped_is_used_and_it_is_said(cli, pair):
    done = cli("fidelity", *pair, "--modalities", "text", "--samples", 3, "--no-time")
    assert done.code == 0
    assert "no --data: comparing on what comes with slimbind" in done.err
    assert "the sentences that come with slimbind (3 of " in done.lines[-1]


def test_progress_counts_what_both_embed(cli, pair, toy_folder):
    args = ("fidelity", *pair, "--data", toy_folder, "--no-time", "--modalities", "vision,audio")
    told = cli(*args, "--progress").err
    assert "embedding vision: 6/6 views" in told and "embedding audio: 4/4 views" in told
    assert "embedding" not in cli(*args, "--no-progress").err


def test_a_least_cosine_is_a_gate(cli, pair, toy_folder):
    args = ("fidelity", *pair, "--data", toy_folder, "--no-time", "--least")
    assert cli(*args, 0.5).code == 0
    refused = cli(*args, 0.9999)
    assert refused.code == 3
    last = refused.err.splitlines()[-1]
    assert last.startswith("error: below the least cosine asked for (0.9999): vision 0.9") and "audio" not in last
    assert len(refused.lines) > 3, "the table is shown all the same"


def test_a_bad_file_is_told_and_changes_the_exit_code(cli, pair, toy_folder):
    (toy_folder / "broken.png").write_bytes(b"no picture")
    done = cli("fidelity", *pair, "--data", toy_folder, "--no-time", "--modalities", "vision", "--json")
    assert done.code == 4
    assert "broken.png" in done.err
    assert [row["item"].endswith("broken.png") for row in done.json["towers"]["vision"]["failed"]] == [True]


def test_what_does_not_go_together_is_wrong_usage(cli, toy_artifact, tmp_path):
    mini = cli("fidelity", toy_artifact, "mini")
    assert (mini.code, mini.out) == (2, b"") and "not the same model: toy" in mini.err
    assert cli("fidelity", toy_artifact, tmp_path / "nothing").code == 1
    assert cli("fidelity", toy_artifact, toy_artifact, "--modalities", "smell").code == 2
    assert cli("fidelity", toy_artifact, toy_artifact, "--samples", 0).code == 2
    assert cli("fidelity", toy_artifact, toy_artifact, "--data", tmp_path / "nothing").code == 2


def test_eval_fidelity_is_the_same_and_writes_a_page(cli, pair, toy_folder, tmp_path):
    page = tmp_path / "lost.html"
    plain = cli("fidelity", *pair, "--data", toy_folder, "--json", "--no-time")
    again = cli("eval", "fidelity", *pair, "--data", toy_folder, "--json", "--no-time", "--html", page)
    assert plain.code == again.code == 0, again.err
    assert plain.json == again.json
    text = page.read_text(encoding="utf-8")
    assert "fidelity, vision" in text and "centred cosine min" in text
    assert f"{plain.json['towers']['vision']['fidelity']['cosine_min']:.5f}" in text


def test_a_page_that_cannot_be_written_is_refused_before_any_work(cli, pair, tmp_path):
    done = cli("fidelity", *pair, "--html", tmp_path / "nowhere" / "page.html")
    assert done.code == 2 and "no folder" in done.err and "comparing" not in done.err
