"""``slimbind eval similarity`` and ``slimbind eval activations``, as people call them."""

from __future__ import annotations

import pytest

from slimbind.evaluate.record import Record


def test_similarity_of_a_folder_and_sentences(cli, toy_folder, tmp_path):
    page, png = tmp_path / "s.html", tmp_path / "s.png"
    args = ("eval", "similarity", toy_folder, "--rows-modality", "vision", "-t", "red", "-t", "blue", "--items", 2)
    done = cli(*args, "--json", "--html", page, "--png", png)
    assert done.code == 0
    assert done.json["details"]["columns"] == ["red", "blue"] and len(done.json["details"]["scores"]) == 2
    assert "Heat map of toy" in page.read_text(encoding="utf-8") and png.read_bytes().startswith(b"\x89PNG")
    assert f"written: {png}" in done.err


def test_similarity_beside_a_reference(cli, toy_folder, toy_artifact):
    (toy_folder / "texts.txt").write_text("red\ngreen\n", encoding="utf-8")
    folder = toy_folder / "deep"
    done = cli("eval", "similarity", folder, toy_folder / "texts.txt", "-r", toy_artifact)
    assert done.code == 0 and "same best column" in done.out.decode() and "100.0 %" in done.out.decode()


def test_similarity_without_data_takes_what_is_shipped(cli):
    done = cli("eval", "similarity", "--items", 3, "--json")
    assert done.code == 0 and "photographs that come with slimbind" in done.err
    assert len(done.json["details"]["rows"]) == len(done.json["details"]["columns"]) == 3


def test_similarity_alone_says_what_would_show_something(cli, toy_folder):
    done = cli("eval", "similarity", toy_folder, "--rows-modality", "vision", "-t", "red", "-m", "mini")
    assert done.code == 0 and done.lines == ["things and sentences"] and "--png or --html" in done.err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["{folder}"], "nothing to compare them with"),
        (["{folder}", "{folder}", "-t", "red"], "leave one out"),
        (["{folder}", "-t", "red"], "holds vision, audio"),
        (["{folder}/none", "-t", "red"], "no such file"),
        (["{folder}", "-t", "red", "--rows-modality", "smell"], "unknown modality"),
        (["--png", "{folder}"], "--png"),
        (["--html", "{folder}/none/x.html"], "make it first"),
    ],
)
def test_what_is_not_clear_is_wrong_usage(cli, toy_folder, args, told):
    (toy_folder / "notes.txt").unlink()
    done = cli("eval", "similarity", *(one.format(folder=toy_folder) for one in args))
    assert done.code == 2 and told in done.err and done.out == b""


def test_a_bad_picture_is_told_and_changes_the_exit_code(cli, toy_folder):
    (toy_folder / "broken.png").write_bytes(b"no picture")
    done = cli("eval", "similarity", toy_folder, "--rows-modality", "vision", "-t", "red", "--json")
    assert done.code == 4 and "broken.png" in done.err and len(done.json["details"]["rows"]) == 3


def test_activations_need_a_split_folder(cli, toy_artifact):
    done = cli("eval", "activations", toy_artifact)
    assert done.code == 1 and "error:" in done.err
    assert cli("eval", "activations", toy_artifact, "--modalities", "smell").code == 2


def test_activations_name_the_hardest_layers(cli, monkeypatch, tmp_path):
    from slimbind.quantize import distributions

    made = distributions.Layer("trunk.up", "linear", 8, 4, *(distributions.Binned((0.0, 1.0), (3,)), 30.0))
    loud = distributions.Outlier(7, 90.0, 45.0)
    fields = {"input": made.weight, "input_db": 12.5, "row_db": 20.0, "channels": (1.0, 2.0, 2.0, 3.0, 90.0)}
    found = distributions.Layer(**vars(made) | fields | {"ratio": 45.0, "outliers": (loud,), "loud": 1})

    def evaluate(source, *, name, progress, **options):
        done = progress("looking into vision", 3)
        for count in (1, 3):
            done(count)
        details = {"layers": [distributions._told(one) for one in (found, made)]}
        return [Record("activations", "vision: layers", name, details=details)]

    monkeypatch.setattr(distributions, "activations", evaluate)
    page = tmp_path / "layers.html"
    done = cli("eval", "activations", tmp_path, "--progress", "--html", page)
    assert done.code == 0 and "looking into vision: 3/3 items" in done.err
    assert any(line.split()[:2] == ["trunk.up", "12.5"] and "7 (45x)" in line for line in done.lines)
    assert "7 (45x)" in page.read_text(encoding="utf-8")
