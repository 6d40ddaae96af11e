"""Rows that are appended to: equal to all of them at once, and hardly ever copied."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.codecs import CodeIndex
from slimbind.codecs.growing import Growing
from slimbind.codecs.keys import KeyMap


@settings(deadline=None)
@given(st.lists(st.integers(0, 7), max_size=30), st.integers(0, 3))
def test_appending_is_concatenating_and_old_rows_stay(sizes: list[int], first: int) -> None:
    grown = Growing(np.arange(first * 2).reshape(first, 2))
    parts, handed = [grown.rows.copy()], [grown.rows]
    for number, size in enumerate(sizes):
        part = np.full((size, 2), number)
        grown.append(part)
        parts.append(part)
        handed.append(grown.rows)
    for number, rows in enumerate(handed):
        np.testing.assert_array_equal(rows, np.concatenate(parts[: number + 1]))
    assert len(grown) == first + sum(sizes)


def addresses(change, arrays, steps: int) -> int:
    """In how many places the arrays lay, over all steps together."""
    seen = set()
    for step in range(steps):
        change(step)
        seen |= {(name, array.__array_interface__["data"][0]) for name, array in arrays().items()}
    return len(seen)


def test_adding_one_by_one_hardly_ever_copies_what_is_there() -> None:
    """With a copy for each, a million items in steps would copy themselves a thousand times."""
    rng = np.random.default_rng(0)
    index = CodeIndex.build("rabitq1,refine(sq8)", 16)
    index.train(rng.standard_normal((100, 16)))

    def arrays() -> dict[str, np.ndarray]:
        keys = {name: array for name, array in index._keys.dump().items() if name != "first"}
        return {"codes": index._fine_codes.rows, **keys}

    def change(step: int) -> None:
        index.add([3 * step], rng.standard_normal((1, 16)))  # a gap between the keys, so that they are kept
        if step == 2:
            index.remove([0])  # and a mask of those that live

    assert addresses(change, arrays, 500) < 60  # three arrays, each half as long again when it is full
    assert len(index) == 499


def test_keys_that_are_higher_than_all_others_are_new_without_a_look() -> None:
    keys = KeyMap()
    keys.add(np.array([5, 9, 2]))
    assert not len(keys.find(np.array([10, 11])))
    assert keys._order is None
    np.testing.assert_array_equal(np.sort(keys.find(np.array([2, 9, 11]))), [1, 2])


@settings(deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.integers(0, 40), st.integers(2**32 - 3, 2**33)), max_size=6), max_size=8),
    st.data(),
)
def test_keys_of_any_size_are_found_again(batches: list[list[int]], data: st.DataObject) -> None:
    keys, there = KeyMap(), {}
    for batch in batches:
        new = np.array(sorted(set(batch) - there.keys()), np.int64)
        start = keys.rows
        keys.add(new)
        there |= {int(key): start + place for place, key in enumerate(new)}
        if there and data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(there)))
            keys.remove(keys.find(np.array([gone])))
            del there[gone]
        if data.draw(st.booleans()):
            again = KeyMap()
            again.fill(keys.dump(), keys.rows)
            keys = again
    every = np.array(sorted({key for batch in batches for key in batch}), np.int64)
    rows = keys.find(every)
    assert sorted(rows.tolist()) == sorted(there.values())
    assert dict(zip(keys.at(rows).tolist(), rows.tolist(), strict=True)) == there
