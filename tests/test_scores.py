"""What a score means: the curve, the record of curves, and records that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slimbind.errors import ArtifactCorruptError, ArtifactError, ArtifactVersionError, UsageError
from slimbind.evaluate.calibration import fit
from slimbind.scores import Curve, Measured, Scores, ordered

IDS = {"vision": "a" * 16, "text": "b" * 16, "audio": "c" * 16}


def curve(first: str = "vision", second: str = "text", **changed: object) -> Curve:
    told = {
        "modalities": (first, second),
        "encoders": (IDS[first], IDS[second]),
        "slope": 20.0,
        "intercept": -5.0,
        "pairs": 50,
        "data": "made up",
    }
    return Curve.model_validate(told | changed)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=50),
    st.floats(1e-3, 1e4),
    st.floats(-1e4, 1e4),
)
def test_nothing_changes_its_place_within_a_pair_of_modalities(
    cosines: list[float], slope: float, intercept: float
) -> None:
    found = curve(slope=slope, intercept=intercept).probability(cosines)
    assert ((found >= 0) & (found <= 1)).all()
    order = np.argsort(cosines, kind="stable")
    assert (np.diff(found[order]) >= 0).all()


@settings(deadline=None)
@given(st.floats(0.001, 0.999), st.floats(1, 100), st.floats(-30, 30))
def test_the_cosine_of_a_probability_has_it(probability: float, slope: float, intercept: float) -> None:
    one = curve(slope=slope, intercept=intercept)
    assert one.probability(one.cosine(probability)) == pytest.approx(probability, abs=1e-9)


def test_the_curve_is_the_one_that_is_written_down() -> None:
    assert curve().probability([[0.25, 0.5], [-1, 1]]) == pytest.approx(
        np.array([[0.5, 1 / (1 + np.exp(-5))], [1 / (1 + np.exp(25)), 1 / (1 + np.exp(-15))]])
    )
    assert curve().cosine(0.5) == 0.25
    assert (curve().cosine(0), curve().cosine(1)) == (-np.inf, np.inf)


def test_curves_are_found_in_any_order_and_only_for_their_encoders() -> None:
    scores = Scores().adding(curve()).adding(curve("text", "text", slope=9)).adding(curve(slope=7))
    assert [one.modalities for one in scores.curves] == [("vision", "text"), ("text", "text")]
    for names in (("vision", "text"), ("text", "vision")):
        found = scores.find(*names, IDS)
        assert found is not None and found.slope == 7
    assert scores.find("audio", "text", IDS) is None
    with pytest.raises(ArtifactError, match="nobody has fitted what scores of text and audio mean") as caught:
        scores.need("audio", "text", IDS)
    assert "slimbind eval calibrate" in caught.value.hint
    with pytest.raises(ArtifactError, match=f"fitted with the encoders {'a' * 16} and {'b' * 16}; these are"):
        scores.need("text", "vision", IDS | {"vision": "d" * 16})
    kept = scores.kept(IDS | {"vision": "d" * 16})
    assert [one.modalities for one in kept.curves] == [("text", "text")]
    assert scores.kept({"text": IDS["text"]}).curves == kept.curves
    assert ordered("text", "vision") == ("vision", "text")
    with pytest.raises(UsageError, match="unknown modality"):
        ordered("text", "smell")


def test_a_record_comes_back_and_replaces_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(pairs=9, brier_before=0.3, brier_after=0.1, ece_before=0.4, ece_after=0.02)
    scores = Scores(curves=(curve(measured=measured),))
    path = tmp_path / "scores.json"
    scores.write(path)
    path.chmod(0o640)
    assert Scores.read(path) == scores
    more = scores.adding(curve("text", "audio"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(ArtifactError, match="was not written: No space left"):
            more.write(path)
    assert Scores.read(path) == scores and os.listdir(tmp_path) == ["scores.json"]
    more.write(path)
    assert Scores.read(path) == more and path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(ArtifactError, match="was not written"):
        more.write(tmp_path / "nowhere" / "scores.json")


@pytest.mark.parametrize(
    "change",
    [
        {"slope": 0},
        {"slope": -1},
        {"slope": float("nan")},
        {"slope": float("inf")},
        {"intercept": float("nan")},
        {"modalities": ["text", "vision"]},
        {"modalities": ["vision", "smell"]},
        {"encoders": ["x", "y"]},
        {"pairs": 0},
        {"surprise": 1},
    ],
)
def test_a_curve_that_is_none_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    told = json.loads(Scores(curves=(curve(),)).to_json())
    told["curves"][0] |= change
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(told))
    with pytest.raises(ArtifactCorruptError, match="scores.json"):
        Scores.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"curves": 5}', '{"format": "other"}', "[" * 100_000, "\0" * 9])
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(ArtifactCorruptError):
        Scores.read(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        Scores.read(tmp_path / "none.json")
    path = tmp_path / "scores.json"
    path.write_text('{"format": "slimbind-scores", "format_version": 2, "new": 1}')
    with pytest.raises(ArtifactVersionError, match="format version 2"):
        Scores.read(path)
    path.write_text(" " * ((1 << 20) + 1))
    with pytest.raises(ArtifactCorruptError):
        Scores.read(path)
    with pytest.raises(ValidationError, match="two curves for one pair"):
        Scores(curves=(curve(), curve(slope=3)))


@settings(deadline=None)
@given(
    st.floats(1e-300, 1e300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(1, 10**9),
    st.text(max_size=9),
)
def test_what_is_kept_is_what_was_fitted_to_the_last_bit(slope: float, intercept: float, pairs: int, data: str) -> None:
    one = curve(slope=slope, intercept=intercept, pairs=pairs, data=data)
    found = Scores.model_validate_json(Scores(curves=(one,)).to_json())
    assert found.curves == (one,) and found.curves[0].slope.hex() == slope.hex()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-1, 1))
def test_a_curve_depends_on_the_pairs_and_not_on_their_order_or_the_scale_of_scores(
    seed: int, factor: float, shift: float
) -> None:
    random = np.random.default_rng(seed)
    matching, others = random.normal(0.3, 0.1, 40), random.normal(0.1, 0.1, (40, 8))
    slope, intercept = fit(matching, others)
    assert slope > 0
    assert fit(random.permutation(matching), random.permutation(others.ravel())) == pytest.approx((slope, intercept))
    scaled = fit(factor * matching + shift, factor * others + shift)
    assert scaled == pytest.approx((slope / factor, intercept - slope * shift / factor), rel=1e-4, abs=1e-4)
    # Both kinds weigh the same, however many there are of each.
    assert fit(matching, np.concatenate([others, others])) == pytest.approx((slope, intercept))


@pytest.mark.parametrize(
    ("matching", "others", "message"),
    [
        (np.ones(30), np.array([]), "too few"),
        (np.array([]), np.ones(30), "too few"),
        (np.zeros(30), np.ones(30), "no more alike"),
        (np.ones(30), np.ones(30), "no more alike"),
        (np.full(30, np.nan), np.zeros(30), "not finite"),
        (np.full(30, 0.5), np.array([0.1, np.inf]), "not finite"),
    ],
)
def test_scores_of_one_kind_or_that_are_no_numbers_are_refused(matching, others, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit(matching, others)


def test_pairs_that_are_told_apart_without_fail_have_a_curve_that_ends() -> None:
    slope, intercept = fit(np.full(40, 0.9), np.full(40, 0.1))
    assert np.isfinite(slope) and np.isfinite(intercept)
    assert curve(slope=slope, intercept=intercept).probability([0.9, 0.1]) == pytest.approx([41 / 42, 1 / 42], abs=1e-3)
