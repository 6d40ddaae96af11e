"""Retrieval over pairs: both directions, several partners, whole and compressed."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import slimbind
from slimbind import datasets
from slimbind.codecs.spec import parse
from slimbind.errors import UsageError
from slimbind.evaluate.compression import ranks_through
from slimbind.evaluate.metrics import Positives
from slimbind.evaluate.retrieval import Paired, embed_pairs, retrieval, score

from ..conftest import write_picture, write_tone


@pytest.fixture(scope="module")
def model(toy_artifact):
    with slimbind.load(toy_artifact, threads=1) as opened:
        yield opened


def table(folder, rows, name="pairs.csv"):
    folder.mkdir(exist_ok=True)
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return folder / name


@pytest.fixture
def captions(tmp_path):
    write_picture(tmp_path / "red.png", (220, 10, 10))
    write_picture(tmp_path / "green.png", (10, 200, 10))
    write_picture(tmp_path / "blue.png", (10, 10, 230))
    return table(tmp_path, [("red.png", "red"), ("green.png", "green"), ("blue.png", "blue")])


def test_partners_find_each_other(model, captions):
    (record,) = retrieval(model, datasets.open(captions), name="toy")
    assert (record.task, record.title, record.model) == ("retrieval", "pairs.csv: vision and text", "toy")
    for direction in ("vision to text", "text to vision"):
        assert record.measures[f"{direction} R@1"].value == 1
        assert record.measures[f"{direction} median rank"].value == 1
        assert record.details["directions"][direction] == {
            "queries": 3,
            "items": 3,
            "right items for each query": 1,
        }
    assert record.settings["pairs"] == 3 and record.settings["codec"] == "f32"


def test_wrong_partners_are_not_found(model, captions):
    table(captions.parent, [("red.png", "green"), ("green.png", "blue"), ("blue.png", "red")])
    (record,) = retrieval(model, datasets.open(captions))
    assert record.measures["vision to text R@1"].value == 0
    assert record.measures["vision to text R@5"].value == 1


def test_one_of_several_partners_is_enough(model, captions):
    """An image with two captions is one item; each of its captions asks for it alone."""
    rows = [("red.png", "red"), ("red.png", "whistle"), ("green.png", "green"), ("blue.png", "blue")]
    (record,) = retrieval(model, datasets.open(table(captions.parent, rows)))
    told = record.details["directions"]
    assert told["vision to text"]["queries"] == 3 and told["vision to text"]["items"] == 4
    assert told["vision to text"]["right items for each query"] == pytest.approx(4 / 3)
    assert record.measures["vision to text R@1"].value == 1
    assert record.measures["text to vision R@1"].value == pytest.approx(3 / 4), "no picture whistles"


def test_equal_captions_are_one_item(model, captions):
    write_picture(captions.parent / "rose.png", (200, 20, 20))
    rows = [("red.png", "red"), ("rose.png", "red"), ("green.png", "green")]
    (record,) = retrieval(model, datasets.open(table(captions.parent, rows)))
    assert record.details["directions"]["vision to text"]["items"] == 2
    assert record.measures["vision to text R@1"].value == 1


def test_two_folders_and_any_two_modalities(model, tmp_path):
    for number, (hertz, word) in enumerate([(80, "rumble"), (6000, "whistle")]):
        write_tone(tmp_path / "sounds" / f"{number}.wav", hertz)
        (tmp_path / "words").mkdir(exist_ok=True)
        (tmp_path / "words" / f"{number}.txt").write_text(word)
    (record,) = retrieval(model, datasets.open(tmp_path / "sounds", tmp_path / "words"))
    assert record.title == "sounds: audio and text"
    assert record.measures["audio to text R@1"].value == record.measures["text to audio R@1"].value == 1


def test_two_sides_of_one_modality_have_names_of_their_own(model, tmp_path):
    for name, colour in {"a": (220, 10, 10), "b": (10, 200, 10)}.items():
        write_picture(tmp_path / "one" / f"{name}.png", colour)
        write_picture(tmp_path / "two" / f"{name}.jpg", colour)
    (record,) = retrieval(model, datasets.open(tmp_path / "one", tmp_path / "two"))
    assert record.measures["first vision to second vision R@1"].value == 1
    assert record.measures["second vision to first vision R@1"].value == 1


def test_a_pair_counts_only_whole(model, captions):
    (captions.parent / "blue.png").write_bytes(b"no picture")
    (record,) = retrieval(model, datasets.open(captions))
    assert [name for name, _ in record.failed] == ["blue.png"]
    assert record.details["directions"]["text to vision"] == {
        "queries": 2,
        "items": 2,
        "right items for each query": 1,
    }


def test_no_whole_pair_is_an_error(model, captions):
    for name in ("red", "green", "blue"):
        (captions.parent / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"none of 3 vision items.*red\.png"):
        retrieval(model, datasets.open(captions))


def test_rows_that_are_no_pair_are_told(model, captions):
    rows = [("red.png", "red"), ("", "green"), ("blue.png", "blue")]
    (record,) = retrieval(model, datasets.open(table(captions.parent, rows)))
    assert len(record.failed) == 1 and "row 2" in record.failed[0][0]
    assert record.settings["pairs"] == 2


def test_data_without_pairs_are_refused(model, tmp_path):
    write_picture(tmp_path / "red" / "1.png", (220, 10, 10))
    with pytest.raises(UsageError, match="no pairs"):
        retrieval(model, datasets.open(tmp_path))


def test_a_missing_tower_is_told_before_anything_is_embedded(make_toy, captions, tmp_path):
    folder = make_toy(tmp_path / "blind", modalities=("text",))
    with slimbind.load(folder) as blind:
        with pytest.raises(UsageError, match="vision"):
            retrieval(blind, datasets.open(captions))
        assert not blind.loaded


def test_each_codec_has_a_record_beside_the_whole_vectors(model, captions):
    records = retrieval(model, datasets.open(captions), codecs=["sq8", "f32", "sq8", "binary"], prompts=["red", "low"])
    assert [record.settings["codec"] for record in records] == ["f32", "sq8", "binary"]
    assert [record.measures["bytes_per_vector"].value for record in records] == [32, 8, 1]
    assert len({record.title for record in records}) == 1
    with pytest.raises(UsageError, match="codec"):
        retrieval(model, datasets.open(captions), codecs=["sq9"])


def test_samples_are_spread(model, captions):
    (record,) = retrieval(model, datasets.open(captions), samples=2)
    assert record.settings["pairs"] == 2


@pytest.fixture(scope="module")
def noisy():
    """600 pairs of directions, each side a noisy copy; some first items have a second partner."""
    random = np.random.default_rng(0)
    centre = random.standard_normal((600, 32))
    first, second = (centre + 0.6 * random.standard_normal(centre.shape) for _ in range(2))
    pairs = np.stack([np.arange(600), np.arange(600)], axis=1)
    pairs = np.concatenate([pairs, [[number, number + 1] for number in range(0, 100, 2)]])

    def unit(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return Paired(unit(first), unit(second), np.unique(pairs, axis=0))


def test_scores_are_those_of_the_whole_matrix(noisy):
    measures, _ = score(noisy, ("vision", "text"))
    right = np.zeros((600, 600), bool)
    right[noisy.pairs[:, 0], noisy.pairs[:, 1]] = True
    scores = noisy.first @ noisy.second.T
    for direction, matrix, positive in (("vision to text", scores, right), ("text to vision", scores.T, right.T)):
        best = np.where(positive, matrix, -np.inf).max(axis=1)
        ranks = 1 + (matrix > best[:, None]).sum(axis=1)
        for depth in (1, 5, 10):
            assert measures[f"{direction} R@{depth}"].value == pytest.approx((ranks <= depth).mean())
        assert measures[f"{direction} median rank"].value == np.median(ranks)
        assert measures[f"{direction} R@1"].low < measures[f"{direction} R@1"].value


def test_texts_of_one_picture_are_drawn_together():
    """Five equal captions of each picture say no more than one: the interval is as wide as that of the pictures."""
    random = np.random.default_rng(1)
    images = random.standard_normal((30, 4)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    asked = images + 0.8 * random.standard_normal(images.shape).astype(np.float32)
    one, _ = score(Paired(images, asked, np.stack([np.arange(30)] * 2, axis=1)), ("vision", "text"))
    five = Paired(images, np.repeat(asked, 5, axis=0), np.stack([np.repeat(np.arange(30), 5), np.arange(150)], axis=1))
    told, _ = score(five, ("vision", "text"))
    assert told["text to vision R@1"].value == pytest.approx(one["text to vision R@1"].value)
    assert told["text to vision R@1"].low == pytest.approx(one["text to vision R@1"].low)


@pytest.mark.parametrize("text", ["sq8", "sq4", "pq8x4", "rabitq1", "binary"])
def test_compression_costs_something_and_not_everything(noisy, text):
    whole, _ = score(noisy, ("vision", "text"))
    told, _ = score(noisy, ("vision", "text"), text)
    for name in ("vision to text R@10", "text to vision R@10"):
        assert 0.15 < told[name].value <= whole[name].value + 0.02
    assert told["bytes_per_vector"].value < whole["bytes_per_vector"].value


def test_codes_are_fitted_to_what_texts_ask(noisy):
    """Pictures and texts far apart, as those of real models: without the fit, signs say nothing of the pictures."""
    random = np.random.default_rng(2)
    gap = 3 * np.ones(32) / np.sqrt(32)

    def unit(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    apart = Paired(unit(noisy.first * 4 + 20 * gap), unit(noisy.second * 4 - 20 * gap), noisy.pairs)
    prompts = unit(random.standard_normal((800, 32)) * 4 - 20 * gap)
    plain, _ = score(apart, ("vision", "text"), "binary")
    fitted, _ = score(apart, ("vision", "text"), "binary", prompts=prompts)
    assert fitted["text to vision R@10"].value > plain["text to vision R@10"].value + 0.1
    assert fitted["vision to text R@10"] == plain["vision to text R@10"], "only texts were learned from"


def test_a_second_look_brings_back_what_the_first_lost(noisy):
    whole, _ = score(noisy, ("vision", "text"))
    coarse, _ = score(noisy, ("vision", "text"), "rabitq1")
    told, _ = score(noisy, ("vision", "text"), "rabitq1,refine(original)")
    assert coarse["text to vision R@1"].value < told["text to vision R@1"].value
    assert told["text to vision R@1"].value == pytest.approx(whole["text to vision R@1"].value, abs=0.02)


def test_what_lies_behind_the_ten_best_has_no_rank(noisy):
    """Searched are the ten best; half of the queries do not find theirs among them."""
    random = np.random.default_rng(3)
    queries = random.standard_normal((50, 32)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    positives = Positives.one_each(random.integers(0, 600, 50))
    ranks = ranks_through(parse("sq8,refine(original)", 32), queries, noisy.second, positives, {})
    exact = ranks_through(parse("f32", 32), queries, noisy.second, positives, {})
    assert np.isinf(ranks).sum() > 25
    assert_array_equal(ranks[np.isfinite(ranks)], exact[np.isfinite(ranks)])
    partners, column = np.unique(positives.items, return_inverse=True)
    lost = Paired(queries, noisy.second[partners], np.stack([np.arange(50), column], axis=1))
    told, _ = score(lost, ("vision", "text"), "sq8,refine(original)")
    assert "vision to text median rank" not in told


def test_a_codebook_with_too_few_to_learn_from_costs_nothing_else(model, captions):
    records = retrieval(model, datasets.open(captions), codecs=["pq8x8", "sq8"])
    assert [record.settings["codec"] for record in records] == ["f32", "sq8"]
    assert [name for name, _ in records[0].failed] == ["codec pq8x8"]
    assert records[1].failed == ()


def test_every_item_is_embedded_once(model, captions):
    rows = [("red.png", "red"), ("red.png", "green"), ("green.png", "green"), ("red.png", "red")]
    found = embed_pairs(model, datasets.open(table(captions.parent, rows)))
    assert len(found.first) == len(found.second) == 2
    assert found.pairs.tolist() == [[0, 0], [0, 1], [1, 1]]


class Memory(datasets.Dataset):
    """Pairs that lie in memory."""

    def __init__(self, pairs, path, modalities=("vision", "text")):
        super().__init__("pairs", path, modalities=modalities, count=len(pairs))
        self.pairs = pairs

    def _samples(self):
        for number, (data, other) in enumerate(self.pairs):
            yield datasets.Sample(data, id=f"row {number}", other=other)


def test_equal_bytes_and_equal_arrays_are_one_item(model, captions):
    red, blue = ((captions.parent / f"{name}.png").read_bytes() for name in ("red", "blue"))
    found = embed_pairs(model, Memory([(red, "red"), (bytes(red), "low"), (blue, "blue")], captions))
    assert len(found.first) == 2 and found.pairs.tolist() == [[0, 0], [0, 1], [1, 2]]
    dark, light = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)
    found = embed_pairs(model, Memory([(dark, "red"), (dark.copy(), "low"), (light, "blue")], captions))
    assert len(found.first) == 2


def test_pairs_of_which_always_one_half_fails_are_an_error(model, captions):
    rows = [(captions.parent / "red.png", captions.parent / "no.wav"), (captions, captions.parent / "low.wav")]
    write_tone(captions.parent / "low.wav", 80)
    with pytest.raises(UsageError, match="of no pair"):
        retrieval(model, Memory(rows, captions, ("vision", "audio")))
