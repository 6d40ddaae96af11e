"""The same numbers as torchmetrics gives on the same inputs, beside scikit-learn and SciPy in the other tests.

It has no Brier score, which is its mean squared error of probabilities.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbind.evaluate.calibration import brier_score, calibration_error
from slimbind.evaluate.metrics import Positives, class_mean_of, confusion, rank

# torchmetrics imports torchvision where that is installed.
NAMED = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "torchvision_cpu.py"))
NAMED["name_operators"]()
functional = pytest.importorskip("torchmetrics.functional")
classification = pytest.importorskip("torchmetrics.functional.classification")
retrieval = pytest.importorskip("torchmetrics.functional.retrieval")


def unit(random, *shape):
    found = random.standard_normal(shape)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_recall_and_ranks_with_several_right_items():
    random = np.random.default_rng(0)
    queries, gallery = unit(random, 60, 8), unit(random, 40, 8)
    asked = np.concatenate([np.arange(60), random.integers(0, 60, 50)])
    right = np.zeros((60, 40), bool)
    right[asked, random.integers(0, 40, len(asked))] = True
    positives = Positives.of_pairs(*np.nonzero(right), 60)
    ranks = rank(queries, gallery, positives).ranks
    # Above zero: what has a score below is never found by its reciprocal rank.
    scores, target = torch.from_numpy(queries @ gallery.T + 2), torch.from_numpy(right)
    for k in (1, 5, 10):
        hits = [float(retrieval.retrieval_hit_rate(*row, top_k=k)) for row in zip(scores, target, strict=True)]
        assert (ranks <= k).mean() == pytest.approx(np.mean(hits))
    reciprocal = [float(retrieval.retrieval_reciprocal_rank(*row)) for row in zip(scores, target, strict=True)]
    np.testing.assert_allclose(1 / ranks, reciprocal, rtol=1e-6)
    assert np.median(ranks) == pytest.approx(np.median(1 / np.array(reciprocal)), rel=1e-6)


def test_accuracy_and_confusion():
    random = np.random.default_rng(1)
    items, classes, labels = unit(random, 300, 16), unit(random, 9, 16), random.integers(0, 9, 300)
    found = rank(items, classes, Positives.one_each(labels))
    scores, target = torch.from_numpy(items @ classes.T), torch.from_numpy(labels)
    for k in (1, 5):
        theirs = classification.multiclass_accuracy(scores, target, num_classes=9, average="micro", top_k=k)
        assert (found.ranks <= k).mean() == pytest.approx(float(theirs))
    recall = class_mean_of(found.ranks <= 1, labels)(np.ones((1, 300)))[0]
    assert recall == pytest.approx(
        float(classification.multiclass_accuracy(scores, target, num_classes=9, average="macro"))
    )
    theirs = classification.multiclass_confusion_matrix(scores, target, num_classes=9)
    np.testing.assert_array_equal(confusion(labels, found.first, 9), theirs.numpy())


def test_calibration_error_and_brier_score_of_as_many_pairs_of_each_kind():
    random = np.random.default_rng(2)
    yes, no = random.beta(4, 2, 500), random.beta(2, 5, (500, 1))
    told = torch.from_numpy(np.concatenate([yes, no[:, 0]]))
    target = torch.cat([torch.ones(500, dtype=torch.int64), torch.zeros(500, dtype=torch.int64)])
    whole = np.ones((1, 500))
    theirs = float(classification.binary_calibration_error(told, target, n_bins=15, norm="l1"))
    assert calibration_error(yes, no)(whole)[0] == pytest.approx(theirs, abs=1e-6)
    assert brier_score(yes, no)(whole)[0] == pytest.approx(
        float(functional.mean_squared_error(told, target.to(told.dtype)))
    )
