"""Metrics agree with scikit-learn and with CLIP_benchmark's definitions; intervals hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from slimbind.errors import UsageError
from slimbind.evaluate import metrics
from slimbind.evaluate.metrics import (
    Positives,
    bootstrap,
    class_mean_of,
    confusion,
    mean_of,
    median_of,
    paired,
    rank,
)


def vectors(random, *shape):
    found = random.standard_normal(shape).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def by_sorting(queries, gallery, positives):
    """The ranks by the definition: sort all items, stably, and look where the first right one is."""
    found = []
    for number, query in enumerate(queries):
        order = np.argsort(-(gallery @ query), kind="stable")
        right = positives.items[positives.starts[number] : positives.starts[number + 1]]
        found.append(1 + int(np.flatnonzero(np.isin(order, right))[0]))
    return np.array(found)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_ranks_are_places_in_the_sorted_gallery(q, n, seed, coarse):
    random = np.random.default_rng(seed)
    queries, gallery = vectors(random, q, 3), vectors(random, n, 3)
    if coarse:  # many equal scores, all of them exact
        queries, gallery = np.sign(queries), np.sign(gallery)
    extra = random.integers(0, 5)
    pairs_q = np.concatenate([np.arange(q), random.integers(0, q, extra)])
    positives = Positives.of_pairs(pairs_q, random.integers(0, n, len(pairs_q)), q)
    found = rank(queries, gallery, positives)
    assert_array_equal(found.ranks, by_sorting(queries, gallery, positives))
    assert_array_equal(found.first, (queries @ gallery.T).argmax(axis=1))


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    queries, gallery = vectors(random, 50, 8), vectors(random, 30, 8)
    positives = Positives.one_each(random.integers(0, 30, 50))
    whole = rank(queries, gallery, positives)
    monkeypatch.setattr(metrics, "_BLOCK", 70)
    told: list[int] = []
    parts = rank(queries, gallery, positives, on_done=told.append)
    assert_array_equal(whole.ranks, parts.ranks)
    assert_array_equal(whole.first, parts.first)
    assert len(told) == 25 and sum(told) == 50


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_accuracy_is_that_of_scikit_learn(k):
    random = np.random.default_rng(1)
    items, classes, labels = vectors(random, 400, 16), vectors(random, 12, 16), random.integers(0, 12, 400)
    ours = float((rank(items, classes, Positives.one_each(labels)).ranks <= k).mean())
    theirs = sklearn.metrics.top_k_accuracy_score(labels, items @ classes.T, k=k, labels=range(12))
    assert ours == pytest.approx(theirs)


def test_confusion_and_mean_recall_are_those_of_scikit_learn():
    random = np.random.default_rng(2)
    labels, predicted = random.integers(0, 7, 300), random.integers(0, 7, 300)
    labels[labels == 3] = 4  # a class without items
    assert_array_equal(
        confusion(labels, predicted, 7), sklearn.metrics.confusion_matrix(labels, predicted, labels=range(7))
    )
    recall = bootstrap({"x": class_mean_of(labels == predicted, labels)}, 300)["x"]
    theirs = sklearn.metrics.recall_score(labels, predicted, average="macro", labels=[0, 1, 2, 4, 5, 6])
    assert recall.value == pytest.approx(theirs)
    assert recall.low < recall.value < recall.high


def test_several_right_items_count_as_in_clip_benchmark():
    """The share of queries with a right item among the first k, written out with a matrix of pairs."""
    random = np.random.default_rng(3)
    images, texts = vectors(random, 40, 6), vectors(random, 200, 6)
    owner = random.integers(0, 40, 200)
    owner[:40] = np.arange(40)
    pairs = np.zeros((200, 40), bool)
    pairs[np.arange(200), owner] = True
    scores = texts @ images.T
    to_images = rank(texts, images, Positives.one_each(owner)).ranks
    to_texts = rank(images, texts, Positives.of_pairs(owner, np.arange(200), 40)).ranks
    for k in (1, 5, 10):
        for ranks, table, right in ((to_images, scores, pairs), (to_texts, scores.T, pairs.T)):
            best = np.argsort(-table, axis=1)[:, :k]
            hits = np.take_along_axis(right, best, axis=1).sum(axis=1)
            assert (ranks <= k).mean() == pytest.approx((hits / right.sum(axis=1) > 0).mean())


def test_a_model_that_says_always_the_same_is_not_best():
    same = np.ones((20, 4), np.float32) / 2
    assert rank(same, same, Positives.one_each(np.arange(20))).ranks.tolist() == list(range(1, 21))


@pytest.mark.parametrize(
    ("queries", "gallery", "items", "why"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), [0, 1], "needed"),
        (np.ones((0, 3)), np.ones((2, 3)), [], "0 queries"),
        (np.ones((1, 3)), np.ones((0, 3)), [0], "0 items"),
        (np.ones((2, 3)), np.ones((2, 3)), [0], "right items of 1"),
        (np.ones((1, 3)), np.ones((2, 3)), [2], "not among"),
        (np.ones((1, 3)), np.ones((2, 3)), [-1], "not among"),
        (np.full((1, 3), np.nan), np.ones((2, 3)), [0], "NaN"),
        (np.ones((1, 3)), np.full((2, 3), np.inf), [0], "gallery hold NaN"),
    ],
)
def test_what_cannot_be_ranked_is_refused(queries, gallery, items, why):
    with pytest.raises(UsageError, match=why):
        rank(queries.astype(np.float32), gallery.astype(np.float32), Positives.one_each(items))


def test_a_query_without_a_right_item_is_refused():
    with pytest.raises(UsageError, match="no right item"):
        Positives.of_pairs([0, 2], [0, 1], 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_weighted_statistics_are_those_of_the_repeated_items(values, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, len(values))
    weights = random.multinomial(len(values), [1 / len(values)] * len(values), size=3).astype(float)
    repeated = [np.repeat(values, row.astype(int)) for row in weights]
    assert_allclose(mean_of(values)(weights), [row.mean() for row in repeated])
    assert_allclose(median_of(values)(weights), [np.median(row) for row in repeated])
    classes = [np.repeat(labels, row.astype(int)) for row in weights]
    means = [
        np.mean([row[its == label].mean() for label in np.unique(its)])
        for row, its in zip(repeated, classes, strict=True)
    ]
    assert_allclose(class_mean_of(values, labels)(weights), means)


def test_intervals_are_those_of_scipy():
    from scipy import stats

    values = np.random.default_rng(5).exponential(size=200)
    ours = bootstrap({"mean": mean_of(values), "median": median_of(values)}, 200, resamples=4000)
    for name, statistic in (("mean", np.mean), ("median", np.median)):
        theirs = stats.bootstrap((values,), statistic, n_resamples=4000, method="percentile", rng=6).confidence_interval
        width = theirs.high - theirs.low
        assert ours[name].value == pytest.approx(statistic(values))
        assert ours[name].low == pytest.approx(theirs.low, abs=0.12 * width)
        assert ours[name].high == pytest.approx(theirs.high, abs=0.12 * width)


def test_intervals_of_differences_are_those_of_scipy():
    from scipy import stats

    random = np.random.default_rng(8)
    hard = random.random(300)  # what is hard for one is hard for the other
    ours, theirs = (hard + 0.1 * random.random(300) < 0.6), (hard + 0.1 * random.random(300) < 0.65)
    found = paired({"x": mean_of(ours), "y": mean_of(ours)}, {"x": mean_of(theirs)}, 300, resamples=4000)
    assert list(found) == ["x"]
    known = stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=9,
    ).confidence_interval
    width = known.high - known.low
    assert found["x"].value == pytest.approx(ours.mean() - theirs.mean())
    assert found["x"].low == pytest.approx(known.low, abs=0.12 * width)
    assert found["x"].high == pytest.approx(known.high, abs=0.12 * width)
    apart = [bootstrap({"x": mean_of(one)}, 300)["x"] for one in (ours, theirs)]
    assert width < 0.7 * min(one.high - one.low for one in apart), "what both find hard cancels out"


def test_a_model_beside_itself_differs_by_nothing():
    values, groups = np.random.default_rng(10).integers(1, 9, 50), np.arange(50) // 3
    own = {"x": mean_of(values), "y": median_of(values), "z": class_mean_of(values, groups)}
    assert {(one.value, one.low, one.high, one.n) for one in paired(own, own, 50, groups=groups).values()} == {
        (0, 0, 0, 50)
    }


def test_intervals_depend_on_the_seed_and_on_nothing_else(monkeypatch):
    values = np.random.default_rng(7).random(40)
    first, again = (bootstrap({"x": mean_of(values)}, 40, seed=1) for _ in range(2))
    assert first == again != bootstrap({"x": mean_of(values)}, 40, seed=2)
    monkeypatch.setattr(metrics, "_BLOCK", 130)  # three draws at once
    parts = bootstrap({"x": mean_of(values)}, 40, seed=1)["x"]
    assert (parts.low, parts.high) == pytest.approx((first["x"].low, first["x"].high), rel=1e-12)


def test_whole_groups_are_drawn():
    """Five equal values of one group are one observation, not five."""
    values, groups = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], 5), np.repeat(np.arange(8) * 3, 5)
    alone = bootstrap({"x": mean_of(values)}, 40)["x"]
    grouped = bootstrap({"x": mean_of(values)}, 40, groups=groups)["x"]
    assert grouped.value == alone.value == 0.5
    assert grouped.high - grouped.low > 1.7 * (alone.high - alone.low)


def test_one_item_has_an_interval_of_one_point():
    only = bootstrap({"x": median_of([3])}, 1)["x"]
    assert (only.value, only.low, only.high, only.n) == (3, 3, 3, 1)


def test_nothing_has_no_mean():
    with pytest.raises(UsageError, match="0 items"):
        bootstrap({"x": mean_of([])}, 0)
