"""``slimbind eval compare``, as people call it."""

from __future__ import annotations

import pytest
from PIL import Image

QUICK = ("--no-speed", "--no-memory", "--no-similarity", "--samples", "2", "--modalities", "vision,text")


@pytest.fixture
def other(make_toy, tmp_path):
    return make_toy(tmp_path / "int8", scheme="int8-dynamic")


@pytest.fixture
def classes(tmp_path):
    for name, colour in (("red", (220, 10, 10)), ("green", (10, 200, 10))):
        for number in range(6):
            path = tmp_path / "classes" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30 + number, 40), colour).save(path)
    return tmp_path / "classes"


def test_one_page_and_one_table(cli, toy_artifact, other, classes, tmp_path):
    page, table = tmp_path / "page.html", tmp_path / "table.md"
    args = ("eval", "compare", toy_artifact, other, *QUICK, "--zero-shot", classes, "--mix", "--progress")
    done = cli(*args, "--html", page, "--markdown", table)
    assert done.code == 0
    text = table.read_text(encoding="utf-8")
    assert text.splitlines()[0] == "| measure | toy | int8 | int8 (vision only) | int8 (text only) |"
    assert "top-1 | 100.0 %" in text and "cosine mean" in text and "size ratio" in text
    assert "Models side by side" in page.read_text(encoding="utf-8")
    assert "int8 (text only)" in done.out.decode() and f"written: {table}" in done.err
    assert "int8: comparing vision" in done.err


def test_json_is_a_list_of_records(cli, toy_artifact, other):
    done = cli("eval", "compare", toy_artifact, other, *QUICK, "--json")
    assert done.code == 0
    assert [(one["task"], one["model"]) for one in done.json] == [
        ("size", "toy"),
        ("size", "int8"),
        *[("fidelity", "toy")] * 2,
        *[("fidelity", "int8")] * 2,
    ]


def test_a_linear_probe_is_compared_too(cli, toy_artifact, other, classes):
    args = ("eval", "compare", toy_artifact, other, *QUICK, "--no-fidelity")
    done = cli(*args, "--linear-probe", classes, "--linear-probe", classes, "--json")
    assert done.code == 0, done.err
    found = [one for one in done.json if one["task"] == "linear-probe"]
    assert [one["model"] for one in found] == ["toy", "int8"]
    assert all(one["measures"]["top-1"]["value"] == 1 for one in found)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["{toy}"], "nothing to compare"),
        (["{toy}", "{toy}"], "named twice"),
        (["{toy}", "mini"], "not the same model"),
        (["{toy}", "{other}", "-t", "a {{}}"], "nothing that it is for"),
        (["{toy}", "{other}", "-c", "sq8"], "nothing that it is for"),
        (["{toy}", "{other}", "--markdown", "{toy}"], "--markdown"),
        (["{toy}", "{other}", "--linear-probe", "a", "--linear-probe", "b", "--linear-probe", "c"], "more than twice"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(cli, toy_artifact, other, args, told):
    done = cli("eval", "compare", *(one.format(toy=toy_artifact, other=other) for one in args))
    assert done.code == 2 and told in done.err and done.out == b""
