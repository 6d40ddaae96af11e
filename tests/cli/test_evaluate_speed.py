"""``slimbind eval speed``: a table for people, a record for others."""

from __future__ import annotations

import pytest

from ..conftest import write_picture

QUICK = ("--seconds", "0.01", "--rounds", "1", "--samples", "3")


def test_the_table_has_a_row_for_each_setting(cli, toy_artifact):
    done = cli("eval", "speed", toy_artifact, "--modalities", "text", "--callers", "1,2", "--threads", "1,2", *QUICK)
    assert done.code == 0, done.err
    assert done.lines[0].startswith("speed, text: 3 items")
    assert "threads 2: 2 forward passes side by side, 1 thread each (sentences are short)" in done.lines[1]
    headings = done.lines[2].split()
    assert headings == ["threads", "streams", "batch", "callers", "items/s", "p50", "p90", "p99", "cores"]
    rows = [line.split()[:4] for line in done.lines[3:11]]
    assert rows == [[t, t, batch, callers] for t in ("1", "2") for batch in ("1", "32") for callers in ("1", "2")]
    assert any(line.startswith("p99 seconds") for line in done.lines)


def test_json_and_page_have_all_towers(cli, toy_artifact, tmp_path):
    page = tmp_path / "speed.html"
    done = cli("eval", "speed", toy_artifact, "--json", "--html", page, "--batch-sizes", "1", "--callers", "1", *QUICK)
    assert done.code == 0, done.err
    assert [record["settings"]["modality"] for record in done.json] == ["vision", "text", "audio"]
    assert all(record["task"] == "speed" and record["details"]["rows"] for record in done.json)
    text = page.read_text(encoding="utf-8")
    assert "speed, audio" in text and "items per second" in text


def test_data_says_which_towers(cli, toy_artifact, tmp_path):
    folder = tmp_path / "photos"
    write_picture(folder / "red.png", (200, 0, 0))
    (folder / "broken.jpg").write_bytes(b"no picture")
    done = cli(
        "eval", "speed", toy_artifact, "--data", folder, "--json", "--callers", "1", "--batch-sizes", "2", *QUICK
    )
    assert done.code == 4 and "broken.jpg" in done.err
    assert done.json["settings"]["modality"] == "vision" and done.json["settings"]["items"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "many"), "--threads is 'many'"),
        (("--callers", "0"), "--callers is '0'"),
        (("--batch-sizes", "1,-2"), "--batch-sizes is"),
        (("--data", "nowhere"), "no such file or folder"),
        (("--modalities", "imu"), "imu"),
        (("--html", "nowhere/page.html"), "no folder"),
        (("--streams", "9"), "streams is [9]"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(cli, toy_artifact, arguments, message):
    done = cli("eval", "speed", toy_artifact, "--threads", "1", *arguments)
    assert done.code in (1, 2) and message in done.err and not done.out
