"""Rows come back in the order of the items, whatever their modality, and one bad item stops nothing."""

from __future__ import annotations

from itertools import count, islice

import numpy as np
import pytest

from slimbind.bulk import Item, Reader, embed_items
from slimbind.bulk import embedding as module
from slimbind.errors import MediaError, UsageError


def test_mixed_items_keep_their_order_and_equal_the_models_own_vectors(toy, toy_folder, monkeypatch):
    monkeypatch.setattr(module, "_WINDOW", 4)  # several windows
    reader = Reader("toy", toy.modalities)
    items = [*reader.texts(["red", "blue"]), *reader.paths([str(toy_folder)]), *reader.texts(["whistle"])]
    rows = list(embed_items(toy, items, batch_size=2))
    assert [row.item for row in rows] == items
    for row in rows:
        alone = toy.embed([row.item.source], row.item.modality)[0]
        np.testing.assert_allclose(row.vector, alone, atol=1e-6)


def test_a_bad_item_is_a_row_with_its_reason_and_the_rest_is_done(toy, toy_folder):
    (toy_folder / "a.png").write_bytes(b"")
    (toy_folder / "b.png").write_text("this is no picture")
    whole = (toy_folder / "green.jpg").read_bytes()
    (toy_folder / "c.jpg").write_bytes(whole[: len(whole) // 2])
    known = Item("gone.png", "", error=MediaError("gone.png", "no such file"))
    items = [known, *Reader("toy", toy.modalities).paths([str(toy_folder)])]
    rows = {row.item.id.rsplit("/", 1)[-1]: row for row in embed_items(toy, items)}
    assert {name for name, row in rows.items() if row.error} == {"gone.png", "a.png", "b.png", "c.jpg"}
    assert rows["gone.png"].reason == "no such file"
    assert "empty" in rows["a.png"].reason
    assert all(row.reason and str(toy_folder) not in row.reason for row in rows.values() if row.error)
    assert rows["red.png"].reason == ""


def test_items_are_taken_as_they_are_needed(toy):
    taken = []

    def endless():
        for n in count():
            taken.append(n)
            yield Item(str(n), "text", "red")

    rows = list(islice(embed_items(toy, endless()), 10))
    assert len(rows) == 10
    assert len(taken) <= module._WINDOW


def test_results_come_as_soon_as_they_are_there(toy):
    """With one modality a row does not wait for the rest of the window."""
    done = []
    rows = embed_items(
        toy, (Item(str(n), "text", "red") for n in range(250)), batch_size=1, on_done=lambda: done.append(1)
    )
    next(rows)
    assert 1 <= len(done) < 100
    assert len(list(rows)) == 249
    assert len(done) == 250


def test_everything_is_counted_as_done_once(toy, toy_folder):
    done = []
    reader = Reader("toy", toy.modalities)
    items = [Item("x", "", error=MediaError("x", "bad")), *reader.texts(["red"]), *reader.paths([str(toy_folder)])]
    assert len(list(embed_items(toy, items, on_done=lambda: done.append(1)))) == len(items) == len(done)


def test_only_the_towers_needed_are_opened(toy):
    toy.unload()
    list(embed_items(toy, [Item("a", "text", "red")]))
    assert set(toy.loaded) == {"text"}


def test_a_modality_the_model_lacks_is_not_an_items_fault(toy):
    with pytest.raises(UsageError, match="depth"):
        list(embed_items(toy, [Item("a", "depth", "red")]))
