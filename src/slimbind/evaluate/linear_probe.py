"""Linear probe: logistic regression on frozen embeddings, which tells what is in them rather than what is near what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.datasets import Dataset
from slimbind.errors import MissingExtraError, UsageError
from slimbind.evaluate import metrics
from slimbind.evaluate.embedding import Progress, Vectors, check_classes, embed_labelled, silent
from slimbind.evaluate.outcome import Beside, Outcome
from slimbind.evaluate.record import Record, environment
from slimbind.runtime.model import Model

Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]

MOST_STEPS = 1000  # of the solver, as in the CLIP paper
_DECADES, _PER_DECADE = 6, 8  # C from 1e-6 to 1e6, in steps of an eighth of a decade
_COARSE = 2 * _PER_DECADE  # the first steps: two decades


def linear_probe(
    model: Model,
    train: Dataset,
    test: Dataset | None = None,
    *,
    name: str = "",
    validation_share: float = 0.2,
    test_share: float = 0.25,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    beside: Beside | None = None,
    progress: Progress = silent,
) -> Record:
    """Fit a linear classifier on embeddings of the training data, and count how often it is right on the test data.

    Multinomial logistic regression with an L2 penalty by L-BFGS, at most 1000 steps. Its one parameter C is chosen on a
    part of the training data, first in steps of two decades from 1e-6 to 1e6, then by halving the step around the best
    down to an eighth of a decade; then all training data are fitted with it (Radford et al. 2021, appendix A.3). Best
    is the C with the smallest cross-entropy there. (The paper takes the greatest accuracy, which on some hundred items
    is so much a matter of chance that two roundings of the same tower get a C a thousand times apart.) The mean of the
    training data is subtracted first: the intercept, which has no penalty, makes up for it, and the solver needs fewer
    steps.

    Args:
        model: whose embeddings are probed.
        train: with classes.
        test: with no other classes; without it, a part of ``train`` that nothing is fitted on.
        name: the model's, for the record; by default its id.
        validation_share: part of each class of the training data by which C is chosen.
        test_share: part of each class that is held out where there is no ``test``.
        samples: most of each data set, evenly spread.
        seed: of what is held out and of the intervals.
        batch_size: most views in a forward pass.
        beside: has the first record of several models, which the others are held against.
        progress: shows it.

    Returns:
        ``top-1``, ``top-5`` (from five classes on) and ``mean class recall`` of the test data, and with ``beside`` by
        how much they differ from the first one's; ``details`` has C, what each C tried gave, the classes and the
        confusion matrix.

    Raises:
        UsageError: no classes, only one, too few items, a class to test that was not trained, or a share that is none.
        MissingExtraError: scikit-learn is not installed.
    """
    need_scikit_learn()
    for what, share in (("validation", validation_share), ("test", test_share)):
        if not 0 < share < 1:
            raise UsageError(f"the {what} share is {share!r}", hint="give a number between 0 and 1")
    classes = check_classes(train)
    order = None if test is None else _same_classes(train, test)
    modality = train.modalities[0]
    embed = partial(embed_labelled, model, samples=samples, batch_size=batch_size, progress=progress)
    learned = embed(train, label=f"embedding {modality} to train")
    if test is None:
        held = held_out(learned.labels, test_share, seed=seed)
        if not held.any():
            raise UsageError("too few items to hold some out for the test", hint="give more, or test data")
        tried, learned = learned.only(held), replace(learned.only(~held), failed=learned.failed)
    else:
        tried = embed(test, label=f"embedding {modality} to test")
        tried = replace(tried, labels=np.array(order, np.int64)[tried.labels])
    with progress("fitting", total=None) as advance:
        probe = fit(
            learned.vectors,
            learned.labels,
            validation_share=validation_share,
            seed=seed,
            on_fit=lambda: advance(1),
        )
    scores = probe.scores(tried.vectors, len(classes))
    outcome = Outcome.of_classes(_ranks(scores, tried.labels), tried.labels, len(classes), tried.places)
    record = Record(
        task="linear-probe",
        title=f"{(test or train).path.name}: {modality}, {len(classes)} classes",
        model=name or model.id,
        settings={
            "train": str(train.path),
            "test": f"{test_share:g} of train" if test is None else str(test.path),
            "modality": modality,
            "validation_share": validation_share,
            "train_items": len(learned.labels),
            "test_items": len(tried.labels),
            "seed": seed,
        },
        measures=outcome.measures(seed=seed),
        details={
            "C": probe.c,
            "sweep": [
                {
                    "C": trial.c,
                    "validation loss": trial.loss,
                    "validation accuracy": trial.accuracy,
                    "converged": trial.converged,
                }
                for trial in sorted(probe.trials, key=lambda trial: trial.c)
            ],
            "classes": [*classes],
            "confusion": metrics.confusion(tried.labels, scores.argmax(axis=1), len(classes)).tolist(),
        },
        failed=(*learned.failed, *tried.failed),
        environment=environment(model),
    )
    return record if beside is None else beside.add(record, [outcome], seed=seed)


@dataclass(frozen=True)
class Trial:
    """What one C gave: mean cross-entropy and accuracy on the validation part; whether the solver came to an end."""

    c: float
    loss: float
    accuracy: float
    converged: bool


@dataclass(frozen=True)
class Probe:
    """A fitted classifier.

    Args:
        mean: of the training vectors ``[dim]``.
        regression: scikit-learn's.
        c: the C that was chosen.
        trials: all that were tried.
    """

    mean: Vectors
    regression: Any
    c: float
    trials: tuple[Trial, ...]

    def scores(self, vectors: Vectors, classes: int) -> NDArray[np.float64]:
        """Log-odds ``[n, classes]`` of vectors ``[n, dim]``; -inf for classes that were not trained."""
        told = self.regression.decision_function(vectors - self.mean)
        told = np.stack([-told, told], axis=1) if told.ndim == 1 else told  # of two classes there is one number
        found = np.full((len(vectors), classes), -np.inf)
        found[:, self.regression.classes_] = told
        return found


def fit(
    vectors: Vectors,
    labels: Labels,
    *,
    validation_share: float = 0.2,
    seed: int = 0,
    on_fit: Callable[[], object] = lambda: None,
) -> Probe:
    """Choose C on a part of the data, then fit all of it; see ``linear_probe``.

    Args:
        vectors: ``[n, dim]``.
        labels: ``[n]``.
        validation_share: part of each class by which C is chosen.
        seed: which part.
        on_fit: called after each fit.

    Raises:
        UsageError: fewer than two classes, or no class has two items.
        MissingExtraError: scikit-learn is not installed.
    """
    need_scikit_learn()
    from sklearn.metrics import log_loss

    if len(np.unique(labels)) < 2:
        raise UsageError(f"the training data have {len(np.unique(labels))} class", hint="at least two are needed")
    held = held_out(labels, validation_share, seed=seed)
    if not held.any():
        raise UsageError("every class has a single item to train with", hint="at least two of some class are needed")
    mean = vectors[~held].mean(axis=0)
    inner, outer = vectors[~held] - mean, vectors[held] - mean

    def attempt(c: float) -> Trial:
        regression, converged = _fitted(inner, labels[~held], c)
        on_fit()
        told = regression.predict_proba(outer)
        right = regression.classes_[told.argmax(axis=1)] == labels[held]
        loss = log_loss(labels[held], told, labels=regression.classes_)
        return Trial(c, float(loss), float(right.mean()), converged)

    trials = search(attempt)
    best = _best(trials)
    mean = vectors.mean(axis=0)
    regression, _ = _fitted(vectors - mean, labels, best.c)
    on_fit()
    return Probe(mean, regression, best.c, tuple(trials))


def search(attempt: Callable[[float], Trial]) -> list[Trial]:
    """Try C coarsely, then ever more finely around the best; see ``linear_probe``."""
    most = _DECADES * _PER_DECADE
    found = {step: attempt(_c(step)) for step in range(-most, most + 1, _COARSE)}
    width = _COARSE
    while width > 1:
        width //= 2
        middle = next(step for step, trial in found.items() if trial is _best(found.values()))
        for step in (middle - width, middle + width):
            if -most <= step <= most and step not in found:
                found[step] = attempt(_c(step))
    return list(found.values())


def held_out(labels: Labels, share: float, *, seed: int) -> Mask:
    """A random part of each class ``[n]``, to the nearest number of items; the last item of a class is never taken."""
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), np.bool_)
    for members in _by_class(labels):
        count = min(len(members) - 1, max(1, round(share * len(members))))
        chosen[random.permutation(members)[:count]] = True
    return chosen


def need_scikit_learn() -> None:
    """Say so where it is not installed.

    Raises:
        MissingExtraError: that is the case.
    """
    if find_spec("sklearn") is None:
        raise MissingExtraError("scikit-learn", extra="eval")


def _by_class(labels: Labels) -> Iterator[Labels]:
    for label in np.unique(labels):
        yield np.flatnonzero(labels == label)


def _c(step: int) -> float:
    return float(10.0 ** (step / _PER_DECADE))


def _best(trials: Any) -> Trial:  # noqa: ANN401  (any collection of trials)
    """The one with the smallest loss; of equals the one with the smallest C, which trusts the data least."""
    best: Trial = min(trials, key=lambda trial: (trial.loss, trial.c))
    return best


def _fitted(vectors: Vectors, labels: Labels, c: float) -> tuple[Any, bool]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        regression = LogisticRegression(C=c, max_iter=MOST_STEPS).fit(vectors, labels)
    return regression, not any(issubclass(one.category, ConvergenceWarning) for one in told)


def _ranks(scores: NDArray[np.float64], labels: Labels) -> Labels:
    """The place of each item's class among all ``[n]``; of equal scores the class with the smaller number is first."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(1 + ((scores > own) | ((scores == own) & before)).sum(axis=1), np.int64)


def _same_classes(train: Dataset, test: Dataset) -> list[int]:
    """The number in ``train`` of each class of ``test``.

    Raises:
        UsageError: ``test`` has a class that ``train`` lacks, or is of another modality.
    """
    if train.modalities[0] != test.modalities[0]:
        raise UsageError(f"the training data are {train.modalities[0]}, the test data {test.modalities[0]}")
    known = {name: number for number, name in enumerate(check_classes(train))}
    if strange := [name for name in check_classes(test, least=1) if name not in known]:
        raise UsageError(
            f"the test data have {len(strange)} classes that the training data lack, such as {strange[0]!r}",
            hint=f"the training data have {', '.join(list(known)[:8])}",
        )
    return [known[name] for name in check_classes(test, least=1)]
