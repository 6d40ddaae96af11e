"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from slimbind.evaluate.report.numbers import shown


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("top1", 0.713, "71.3 %"),
        ("R@10", 1.0, "100.0 %"),
        ("text to vision R@1", 0.25, "25.0 %"),
        ("accuracy", 0.5, "50.0 %"),
        ("top-1 difference", -0.0123, "-1.2 points"),
        ("text to vision R@1 difference", 0.004, "+0.4 points"),
        ("mean class recall difference", -1e-9, "0.0 points"),
        ("text to vision median rank difference", 1.5, "+1.5"),
        ("text to vision median rank difference", 0.0, "0"),
        ("mean absolute difference", 0.0123, "0.0123"),
        ("cosine_min", 0.987654, "0.98765"),
        ("bytes", 2048.0, "2.0 KiB"),
        ("peak_bytes", 3 << 20, "3.0 MiB"),
        ("p99_seconds", 0.00123, "1.23 ms"),
        ("seconds", 12.345, "12.3 s"),
        ("seconds", 4e-6, "4 \u00b5s"),
        ("size_ratio", 3.999, "4.00x"),
        ("median_rank", 3.0, "3"),
        ("items_per_second", 12345.678, "12,345.7"),
        ("anything", 0.123456, "0.1235"),
        ("mean shift", -1e-9, "0.0000"),
        ("input dB", 12.34, "12.3 dB"),
        ("anything", 10**400, "beyond all numbers"),
        ("anything", None, "-"),
        ("anything", True, "yes"),
        ("anything", "text", "text"),
        ("anything", math.nan, "not a number"),
        ("top1", -math.inf, "-infinite"),
    ],
)
def test_the_name_of_a_measure_decides_its_unit(name, value, told):
    assert shown(name, value) == told
