"""Zero-shot classification with the toy model, which knows three colours and two pitches by their names."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

import slimbind
from slimbind import datasets
from slimbind.errors import UsageError
from slimbind.evaluate.zero_shot import describe_classes, read_names, score, spoken_name, zero_shot, zero_shot_through
from slimbind.runtime.encoder import Embedded

from ..conftest import write_picture, write_tone

COLOURS = {"red": (220, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 230)}


@pytest.fixture(scope="module")
def model(toy_artifact):
    with slimbind.load(toy_artifact, threads=1) as opened:
        yield opened


@pytest.fixture
def pictures(tmp_path):
    """Four of each colour; one green picture lies among the blue ones."""
    for name, colour in COLOURS.items():
        for number in range(4):
            wrong = name == "blue" and number == 3
            write_picture(tmp_path / "data" / name / f"{number}.png", COLOURS["green"] if wrong else colour)
    return tmp_path / "data"


def test_items_go_to_the_class_their_name_describes(model, pictures):
    record = zero_shot(model, datasets.open(pictures), name="toy")
    assert (record.task, record.model, record.title) == ("zero-shot", "toy", "data: vision, 3 classes")
    assert record.details["classes"] == ["blue", "green", "red"]
    assert record.details["confusion"] == [[3, 1, 0], [0, 4, 0], [0, 0, 4]]
    top1 = record.measures["top-1"]
    assert top1.value == pytest.approx(11 / 12) and top1.low < top1.value < top1.high and top1.n == 12
    assert record.measures["mean class recall"].value == pytest.approx((3 / 4 + 1 + 1) / 3)
    assert "top-5" not in record.measures, "of three classes, five are all"
    assert record.settings["templates"] == "photo" and record.failed == ()


def test_sounds_are_classified_too(model, tmp_path):
    for number, hertz in enumerate((80, 100, 120)):
        write_tone(tmp_path / "low_rumble" / f"{number}.wav", hertz)
        write_tone(tmp_path / "high_whistle" / f"{number}.wav", 6000 + hertz)
    record = zero_shot(model, datasets.open(tmp_path))
    assert record.measures["top-1"].value == 1
    assert record.details["classes"] == ["high whistle", "low rumble"], "underscores are spaces"
    assert record.settings["first_sentence"] == "This is a sound of {}."


def test_what_cannot_be_read_is_named_and_does_not_count(model, pictures):
    (pictures / "red" / "broken.png").write_bytes(b"no picture")
    record = zero_shot(model, datasets.open(pictures))
    assert [name for name, _ in record.failed] == ["red/broken.png"]
    assert record.measures["top-1"].n == 12


def test_a_single_class_cannot_be_missed(model, tmp_path):
    write_picture(tmp_path / "red" / "1.png", COLOURS["red"])
    with pytest.raises(UsageError, match="a single class, 'red'"):
        zero_shot(model, datasets.open(tmp_path))


def test_nothing_that_can_be_read_is_an_error(model, tmp_path):
    for name in ("blue", "red"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"none of 2 vision items.*blue/a\.png"):
        zero_shot(model, datasets.open(tmp_path))


def test_names_can_be_given(model, pictures):
    right = zero_shot(model, datasets.open(pictures), names=["green", "red", "blue"])
    assert right.measures["top-1"].value == pytest.approx(1 / 12), "the green one among the blue ones"
    with pytest.raises(UsageError, match="2 names for 3 classes"):
        zero_shot(model, datasets.open(pictures), names=["green", "red"])


def test_samples_are_spread_over_the_classes(model, pictures):
    record = zero_shot(model, datasets.open(pictures), samples=6)
    assert np.sum(record.details["confusion"], axis=1).tolist() == [2, 2, 2]


def test_the_seed_decides_the_interval(model, pictures):
    first, again, other = (zero_shot(model, datasets.open(pictures), seed=seed) for seed in (1, 1, 2))
    assert first.measures == again.measures
    assert first.measures["top-1"].value == other.measures["top-1"].value


def test_a_model_without_text_is_refused(make_toy, pictures, tmp_path):
    folder = make_toy(tmp_path / "blind", modalities=("vision",))
    with slimbind.load(folder) as blind, pytest.raises(UsageError, match="text"):
        zero_shot(blind, datasets.open(pictures))


def test_a_class_is_the_normalised_mean_of_its_sentences(model):
    templates = ("{}", "{} whistle", "{} rumble rumble")
    found = describe_classes(model, ["red", "blue"], templates)
    for row, name in zip(found, ["red", "blue"], strict=True):
        mean = model.embed([template.replace("{}", name) for template in templates], "text").mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_scores_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    items, classes = (random.standard_normal((n, 16)).astype(np.float32) for n in (500, 9))
    labels = random.integers(0, 9, 500)
    measures, table = score(items, labels, classes)
    scores = items @ classes.T
    theirs = sklearn.metrics
    assert measures["top-1"].value == pytest.approx(theirs.accuracy_score(labels, scores.argmax(axis=1)))
    assert measures["top-5"].value == pytest.approx(theirs.top_k_accuracy_score(labels, scores, k=5))
    recall = theirs.balanced_accuracy_score(labels, scores.argmax(axis=1))
    assert measures["mean class recall"].value == pytest.approx(recall)
    np.testing.assert_array_equal(table, theirs.confusion_matrix(labels, scores.argmax(axis=1)))


def test_a_folder_is_spoken_as_words():
    assert spoken_name("golden_retriever") == "golden retriever"


@pytest.mark.parametrize("text", ["tench\ngold fish\n", "b\tgold fish\na\ttench\n", "\ufefftench\n\ngold fish"])
def test_names_are_read_from_a_file(tmp_path, text):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    assert read_names(tmp_path / "names.txt", ["a", "b"]) == ["tench", "gold fish"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"only one\n", "1 names for 2"),
        (b"a\tx\na\ty\n", "twice"),
        (b"a\tx\nb\n", "no name behind"),
        (b"a\tx\nc\ty\n", "no name for 1 classes, such as 'b'"),
        (b"\xff\xfe", "UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_does_not_name_the_classes_is_refused(tmp_path, content, why):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UsageError, match=why):
        read_names(tmp_path / "names.txt", ["a", "b"])


def test_compressed_items_stand_beside_whole_ones(model, pictures):
    records = zero_shot_through(
        ["binary", "sq8", "pq8x8"], model, datasets.open(pictures), prompts=["red", "a whistle"]
    )
    assert [record.settings["codec"] for record in records] == ["f32", "binary", "sq8"]
    assert [record.measures["bytes_per_vector"].value for record in records] == [32, 1, 8]
    assert records[0].measures["top-1"] == records[2].measures["top-1"]
    assert [name for name, _ in records[0].failed] == ["codec pq8x8"]


def test_a_second_look_has_no_score_for_every_class(model, pictures):
    with pytest.raises(UsageError, match="rabitq1"):
        zero_shot_through(["rabitq1,refine(original)"], model, datasets.open(pictures))


def test_sentences_that_cannot_be_used_are_named(model):
    with pytest.raises(UsageError, match="cannot be embedded"):
        describe_classes(model, ["red"], ["{}" + "x" * 2_000_000])


def test_sentences_that_cancel_out_are_refused():
    class Contrary:
        dim = 2

        def stream(self, items, modality, *, batch_size=None):
            for index, item in enumerate(items):
                yield Embedded(index, np.array([1.0 if "not" in item else -1.0, 0], np.float32))

    with pytest.raises(UsageError, match="'red' cancel"):
        describe_classes(Contrary(), ["red"], ["{}", "not {}"])
    assert describe_classes(Contrary(), ["red"], ["not {}"]).tolist() == [[1, 0]]


@pytest.mark.parametrize("samples", [0, -1, True, 1.5])
def test_a_number_of_samples_is_whole(model, pictures, samples):
    with pytest.raises(UsageError, match="samples is"):
        zero_shot(model, datasets.open(pictures), samples=samples)


def test_samples_are_spread_where_nobody_knows_how_many_there_are(model, pictures):
    data = datasets.open(pictures)
    data.count = None
    record = zero_shot(model, data, samples=3)
    assert np.sum(record.details["confusion"], axis=1).tolist() == [1, 1, 1]
    assert zero_shot(model, data, samples=100).measures["top-1"].n == 12
