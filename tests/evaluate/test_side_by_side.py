"""Several artifacts side by side: what is measured of which, in what order, and what is refused before any work."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest

from slimbind import datasets
from slimbind.errors import ArtifactCorruptError, UsageError
from slimbind.evaluate import memory
from slimbind.evaluate.report import html, markdown
from slimbind.evaluate.side_by_side import Settings, Tasks, side_by_side

NOTHING = Tasks(fidelity=False, speed=False, memory=False, similarity=False)
FEW = Settings(samples=3, threads=1, seconds=0.01, repeats=1)


@pytest.fixture
def classes(tmp_path, toy_folder):
    from PIL import Image

    for colour, value in (("red", (220, 10, 10)), ("green", (10, 200, 10)), ("blue", (10, 10, 230))):
        for number in range(2):
            path = tmp_path / "classes" / colour / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32 + number), value).save(path)
    return datasets.open(tmp_path / "classes")


@pytest.fixture
def pair(toy_artifact, make_toy, tmp_path):
    return [toy_artifact, make_toy(tmp_path / "small" / "int8", scheme="int8-dynamic")]


def named(records, task):
    return [(record.title, record.model) for record in records if record.task == task]


def test_sizes_of_all_artifacts_and_of_mixes_stand_in_their_order(reference, candidate):
    found = side_by_side([reference.folder, candidate.folder], tasks=NOTHING, mix=True)
    names = ["reference", "candidate", *(f"candidate ({name} only)" for name in ("vision", "text", "depth"))]
    assert [record.model for record in found] == names and {record.task for record in found} == {"size"}
    sizes = {record.model: {key: one.value for key, one in record.measures.items()} for record in found}
    for name in ("vision", "text", "depth"):
        mixed = sizes[f"candidate ({name} only)"]
        for tower in ("vision", "text", "depth"):
            source = candidate if tower == name else reference
            assert mixed[f"{tower} bytes"] == source.tower(tower).bytes
        assert mixed["bytes"] == sum(mixed[f"{tower} bytes"] for tower in ("vision", "text", "depth"))
    assert sizes["reference"]["size ratio"] == 1
    assert found[0].settings["path"] == str(reference.folder) and found[2].settings["path"] == "(mixed)"


def test_fidelity_is_to_the_first(reference, candidate, write_model, tmp_path):
    third = write_model(tmp_path / "third", noise=0.2, scheme="int4-weight")
    tasks = replace(NOTHING, fidelity=True)
    settings = replace(FEW, modalities=["text", "depth"])
    found = side_by_side([reference.folder, candidate.folder, third.folder], tasks=tasks, settings=settings)
    told = {(record.model, record.settings["modality"]): record for record in found if record.task == "fidelity"}
    names = ("reference", "candidate", "third")
    assert list(told) == [(name, tower) for name in names for tower in ("text", "depth")]
    cosine = {key: record.measures["cosine_mean"].value for key, record in told.items()}
    assert cosine["third", "text"] < cosine["candidate", "text"] < 1
    assert cosine["reference", "text"] == 1
    assert told["reference", "text"].measures["weights_bytes"].value == reference.tower("text").bytes
    assert all(record.settings["reference"] == "reference" for key, record in told.items() if key[0] != "reference")
    assert "| third |" in markdown(found).splitlines()[0]


def test_accuracy_is_measured_of_mixes_too_and_probes_of_whole_artifacts(pair, classes):
    tasks = replace(NOTHING, zero_shot=classes, train=classes, test=classes)
    seen = []

    @contextmanager
    def progress(label, *, total):
        seen.append(label)
        yield lambda amount: None

    settings = replace(FEW, modalities=["vision", "text"])
    found = side_by_side(pair, tasks=tasks, settings=settings, mix=True, progress=progress)
    columns = ["toy", "int8", "int8 (vision only)", "int8 (text only)"]
    assert [model for _, model in named(found, "zero-shot")] == columns
    assert [model for _, model in named(found, "linear-probe")] == columns[:2]
    assert all(record.measures["top-1"].value == 1 for record in found if record.task == "zero-shot")
    assert any(label.startswith("int8 (vision only): ") for label in seen)
    assert [record.task for record in found] == sorted(
        (record.task for record in found), key=["size", "zero-shot", "linear-probe"].index
    )
    assert "int8 (text only)" in html(found)


def test_everything_at_once_gives_one_page_with_a_section_each(pair, toy_folder):
    (toy_folder / "pairs.csv").write_text("picture,text\nred.png,red\ngreen.jpg,green\n", encoding="utf-8")
    tasks = Tasks(retrieval=datasets.open(toy_folder / "pairs.csv"), codecs=["sq8"], memory=memory_can_be_measured())
    settings = replace(FEW, modalities=["vision", "text"])
    notes = []
    found = side_by_side(pair, tasks=tasks, settings=settings, note=notes.append)
    tasks_of = list(dict.fromkeys(record.task for record in found))
    assert tasks_of == ["size", "retrieval", "similarity", "fidelity", "speed", "memory"][: len(tasks_of)]
    assert len(tasks_of) >= 5
    assert {record.model for record in found} == {"toy", "int8"}
    assert len(named(found, "retrieval")) == 4, "each whole and compressed"
    assert named(found, "similarity") == [("photographs and what they show", "int8")]
    for task in ("speed", "memory")[: len(tasks_of) - 4]:
        assert [model for _, model in named(found, task)] == ["toy", "int8"] * 2
    page = html(found)
    assert all(f">{name}</h2>" in page for name in ("Size", "Retrieval", "Similarity", "Fidelity", "Speed"))


def memory_can_be_measured():
    try:
        memory.check_possible()
    except UsageError:
        return False
    return True


def test_what_cannot_be_compared_is_refused_before_any_work(pair, classes, write_model, toy_folder, tmp_path):
    def refused(match, sources=pair, settings=FEW, **tasks):
        with pytest.raises(UsageError, match=match):
            side_by_side(sources, tasks=replace(NOTHING, **tasks), settings=settings)

    refused("nothing to compare", sources=pair[:1])
    refused("named twice", sources=[pair[0], pair[0]])
    refused("not the same model", sources=[pair[0], write_model(tmp_path / "other").folder])
    refused("needs vision", zero_shot=classes, settings=replace(FEW, modalities=["text", "audio"]))
    refused("needs text", zero_shot=classes, settings=replace(FEW, modalities=["vision"]))
    refused("codec", codecs=["pq7q"])
    refused("no pairs", retrieval=classes)
    refused("sentence|template", zero_shot=classes, templates=["no place for a name"])
    refused("no such file", settings=replace(FEW, data=tmp_path / "nothing"))


def test_a_damaged_artifact_is_found_before_any_work(pair, classes, monkeypatch):
    place = pair[1] / "text" / "tower.bin"
    place.write_bytes(place.read_bytes()[:-1])
    monkeypatch.setattr("slimbind.runtime.model.Model.stream", lambda *args, **options: pytest.fail("work began"))
    with pytest.raises(ArtifactCorruptError, match="tower.bin has"):
        side_by_side(
            pair, tasks=replace(NOTHING, zero_shot=classes), settings=replace(FEW, modalities=["vision", "text"])
        )


def test_differences_are_from_the_first_artifact(pair, classes, toy_folder):
    (toy_folder / "pairs.csv").write_text("picture,text\nred.png,red\ngreen.jpg,green\n", encoding="utf-8")
    pairs = datasets.open(toy_folder / "pairs.csv")
    tasks = replace(NOTHING, zero_shot=classes, train=classes, test=classes, retrieval=pairs, codecs=["sq8"])
    found = side_by_side(pair, tasks=tasks, settings=replace(FEW, modalities=["vision", "text"]), mix=True)
    for task, name in (("zero-shot", "top-1"), ("linear-probe", "top-1"), ("retrieval", "vision to text R@1")):
        first, *others = (record for record in found if record.task == task)
        assert first.model == "toy" and f"{name} difference" not in first.measures
        assert all(record.measures[f"{name} difference"].value == 0 for record in others)
        assert {record.details["differences from"].split(",")[0] for record in others} == {"toy"}
    assert "0.0 points (0.0 to 0.0)" in markdown(found)


def test_modalities_that_not_all_have_are_left_out(pair, make_toy, tmp_path):
    third = make_toy(tmp_path / "third", modalities=("text", "audio"))
    found = side_by_side([*pair, third], tasks=NOTHING)
    assert all(list(record.measures)[:2] == ["text bytes", "audio bytes"] for record in found)
    alone = make_toy(tmp_path / "alone", modalities=("vision",))
    with pytest.raises(UsageError, match="no modality"):
        side_by_side([third, alone], tasks=NOTHING)
