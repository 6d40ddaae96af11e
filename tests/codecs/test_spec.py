"""Names of codecs: read, written back, and refused with what is allowed."""

from __future__ import annotations

import pytest

from slimbind.codecs.spec import parse
from slimbind.errors import UsageError


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("f32", 2048),
        ("f16", 1024),
        ("sq8", 512),
        ("sq4", 256),
        ("pq64x8", 64),
        ("pq128x6", 96),
        ("opq64x4", 32),
        ("pq128x4fs", 64),
        ("opq128x4fs", 64),
        ("rabitq1", 72),
        ("rabitq2", 148),
        ("rabitq4", 276),
        ("binary", 64),
        ("binary(int4)", 64),
        ("binary(hamming)", 64),
        ("rabitq1,refine(sq8)", 584),
        ("rabitq4,refine(original)", 276),
        ("pq128x4fs,refine(pq64x8)", 128),
        ("pq128x4fs,refine(pq64x8),refine(original)", 128),
    ],
)
def test_a_name_comes_back_and_says_its_bytes(name: str, size: int) -> None:
    spec = parse(name, 512)
    assert str(spec) == name
    assert spec.bytes_per_vector == size
    assert parse(str(spec), 512) == spec


def test_odd_lengths_take_whole_bytes() -> None:
    assert parse("sq4", 7).bytes_per_vector == 4
    assert parse("binary", 9).bytes_per_vector == 2


def test_spaces_and_capitals_are_forgiven() -> None:
    assert str(parse(" RaBitQ1, refine( SQ8 ) ", 64)) == "rabitq1,refine(sq8)"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sq5", "unknown codec 'sq5'; allowed: .*sq8"),
        ("rabitq5", "unknown codec 'rabitq5'"),
        ("", "unknown codec ''"),
        ("sq8,refine(sq9)", "unknown codec 'sq9'"),
        ("sq8,refine(sq4,refine(f16))", "is not refine"),
        ("sq8,refine(original),refine(f16)", "refine is said once"),
        ("sq8,refine(f16),refine(f32)", "refine is said once"),
        ("pq7x8", "64 dimensions cannot be cut into 7 equal parts .*divides 64 is 4"),
        ("pq0x8", "cannot be cut into 0"),
        ("pq8x99", "99 bits for each part; allowed: 1 to 12"),
        ("pq8x8fs", "FastScan needs 4 bits"),
    ],
)
def test_a_wrong_name_is_refused_with_what_is_allowed(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(name, 64)


def test_no_dimensions_are_refused() -> None:
    with pytest.raises(UsageError, match="0 dimensions"):
        parse("sq8", 0)
