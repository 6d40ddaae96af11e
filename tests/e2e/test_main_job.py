"""The main job with what comes with the project: index the sample folder, ask it questions, offline."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import slimbind as library
from slimbind.collection import Collection

from .conftest import PROGRAM

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A copy, because files are changed."""
    folder = tmp_path_factory.mktemp("samples") / "samples"
    shutil.copytree(SAMPLES, folder)
    return folder


def test_a_folder_is_indexed_searched_and_kept_up_to_date(slimbind, samples, tmp_path):
    first = slimbind("index", samples).stderr.decode()
    pictures = [path for path in samples.rglob("*") if path.suffix in (".jpg", ".png", ".webp")]
    assert f"{len(pictures)} added" in first
    assert " 0 failed" in first
    assert str(tmp_path / "data" / "slimbind" / "index") in first  # where each platform keeps such things

    found = slimbind("search", "a dog", "-k", 3, "-v")
    paths = [line.split("\t")[1] for line in found.stdout.decode().splitlines()]
    assert any("dog" in path or "retriever" in path or "shepherd" in path for path in paths)
    opened = [line for line in found.stderr.decode().splitlines() if line.startswith("opened:")]
    assert len(opened) == 1 and opened[0].startswith("opened: text, ")

    picture = pictures[0]
    like = json.loads(slimbind("search", "--image", picture, "--json", "-k", 1).stdout)
    assert (like[0]["path"], like[0]["modality"]) == (str(picture), "vision")
    assert like[0]["score"] > 0.999

    assert f"{len(pictures)} unchanged" in slimbind("index", samples).stderr.decode()
    picture.unlink()
    after = slimbind("index", samples).stderr.decode()
    assert f"0 added, 0 changed, {len(pictures) - 1} unchanged, 1 removed" in after


def test_everyday_queries_are_answered(slimbind, tmp_path):
    """The share of queries that have an expected file among their first three answers; see the model card."""
    slimbind("index", SAMPLES, "--index", tmp_path / "i")
    queries = json.loads((SAMPLES / "queries.json").read_text(encoding="utf-8"))
    with Collection.open(tmp_path / "i") as index, library.load("mini", threads=1) as model:
        known = {os.path.relpath(entry.source, SAMPLES).replace(os.sep, "/") for entry in index.entries()}
        asked = {text: set(expected) & known for text, expected in queries.items() if set(expected) & known}
        vectors = model.embed(list(asked), "text")
        assert list(model.loaded) == ["text"]
        good = 0
        for vector, expected in zip(vectors, asked.values(), strict=True):
            hits = {os.path.relpath(hit.source, SAMPLES).replace(os.sep, "/") for hit in index.search(vector, 3)}
            good += bool(hits & expected)
    assert len(asked) >= 50
    assert good / len(asked) >= 0.75  # measured: 0.84


def test_vectors_of_the_samples_in_a_file(slimbind, tmp_path):
    slimbind("embed", SAMPLES / "photos", "--text", "a dog", "-o", tmp_path / "v.npz")
    import numpy as np

    with np.load(tmp_path / "v.npz", allow_pickle=False) as data:
        ids, vectors = data["ids"].tolist(), data["vectors"]
    best = ids[1:][int(np.argmax(vectors[1:] @ vectors[0]))]
    assert any(word in best for word in ("dog", "retriever", "shepherd"))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_what_is_known_about_the_model(slimbind):
    told = json.loads(slimbind("info", "mini", "--json").stdout)
    assert told["embedding_dim"] == 384
    assert set(told["towers"]) >= {"vision", "text"}
    assert slimbind("models").stdout.decode().splitlines()[1].startswith("mini")


def test_the_program_says_what_it_can(slimbind):
    text = slimbind("--help").stdout.decode()
    for command in ("embed", "index", "search", "info", "models"):
        assert command in text


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_sees_items_per_second_and_the_data_stay_clean(slimbind, environment, toy_artifact, toy_folder):
    terminal, end = os.openpty()
    command = [*PROGRAM, "embed", str(toy_folder), "-m", str(toy_artifact)]
    with subprocess.Popen(command, env=environment | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=end) as process:
        os.close(end)
        seen = b""
        with contextlib.suppress(OSError):  # Linux's way of saying that the other end was closed
            while block := os.read(terminal, 4096):
                seen += block
        out = process.stdout.read()
    os.close(terminal)
    assert process.returncode == 0
    assert b"items/s" in seen and b"6/6" in seen
    assert len([json.loads(line) for line in out.splitlines()]) == 6
