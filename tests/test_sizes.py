"""Sizes are read as people write them, and told in a unit that shows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimbind.errors import UsageError
from slimbind.sizes import at_least, binary, decimal, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (5, 5),
        ("5", 5),
        ("2GB", 2 * 10**9),
        ("2 GiB", 2 << 30),
        ("1.5mb", 1_500_000),
        (" 7 KiB ", 7168),
        ("3b", 3),
        ("9" * 400, 1 << 62),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "2 parsecs", "-1", "0", 0, -5, True, "1e9", 1.5])
def test_senseless_sizes_are_errors_that_show_the_way(text):
    with pytest.raises(UsageError, match="size is .*2GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "two", "ten"),
    [
        (0, "0 bytes", "0 bytes"),
        (10, "10 bytes", "10 bytes"),
        (1023, "1023 bytes", "1.0 KB"),
        (1024, "1.0 KiB", "1.0 KB"),
        (999_960, "976.5 KiB", "1.0 MB"),
        (1 << 20, "1.0 MiB", "1.0 MB"),
        (25_600_000, "24.4 MiB", "25.6 MB"),
        (5 << 40, "5120.0 GiB", "5497.6 GB"),
    ],
)
def test_sizes_are_told_in_a_unit_that_shows_them(size, two, ten):
    assert (binary(size), decimal(size)) == (two, ten)


@given(st.integers(1, 1 << 50))
def test_what_is_to_be_asked_for_is_enough_and_little_more(size):
    asked = parse_bytes(at_least(size))
    assert size <= asked <= size * 1.1 + 1
