"""Schemes: found by name, set by text, stored as plain records, and read back as nothing else."""

from __future__ import annotations

import inspect
import json
from importlib import import_module

import pytest

from slimbind.errors import ArtifactVersionError, UsageError
from slimbind.quantize.schemes import SCHEMES, Int4Weight, Int8Static, Make, Mixed, from_record, scheme


@pytest.mark.parametrize("name", SCHEMES)
def test_a_record_gives_the_same_settings_again(name):
    config = scheme(name)
    record = json.loads(json.dumps(config.to_record())) | {"report": {"layers": 3}, "calibration": "abc"}
    assert record["type"] == name and record["version"] == 1
    assert from_record(record) == config


def test_settings_come_as_text():
    assert scheme("int4-weight", {"group": "128", "method": "nearest"}) == Int4Weight(group=128, method="nearest")
    assert scheme("int8-static", {"plain": "yes", "most_kept": "0.1"}) == Int8Static(plain=True, most_kept=0.1)
    assert scheme("int8-static", {"plain": "false"}) == Int8Static()
    assert scheme("mixed", {"max_size": "1000", "min_fidelity": ".99"}) == Mixed(max_size=1000, min_fidelity=0.99)
    assert scheme("mixed", {"recipe": "{}"}) == Mixed(recipe="{}")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("int9", {}, "unknown scheme 'int9'; allowed: bf16, .*mixed"),
        ("bf16", {"group": "3"}, r"unknown setting of bf16 'group'; allowed: \(none\)"),
        ("int4-weight", {"group": "big"}, "int4-weight: group cannot be 'big'; allowed: a whole number"),
        ("int4-weight", {"method": "luck"}, "method cannot be 'luck'; allowed: gptq, importance, nearest"),
        ("int8-static", {"plain": "maybe"}, "plain cannot be 'maybe'; allowed: true, false"),
    ],
)
def test_wrong_settings_are_told(name, settings, message):
    with pytest.raises(UsageError, match=message):
        scheme(name, settings)


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"type": "os.system", "version": 1}, UsageError, "unknown scheme 'os.system'"),
        ({"version": 1}, UsageError, "unknown scheme None"),
        ({"type": "bf16", "version": 2}, ArtifactVersionError, "bf16 has version 2; this slimbind knows up to 1"),
        ({"type": "bf16"}, ArtifactVersionError, "bf16 has version None"),
        ({"type": "int4-weight", "version": 1, "group": "64"}, UsageError, "group is '64'"),
        ({"type": "int4-weight", "version": 1, "group": True}, UsageError, "group is True"),
        ({"type": "int4-weight", "version": 1, "method": "luck"}, UsageError, "method is 'luck'"),
        ({"type": "mixed", "version": 1, "max_size": [1]}, UsageError, r"max_size is \[1\]"),
    ],
)
def test_records_that_are_none_are_refused(record, error, message):
    with pytest.raises(error, match=message):
        from_record(record)


def test_a_scheme_cannot_be_changed():
    with pytest.raises(AttributeError):
        scheme("int4-weight").group = 3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("int4-weight", {"group": "0"}),
        ("int4-weight", {"group": "-16"}),
        ("int8-static", {"least": "nan"}),
        ("int8-static", {"least": "7"}),
        ("int8-static", {"most_kept": "-3"}),
    ],
)
def test_settings_without_sense_are_refused_at_once(name, settings):
    with pytest.raises(UsageError, match=f"{name}: {next(iter(settings))} is"):
        scheme(name, settings)


def test_what_is_fine_tuned_depends_on_the_data():
    assert scheme("int8-weight", {"qat_steps": "1"}).looks_at_data and not scheme("int8-weight").looks_at_data


def test_every_maker_is_called_alike():
    wanted = list(inspect.signature(Make.__call__).parameters)[1:]
    for name, kind in SCHEMES.items():
        module, _, function = kind.maker.partition(":")
        found = inspect.signature(getattr(import_module(module), function)).parameters
        assert list(found) == wanted, name
        assert {parameter.kind for parameter in found.values()} == {inspect.Parameter.POSITIONAL_ONLY}, name
