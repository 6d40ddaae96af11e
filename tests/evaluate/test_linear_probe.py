"""The linear probe: C is chosen on data it was not fitted to, and the classifier is scikit-learn's."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import slimbind
from slimbind import datasets
from slimbind.errors import MissingExtraError, UsageError
from slimbind.evaluate.linear_probe import Trial, fit, held_out, linear_probe, search

from ..conftest import write_picture


@pytest.fixture(scope="module")
def model(toy_artifact):
    with slimbind.load(toy_artifact, threads=1) as opened:
        yield opened


def write(folder, classes, count, *, seed):
    """Pictures of colours near that of their class; the names of the classes mean nothing to the text tower."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        for place in range(count):
            colour = np.full(3, 60) + random.integers(0, 30, 3)
            colour[number % 3] += 120
            write_picture(folder / name / f"{place}.png", tuple(int(value) for value in colour))
    return folder


def test_embeddings_are_told_apart_without_their_names(model, tmp_path):
    train = datasets.open(write(tmp_path / "train", "xyz", 8, seed=0))
    test = datasets.open(write(tmp_path / "test", "xyz", 5, seed=1))
    record = linear_probe(model, train, test, name="toy")
    assert (record.task, record.title, record.model) == ("linear-probe", "test: vision, 3 classes", "toy")
    assert record.measures["top-1"].value == 1 and record.measures["top-1"].n == 15
    assert record.details["confusion"] == [[5, 0, 0], [0, 5, 0], [0, 0, 5]]
    tried = [row["C"] for row in record.details["sweep"]]
    assert tried == sorted(tried) and record.details["C"] in tried
    assert record.settings["train_items"] == 24


def test_classes_are_matched_by_name(model, tmp_path):
    train = datasets.open(write(tmp_path / "train", "xyz", 8, seed=0))
    write(tmp_path / "all", "xyz", 5, seed=1)
    (tmp_path / "test").mkdir()
    (tmp_path / "all" / "z").rename(tmp_path / "test" / "z")
    record = linear_probe(model, train, datasets.open(tmp_path / "test"))
    assert record.details["confusion"] == [[0, 0, 0], [0, 0, 0], [0, 0, 5]]


def test_a_class_that_was_not_trained_is_refused(model, tmp_path):
    train = datasets.open(write(tmp_path / "train", "xy", 4, seed=0))
    test = datasets.open(write(tmp_path / "test", "xyz", 2, seed=1))
    with pytest.raises(UsageError, match="1 classes that the training data lack, such as 'z'"):
        linear_probe(model, train, test)


def test_without_test_data_a_part_is_held_out(model, tmp_path):
    record = linear_probe(model, datasets.open(write(tmp_path, "xyz", 8, seed=0)), test_share=0.5)
    assert record.settings["test"] == "0.5 of train"
    assert record.settings["train_items"] == record.settings["test_items"] == 12
    assert record.measures["top-1"].value == 1


def test_two_classes_are_enough_and_one_is_not(model, tmp_path):
    record = linear_probe(model, datasets.open(write(tmp_path / "two", "xy", 6, seed=0)))
    assert record.measures["top-1"].value == 1
    with pytest.raises(UsageError, match="a single class, 'x'"):
        linear_probe(model, datasets.open(write(tmp_path / "one", "x", 6, seed=0)))


def test_single_items_cannot_be_split(model, tmp_path):
    with pytest.raises(UsageError, match="too few"):
        linear_probe(model, datasets.open(write(tmp_path, "xyz", 1, seed=0)))


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_lies_between_nothing_and_all(model, tmp_path, share):
    data = datasets.open(write(tmp_path, "xyz", 2, seed=0))
    with pytest.raises(UsageError, match="validation share"):
        linear_probe(model, data, validation_share=share)
    with pytest.raises(UsageError, match="test share"):
        linear_probe(model, data, test_share=share)


def test_missing_scikit_learn_is_told_before_any_work(model, tmp_path, monkeypatch):
    monkeypatch.setattr("slimbind.evaluate.linear_probe.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="scikit-learn") as caught:
        linear_probe(model, datasets.open(write(tmp_path, "xyz", 2, seed=0)))
    assert "slimbind[eval]" in caught.value.hint
    assert importlib.util.find_spec("sklearn")


def test_the_fit_is_that_of_scikit_learn_with_the_c_of_the_smallest_loss_on_what_is_held_out():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 50)
    vectors = random.standard_normal((6, 12))[labels] * 0.6 + random.standard_normal((300, 12))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    fits = []
    probe = fit(vectors, labels, seed=3, on_fit=lambda: fits.append(1))
    assert len(fits) == len(probe.trials) + 1
    chosen = next(trial for trial in probe.trials if trial.c == probe.c)
    assert chosen.loss == min(trial.loss for trial in probe.trials)
    held = held_out(labels, 0.2, seed=3)
    again = LogisticRegression(C=probe.c, max_iter=1000).fit(vectors[~held] - vectors[~held].mean(0), labels[~held])
    outer = vectors[held] - vectors[~held].mean(0)
    assert chosen.accuracy == pytest.approx(again.score(outer, labels[held]))
    assert chosen.loss == pytest.approx(log_loss(labels[held], again.predict_proba(outer)))
    final = LogisticRegression(C=probe.c, max_iter=1000).fit(vectors - vectors.mean(0), labels)
    np.testing.assert_array_equal(probe.scores(vectors, 6).argmax(axis=1), final.predict(vectors - vectors.mean(0)))


@pytest.mark.parametrize("peak", [-48, -47, -3, 0, 17, 48])
def test_the_search_ends_within_an_eighth_of_a_decade_of_the_peak(peak):
    """Steps are eighths of a decade; the loss grows to both sides."""
    tried = []

    def attempt(c):
        step = round(8 * np.log10(c))
        tried.append(step)
        return Trial(c, abs(step - peak) / 1000, 1.0, True)

    trials = search(attempt)
    assert set(range(-48, 49, 16)) <= set(tried) and len(tried) == len(set(tried)) <= 15
    best = min(trials, key=lambda trial: trial.loss)
    assert round(8 * np.log10(best.c)) == peak


def test_of_equal_losses_the_smallest_c_is_chosen():
    trials = search(lambda c: Trial(c, 2.0 if c < 1e-3 else 1.0, 1.0, True))
    best = min((trial for trial in trials if trial.loss == 1), key=lambda trial: trial.c)
    assert best.c == pytest.approx(1e-3)


def test_a_part_of_each_class_is_held_out():
    labels = np.array([0] * 10 + [1] * 4 + [2])
    held = held_out(labels, 0.3, seed=0)
    assert [int(held[labels == one].sum()) for one in range(3)] == [3, 1, 0]
    assert (held_out(labels, 0.3, seed=0) == held).all()
    assert any((held_out(labels, 0.3, seed=seed) != held).any() for seed in range(1, 5))


def test_classes_without_training_data_are_never_told():
    labels = np.array([0, 0, 2, 2, 0, 2])
    vectors = np.eye(6, dtype=np.float32)
    scores = fit(vectors, labels, validation_share=0.34).scores(vectors, 4)
    assert np.isneginf(scores[:, [1, 3]]).all() and np.isfinite(scores[:, [0, 2]]).all()
