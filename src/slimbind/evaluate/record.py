"""What an evaluation found, as one plain record: numbers with intervals, how they were got, on what machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from slimbind.errors import ArtifactVersionError, UsageError

if TYPE_CHECKING:
    from slimbind.runtime.model import Model

VERSION = 1
_KEY = "slimbind_evaluation"  # holds the version; its presence says what the document is
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Estimate:
    """One number measured on a sample.

    Args:
        value: the number.
        low: lower end of its 95 % interval; None where there is no interval.
        high: upper end.
        n: how many items it is from.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Record:
    """One evaluation of one model.

    Args:
        task: ``zero-shot``, ``linear-probe``, ``retrieval``, ...: says what ``details`` holds.
        title: what was evaluated, for people.
        model: the model's name as it was given.
        settings: what has to be repeated to get the same numbers: data, templates, seed, ...
        measures: the numbers, by name, in the order they are shown in.
        details: what a report draws, as plain JSON; its keys are those of the task.
        failed: items that could not be evaluated, and why.
        environment: see ``environment``.
    """

    task: str
    title: str
    model: str
    settings: Mapping[str, JsonValue] = field(default_factory=dict)
    measures: Mapping[str, Estimate] = field(default_factory=dict)
    details: Mapping[str, JsonValue] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()
    environment: Mapping[str, JsonValue] = field(default_factory=dict)

    __pydantic_config__ = _STRICT

    def to_dict(self) -> dict[str, Any]:
        """The record as what ``json`` writes, its format's version first."""
        return {_KEY: VERSION, **_adapter().dump_python(self, mode="json")}

    def to_json(self) -> str:
        """The record as a JSON document.

        Raises:
            ValueError: a number is NaN or infinite, which JSON cannot say.
        """
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str | bytes) -> Record:
        """Read what ``to_json`` wrote.

        Raises:
            UsageError: it is no such document: no JSON, a key too many or too few, a value of another type.
            ArtifactVersionError: it was written by a newer slimbind.
        """
        try:
            told = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"this is no record of an evaluation: {error}", hint=_MEND) from error
        version = told.pop(_KEY, None) if isinstance(told, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise UsageError(f"this is no record of an evaluation: {_KEY} is not said", hint=_MEND)
        if version > VERSION:
            raise ArtifactVersionError(
                f"the record has format {version}; this slimbind reads up to {VERSION}", hint="update slimbind"
            )
        try:
            return _adapter().validate_json(json.dumps(told))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"the record of an evaluation is wrong at {place}: {first['msg']}", hint=_MEND) from error


_MEND = "give a file that `slimbind eval ... --json` wrote"


@cache
def _adapter() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def environment(model: Model | None = None) -> dict[str, JsonValue]:
    """What the numbers were measured on: time, versions, CPU and, with a model, its towers and their encoder ids."""
    import os
    import platform
    from datetime import datetime, timezone
    from importlib.metadata import PackageNotFoundError, version

    from slimbind import __version__
    from slimbind.runtime.cpu import this_cpu

    found: dict[str, JsonValue] = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "slimbind": __version__,
        "cpu": this_cpu().name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for package in ("numpy", "openvino", "onnxruntime", "torch", "faiss-cpu", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if model is not None:
        found["model"] = model.id
        found["device"] = str(model.device)
        found["towers"] = {
            name: {
                "encoder": model.encoder(name).id,
                "engine": model.artifact.tower(name).engine,
                "scheme": model.artifact.tower(name).scheme,
            }
            for name in model.modalities
        }
    return found
