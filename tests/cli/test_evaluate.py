"""``slimbind eval``: tables for people, JSON and pages for others, and what is refused before any work."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from slimbind.evaluate.record import Record

from ..conftest import write_picture

COLOURS = {"red": (220, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 230)}


@pytest.fixture
def pictures(tmp_path):
    for name, (red, green, blue) in COLOURS.items():
        for number in range(4):
            write_picture(tmp_path / "data" / name / f"{number}.png", (red, green, blue + number))
    return tmp_path / "data"


@pytest.fixture
def pairs(pictures):
    with open(pictures / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *((f"{name}/0.png", name) for name in COLOURS)])
    return pictures / "pairs.csv"


def test_zero_shot_prints_a_table(cli, pictures):
    done = cli("eval", "zero-shot", pictures)
    assert done.code == 0
    title, heads, top1, recall = done.lines
    assert title == "data: vision, 3 classes"
    assert heads.split() == ["measure", "95", "%", "interval", "of"]
    assert top1.split() == ["top-1", "100.0", "%", "100.0", "to", "100.0", "%", "12"]
    assert recall.split()[:4] == ["mean", "class", "recall", "100.0"]


def test_zero_shot_as_json_and_as_a_page(cli, pictures, tmp_path):
    page = tmp_path / "page.html"
    done = cli("eval", "zero-shot", pictures, "--json", "--html", page, "-t", "none", "-t", "my {}", "--seed", 3)
    record = Record.from_json(done.out)
    assert record.settings["templates"] == "none, my {}" and record.settings["sentences"] == 2
    assert record.settings["seed"] == 3
    assert "data: vision, 3 classes" in page.read_text(encoding="utf-8")
    assert str(page) in done.err


def test_classes_are_named_by_a_file(cli, pictures, tmp_path):
    (tmp_path / "names.txt").write_text("blue\tred\ngreen\tgreen\nred\tblue\n")
    done = cli("eval", "zero-shot", pictures, "--classes", tmp_path / "names.txt", "--json")
    assert done.json["details"]["classes"] == ["red", "green", "blue"]
    assert done.json["measures"]["top-1"]["value"] == pytest.approx(4 / 12)


def test_items_that_fail_are_told_and_change_the_exit_code(cli, pictures):
    (pictures / "red" / "broken.png").write_bytes(b"no picture")
    done = cli("eval", "zero-shot", pictures)
    assert done.code == 4 and "failed: red/broken.png: " in done.err
    assert done.lines[2].endswith("12")


def test_what_failed_is_told_once_for_all_codecs(cli, pairs, tmp_path):
    (pairs.parent / "red" / "0.png").write_bytes(b"no picture")
    done = cli("eval", "retrieval", pairs, "-c", "sq8", "--html", tmp_path / "page.html")
    assert done.code == 4 and done.err.count("failed: red/0.png") == 1
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("red/0.png") == 1


def test_linear_probe(cli, pictures, tmp_path):
    for name in COLOURS:
        write_picture(tmp_path / "test" / name / "0.png", COLOURS[name])
    told = cli("eval", "linear-probe", pictures, tmp_path / "test", "--json").json
    assert told["task"] == "linear-probe" and told["measures"]["top-1"] == {"value": 1, "low": 1, "high": 1, "n": 3}
    held = cli("eval", "linear-probe", pictures, "--held-out", 0.5, "--json").json
    assert held["settings"]["test_items"] == 6


def test_linear_probe_of_two_splits(cli, pictures, tmp_path):
    (tmp_path / "whole").mkdir()
    pictures.rename(tmp_path / "whole" / "train")
    for name in COLOURS:
        write_picture(tmp_path / "whole" / "test" / name / "0.png", COLOURS[name])
    done = cli("eval", "linear-probe", tmp_path / "whole", "--split", "train", "--test-split", "test", "--json")
    assert done.json["settings"]["train_items"] == 12 and done.json["settings"]["test_items"] == 3


def test_retrieval_shows_codecs_side_by_side(cli, pairs):
    done = cli("eval", "retrieval", pairs, "--columns", "image, caption", "--codec", "sq8", "-c", "binary")
    title, heads, size, *rows = done.lines
    assert title == "pairs.csv: vision and text"
    assert heads.split() == ["measure", "codec", "f32", "codec", "sq8", "codec", "binary"]
    assert size.split() == ["bytes", "per", "vector", "32", "bytes", "8", "bytes", "1", "bytes"]
    assert rows[0].split() == ["vision", "to", "text", "R@1", *["100.0", "%"] * 3]
    none = ["0.0", "points", "(0.0", "to", "0.0)"]
    assert rows[1].split() == ["vision", "to", "text", "R@1", "difference", "-", *none, *none]
    assert len(rows) == 16


def test_numbers_are_never_cut(cli, pairs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    done = cli("eval", "retrieval", pairs, "-c", "sq8", "-c", "sq4", "-c", "binary", "-c", "f16")
    assert done.lines[1].split()[-2:] == ["codec", "f16"]
    assert all("\u2026" not in line for line in done.lines)


def test_retrieval_as_json_is_one_record_or_a_list(cli, pairs):
    assert cli("eval", "retrieval", pairs, "--json").json["settings"]["codec"] == "f32"
    several = cli("eval", "retrieval", pairs, "--json", "-c", "sq8", "--no-fit").json
    assert [record["settings"]["codec"] for record in several] == ["f32", "sq8"]


def test_progress_is_told_when_asked_for(cli, pictures):
    told = cli("eval", "zero-shot", pictures, "--progress").err
    assert "embedding class names: 3/3" in told and "embedding vision: 12/12" in told
    assert cli("eval", "zero-shot", pictures).err == ""


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["zero-shot", "DATA", "-t", "imagenet8"], "unknown set of templates 'imagenet8'"),
        (["zero-shot", "DATA", "--modality", "sound"], "unknown modality"),
        (["zero-shot", "DATA", "--classes", "NOWHERE"], "cannot be read"),
        (["zero-shot", "DATA", "--kind", "heap"], "unknown kind"),
        (["zero-shot", "DATA", "--html", "NOWHERE/page.html"], "there is no folder"),
        (["zero-shot", "DATA", "--html", "DATA"], "is a folder"),
        (["zero-shot", "NOWHERE"], "no such file or folder"),
        (["zero-shot", "PAIRS"], "no classes"),
        (["linear-probe", "DATA", "--validation", "1"], "validation share"),
        (["linear-probe", "PAIRS"], "no classes"),
        (["retrieval", "DATA"], "no pairs"),
        (["retrieval", "PAIRS", "-c", "sq9"], "unknown codec"),
        (["retrieval", "PAIRS", "--columns", "image,title"], "title"),
        (["retrieval", "PAIRS", "--modalities", "vision,smell"], "smell"),
    ],
)
def test_wrong_usage_is_refused_before_any_tower_is_opened(cli, pairs, tmp_path, monkeypatch, command, why):
    monkeypatch.setattr("slimbind.runtime.model.Model.stream", lambda *args, **options: pytest.fail("work began"))
    places = {"DATA": pairs.parent, "PAIRS": pairs, "NOWHERE": tmp_path / "nowhere"}
    done = cli("eval", *(str(places.get(word, word)).replace("NOWHERE", str(places["NOWHERE"])) for word in command))
    assert done.code == 2, done.err
    assert why in done.err and not done.out


def test_help_of_the_group_loads_nothing_heavy():
    code = (
        "import sys; from slimbind.cli.app import run\n"
        "assert run(['eval', '--help']) == 0 == run(['eval', 'linear-probe', '--help'])\n"
        "heavy = {'numpy', 'openvino', 'sklearn', 'matplotlib', 'faiss', 'PIL'}\n"
        "sys.exit(f'loaded: {found}' if (found := sorted(heavy & set(sys.modules))) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
