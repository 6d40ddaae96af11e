"""What a score means: cosines of two modalities as the probability that two items belong together.

Cosines of different modalities are not comparable: matching text and picture may have 0.3, matching text and text 0.7.
A model may therefore carry, for pairs of its modalities, a curve from the cosine to a probability, fitted on pairs that
are known to match and others that do not (``slimbind.evaluate.calibration``). It is two numbers, ``1 / (1 + exp(-(slope
* cosine + intercept)))`` (Platt, 1999), and rises everywhere: within one pair of modalities nothing changes its place.

The probability holds where matching and not matching are equally likely beforehand. So it does not depend on how many
items are searched, and is the same question for every pair of modalities.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from slimbind.errors import ArtifactCorruptError, ArtifactError, ArtifactVersionError
from slimbind.modalities import MODALITIES, check_modality
from slimbind.whole import Whole

FORMAT_VERSION = 1
_MAX_BYTES = 1 << 20
_MEND = "`slimbind eval calibrate PAIRS --model MODEL` fits it"


class Measured(BaseModel):
    """How far probabilities were off on pairs that the curve was not fitted on: before (the cosine itself, taken for
    one) and after. ``pairs`` is how many of them match.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pairs: int = Field(ge=1)
    brier_before: float
    brier_after: float
    ece_before: float
    ece_after: float


class Curve(BaseModel):
    """The curve of one pair of modalities.

    ``modalities`` are in the project's order, ``encoders`` are the encoder ids it was fitted with, in the same order;
    ``pairs`` is how many matching pairs it was fitted on, ``data`` what they were, ``fitted`` when (UTC, ISO 8601; None
    where it was not noted).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    modalities: tuple[str, str]
    encoders: tuple[str, str]
    slope: float = Field(gt=0)
    intercept: float
    pairs: int = Field(ge=1)
    data: str
    fitted: str | None = None
    measured: Measured | None = None

    @field_validator("modalities")
    @classmethod
    def _in_order(cls, names: tuple[str, str]) -> tuple[str, str]:
        if any(name not in MODALITIES for name in names) or ordered(*names) != names:
            raise ValueError(f"{names} are not two modalities in the project's order")
        return names

    @field_validator("encoders")
    @classmethod
    def _ids(cls, ids: tuple[str, str]) -> tuple[str, str]:
        if any(len(one) != 16 or set(one) - set("0123456789abcdef") for one in ids):
            raise ValueError(f"{ids} are not two encoder ids")
        return ids

    def probability(self, cosines: ArrayLike) -> NDArray[np.float64]:
        """The probability that two items belong together, for cosines of any shape; see the top of this module."""
        return sigmoid(self.slope * np.asarray(cosines, np.float64) + self.intercept)

    def cosine(self, probability: float) -> float:
        """The cosine at which the probability is reached; outside -1..1 where no two items can have it."""
        if not 0 < probability < 1:
            return -math.inf if probability <= 0 else math.inf
        return (math.log(probability / (1 - probability)) - self.intercept) / self.slope


class Scores(BaseModel):
    """The curves of a model; at most one for each pair of modalities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["slimbind-scores"] = "slimbind-scores"
    format_version: int = FORMAT_VERSION
    curves: tuple[Curve, ...] = ()

    @field_validator("curves")
    @classmethod
    def _one_each(cls, curves: tuple[Curve, ...]) -> tuple[Curve, ...]:
        if len({curve.modalities for curve in curves}) != len(curves):
            raise ValueError("there are two curves for one pair of modalities")
        return curves

    def find(self, first: str, second: str, encoders: Mapping[str, str]) -> Curve | None:
        """The curve of two modalities, in any order; None where there is none.

        Args:
            first: a modality.
            second: another, or the same.
            encoders: the encoder ids of the model whose cosines are asked about.

        Raises:
            ArtifactError: the curve was fitted with other encoders: it says nothing about these.
        """
        names = ordered(first, second)
        found = next((curve for curve in self.curves if curve.modalities == names), None)
        if found is not None:
            ids = tuple(encoders[name] for name in names)
            if ids != found.encoders:
                raise ArtifactError(
                    f"what scores of {' and '.join(names)} mean was fitted with the encoders "
                    f"{' and '.join(found.encoders)}; these are {' and '.join(ids)}",
                    hint=f"fit it again: {_MEND}",
                )
        return found

    def need(self, first: str, second: str, encoders: Mapping[str, str]) -> Curve:
        """The curve of two modalities.

        Raises:
            ArtifactError: there is none, or it was fitted with other encoders.
        """
        found = self.find(first, second, encoders)
        if found is None:
            names = " and ".join(ordered(first, second))
            raise ArtifactError(f"nobody has fitted what scores of {names} mean for this model", hint=_MEND)
        return found

    def adding(self, curve: Curve) -> Scores:
        """These and another curve, in place of one of the same modalities."""
        others = [one for one in self.curves if one.modalities != curve.modalities]
        return Scores(curves=tuple(sorted([*others, curve], key=lambda one: _places(one.modalities))))

    def kept(self, encoders: Mapping[str, str]) -> Scores:
        """Those curves that were fitted with these encoders, by modality."""
        return Scores(
            curves=tuple(
                curve
                for curve in self.curves
                if all(encoders.get(name) == one for name, one in zip(curve.modalities, curve.encoders, strict=True))
            )
        )

    def to_json(self) -> str:
        """The document that ``read`` reads."""
        return self.model_dump_json(indent=1) + "\n"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the document; it appears whole or not at all.

        Raises:
            ArtifactError: it cannot be written.
        """
        write_whole(Path(path), self.to_json())

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Scores:
        """Read a document.

        Raises:
            ArtifactError: it is not there. ArtifactCorruptError: it is none. ArtifactVersionError: it is newer.
        """
        place = Path(path)
        try:
            with open(place, "rb") as file:
                raw = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise ArtifactError(f"{place} cannot be read: {error.strerror}", hint=_MEND) from error
        try:
            told = json.loads(raw) if len(raw) <= _MAX_BYTES else None
            version = told.get("format_version") if isinstance(told, dict) else None
            if isinstance(version, int) and version > FORMAT_VERSION:
                raise ArtifactVersionError(
                    f"{place} has format version {version}; this slimbind reads up to {FORMAT_VERSION}",
                    hint="pip install --upgrade slimbind",
                )
            return Scores.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ArtifactCorruptError(f"{place}: {where}: {first['msg']}", hint=_MEND) from error
        except (ValueError, RecursionError) as error:
            raise ArtifactCorruptError(f"{place} is no record of scores: {error}", hint=_MEND) from error


def ordered(first: str, second: str) -> tuple[str, str]:
    """Two modalities in the project's order.

    Raises:
        UsageError: one is unknown.
    """
    one, other = sorted((check_modality(first), check_modality(second)), key=list(MODALITIES).index)
    return one, other


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``1 / (1 + exp(-values))``, without overflow."""
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1 / (1 + small), small / (1 + small)))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it appears whole or not at all; what was there stays until then.

    Raises:
        ArtifactError: it cannot be written.
    """
    try:
        with Whole(path) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path} was not written: {error.strerror}", hint="choose another place") from error


def _places(names: Iterable[str]) -> list[int]:
    return [list(MODALITIES).index(name) for name in names]
