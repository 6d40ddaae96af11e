"""Score calibration: the fit, its measures, and the whole way from pairs to a model's folder."""

from __future__ import annotations

import csv
import itertools
import shutil
import tarfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slimbind
from slimbind import datasets
from slimbind.artifact import Artifact, ArtifactWriter
from slimbind.errors import ArtifactError, UsageError
from slimbind.evaluate.calibration import Cosines, calibrate, fit, measure, store
from slimbind.scores import Curve, Scores


def _made_up(seed: int, pairs: int = 200, others: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(0.3, 0.1, pairs), random.normal(0.05, 0.1, others)


def _curve(slope: float, intercept: float) -> Curve:
    ids = ("a" * 16, "b" * 16)
    return Curve(modalities=("vision", "text"), encoders=ids, slope=slope, intercept=intercept, pairs=9, data="")


def test_the_curve_of_two_normal_distributions_is_the_one_that_theory_says() -> None:
    # log N(x; .3, .1) / N(x; .05, .1) is a line: slope (.3 - .05) / .1**2, zero in the middle.
    slope, intercept = fit(*_made_up(0, 200_000, 200_000))
    assert slope == pytest.approx(25, rel=0.02) and -intercept / slope == pytest.approx(0.175, abs=0.002)


@pytest.mark.parametrize("others", [200, 3000])
def test_it_is_logistic_regression_with_platts_targets(others: int) -> None:
    from sklearn.linear_model import LogisticRegression

    yes, no = _made_up(1, 60, others)
    slope, intercept = fit(yes, no)
    high, low = 61 / 62, 1 / 62
    x = np.concatenate([yes, yes, no, no])[:, None]
    y = np.concatenate([np.ones(60), np.zeros(60), np.ones(others), np.zeros(others)])
    weights = np.concatenate(
        [
            np.full(60, high / 60),
            np.full(60, (1 - high) / 60),
            np.full(others, low / others),
            np.full(others, (1 - low) / others),
        ]
    )
    model = LogisticRegression(C=1e6, tol=1e-10, max_iter=10_000).fit(x, y, sample_weight=weights * 1e3)
    assert slope == pytest.approx(model.coef_[0, 0], rel=1e-3)
    assert intercept == pytest.approx(model.intercept_[0], rel=1e-3)


def test_how_many_other_pairs_there_are_changes_nothing() -> None:
    yes, no = _made_up(2)
    assert fit(yes, np.tile(no, 7)) == pytest.approx(fit(yes, no))


def test_pairs_that_never_overlap_give_no_endless_slope() -> None:
    slope, intercept = fit(np.full(30, 0.4), np.full(300, 0.1))
    found = 1 / (1 + np.exp(-(slope * np.array([0.1, 0.4]) + intercept)))
    assert found == pytest.approx([1 / 32, 31 / 32], abs=1e-3)  # Platt's targets


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.6), st.floats(0.001, 0.3), st.integers(10, 60))
def test_the_fit_always_rises_and_is_finite(seed: int, gap: float, spread: float, pairs: int) -> None:
    random = np.random.default_rng(seed)
    no = random.normal(0, spread, 500)
    slope, intercept = fit(no.mean() + gap + random.normal(0, spread, pairs) * 0.01, no)
    assert 0 < slope < 1e6 and np.isfinite(intercept)


def test_pairs_that_are_no_more_alike_than_others_are_refused() -> None:
    yes, no = _made_up(3)
    with pytest.raises(UsageError, match="no more alike than others"):
        fit(no[:100], yes)
    with pytest.raises(UsageError, match="no more alike than others"):
        fit(np.full(20, 0.2), np.full(50, 0.2))
    with pytest.raises(UsageError, match="9 matching and 5 other pairs are too few"):
        fit(yes[:9], no[:5])


def test_measures_are_the_ones_that_are_written_down() -> None:
    from sklearn.metrics import brier_score_loss

    random = np.random.default_rng(4)
    yes, no = random.normal(0.3, 0.1, 50), random.normal(0.05, 0.1, (50, 32))
    no[random.random(no.shape) < 0.2] = np.nan
    curve = _curve(25.0, -4.0)
    found = measure(Cosines(yes, no, np.arange(50)), curve)
    others = no[np.isfinite(no)]
    truth = np.concatenate([np.ones(50), np.zeros(len(others))])
    weights = np.concatenate([np.full(50, 0.5 / 50), np.full(len(others), 0.5 / len(others))])
    for when, said in (
        ("before", np.clip(np.concatenate([yes, others]), 0, 1)),
        ("after", curve.probability(np.concatenate([yes, others]))),
    ):
        assert found[f"Brier score {when}"].value == pytest.approx(brier_score_loss(truth, said, sample_weight=weights))
        bins = np.minimum((said * 15).astype(int), 14)
        errors = [abs((weights * (said - truth))[bins == one].sum()) for one in range(15)]
        assert found[f"ECE {when}"].value == pytest.approx(sum(errors))
    assert found["recall of matching pairs at 0.9"].value == pytest.approx((curve.probability(yes) >= 0.9).mean())
    assert found["share of other pairs at 0.9"].value == pytest.approx((curve.probability(others) >= 0.9).mean())
    for one in found.values():
        assert one.low is not None and one.low <= one.value <= one.high and one.n == 50


def _tar(path: Path, file: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(file, file.name)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_an_error_lies_around_it_where_there_is_little_to_measure_with(seed: int) -> None:
    # Drawing again adds noise, and an error that is a sum of absolute values counts it: its draws are too large.
    random = np.random.default_rng(seed)
    held_out = Cosines(random.normal(0.3, 0.1, 30), random.normal(0.05, 0.1, (30, 32)), np.arange(30))
    found = measure(held_out, _curve(25.0, -4.375), seed=seed)["ECE after"]
    assert found.low < found.value < found.high and found.high - found.low > 0.02


def _write_pairs(folder: Path, count: int = 60) -> Path:
    """Mixtures of red, green and blue, each with the words for it."""
    from PIL import Image

    folder.mkdir()
    mixtures = sorted(
        itertools.product(range(4), repeat=3), key=lambda mixture: (sum(mixture) * 37 + mixture[0] * 11) % 64
    )
    rows = []
    for number, mixture in enumerate(one for one in mixtures if any(one)):
        words = " ".join(
            word for word, times in zip(("red", "green", "blue"), mixture, strict=True) for _ in range(times)
        )
        Image.new("RGB", (8, 8), tuple(80 * part for part in mixture)).save(folder / f"{number}.png")
        rows.append((f"{number}.png", words))
    with open(folder / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows[:count]])
    return folder / "pairs.csv"


def test_pairs_become_a_curve_that_the_model_keeps(toy_artifact: Path, tmp_path: Path, make_toy) -> None:
    data = datasets.open(_write_pairs(tmp_path / "pairs"))
    folder = tmp_path / "model"
    shutil.copytree(toy_artifact, folder)
    with slimbind.load(folder, threads=1) as model:
        found = calibrate(model, data, seed=1)
        again = calibrate(model, data, seed=1)
        ids = {name: model.encoder(name).id for name in model.modalities}
    assert found.curve == again.curve.model_copy(update={"fitted": found.curve.fitted}), "but for the time"
    assert datetime.now(timezone.utc) - datetime.fromisoformat(found.curve.fitted) < timedelta(hours=1)
    curve, record = found.curve, found.record
    assert (curve.modalities, curve.encoders) == (("vision", "text"), (ids["vision"], ids["text"]))
    assert curve.pairs + curve.measured.pairs == 60 and abs(curve.pairs - 30) <= 5
    assert record.measures["Brier score after"].value < record.measures["Brier score before"].value
    assert curve.measured.brier_after == record.measures["Brier score after"].value
    assert record.task == "calibrate" and record.from_json(record.to_json()) == record

    kept = store(Artifact.open(folder), curve)
    assert kept.manifest.scores.curves == (curve,)
    assert Artifact.open(folder).manifest == kept.manifest
    assert kept.manifest.towers == Artifact.open(toy_artifact).manifest.towers
    with slimbind.load(folder, threads=1) as model:  # and the model still opens
        assert model.embed(["red"], "text").shape == (1, 8)

    other = Artifact.open(make_toy(tmp_path / "other", scheme="int8-dynamic"))
    with pytest.raises(ArtifactError, match="fitted with the encoders"):
        store(other, curve)
    assert Artifact.open(other.folder).manifest.scores == Scores()


def test_captions_of_one_picture_are_no_other_pairs_and_stay_in_one_half(toy_artifact: Path, tmp_path: Path) -> None:
    path = _write_pairs(tmp_path / "pairs", 40)
    with open(path, "a", newline="") as file:
        csv.writer(file).writerows([("0.png", "one more of the same"), ("0.png", "and another")])
    with slimbind.load(toy_artifact, threads=1) as model:
        found = calibrate(model, datasets.open(path))
    assert found.curve.pairs + found.curve.measured.pairs == 42
    assert abs(found.curve.pairs - found.curve.measured.pairs) in (2, 4, 0)


def test_classes_are_pairs_with_sentences_about_them(toy_artifact: Path, tmp_path: Path) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for place, name in enumerate(("red", "green", "blue")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            colour = random.integers(0, 90, 3)
            colour[place] += 120
            Image.new("RGB", (8, 8), tuple(colour.tolist())).save(tmp_path / "data" / name / f"{number}.png")
    data = datasets.open(tmp_path / "data")
    with slimbind.load(toy_artifact, threads=1) as model:
        found = calibrate(model, data, templates=["none", "a {} thing"])
    assert (found.curve.pairs, found.curve.measured.pairs) == (36, 36)  # 18 pictures, two sentences each
    assert found.record.settings["templates"] == ["{}", "a {} thing"]
    assert found.record.measures["Brier score after"].value < 0.1


def test_too_little_is_refused(toy_artifact: Path, tmp_path: Path) -> None:
    with slimbind.load(toy_artifact, threads=1) as model:
        with pytest.raises(UsageError, match="15 matching pairs, 15 of them without an item in common, are too few"):
            calibrate(model, datasets.open(_write_pairs(tmp_path / "few", 15)))
        path = _write_pairs(tmp_path / "same")
        rows = [(f"{number}.png", "red") for number in range(60)]
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("image", "caption"), *rows])
        with pytest.raises(UsageError, match="too few"):
            calibrate(model, datasets.open(path))
        rows = [(f"{number}.png", "red" if number < 30 else "green") for number in range(60)]
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("image", "caption"), *rows])
        with pytest.raises(UsageError, match="every item matches every other"):
            calibrate(model, datasets.open(path))
        with pytest.raises(UsageError, match="has no classes"):
            calibrate(model, datasets.open(_tar(tmp_path / "x.tar", path.with_name("0.png"))))


def test_a_model_made_from_another_keeps_only_what_is_still_true(toy_artifact: Path, tmp_path: Path) -> None:
    source = Artifact.open(toy_artifact)
    manifest = source.manifest
    ids = {name: entry.encoder_id for name, entry in manifest.towers.items()}
    curves = tuple(
        Curve(modalities=names, encoders=(ids[names[0]], ids[names[1]]), slope=9, intercept=0, pairs=9, data="")
        for names in (("vision", "text"), ("text", "text"), ("text", "audio"))
    )
    with ArtifactWriter(
        tmp_path / "made", model=manifest.model, embedding_dim=8, scores=Scores(curves=curves)
    ) as writer:
        for name in ("vision", "text"):
            for file in manifest.towers[name].files:
                shutil.copy(source.folder / file.path, writer.folder(name))
            entry = manifest.towers[name]
            scheme = "int8-weight" if name == "vision" else entry.scheme
            writer.add(
                name,
                engine=entry.engine,
                scheme=scheme,
                weights=entry.weights,
                parameters=1,
                preprocess=entry.preprocess,
            )
    made = Artifact.open(tmp_path / "made").manifest.scores
    assert [one.modalities for one in made.curves] == [("text", "text")]
