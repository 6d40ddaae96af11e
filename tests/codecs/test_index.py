"""CodeIndex: what is added is found, what is removed is not, however it is asked, stored or shared."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.codecs import CodeIndex, choose, fit
from slimbind.errors import CollectionError, UsageError

DIM = 32
CODECS = ["f32", "sq8", "sq4", "pq8x4fs", "pq8x5", "rabitq1", "rabitq3", "binary", "sq4,refine(original)"]
LISTED = ["f32", "f16", "sq8", "sq4", "pq8x4fs", "opq8x4fs", "pq8x5", "binary(int4)", "pq16x4fs,refine(sq8)"]


def vectors(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def made(codec: str, x: np.ndarray, *, kind: str = "flat", keys: np.ndarray | None = None, **options) -> CodeIndex:
    index = CodeIndex.build(codec, x.shape[1], kind=kind, expected=len(x), **options)
    index.train(x)
    index.add(np.arange(len(x)) if keys is None else keys, x)
    return index


def fetcher(x: np.ndarray):
    return lambda keys: x[keys]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("codec", LISTED)
def test_a_batch_gives_what_each_query_alone_gives(codec: str, kind: str) -> None:
    x, q = vectors(1500), vectors(40, seed=1)
    index = made(codec, x, kind=kind)
    scores, keys = index.search(q, 7, fetch=fetcher(x))
    for i in range(len(q)):
        alone_scores, alone_keys = index.search(q[i : i + 1], 7, fetch=fetcher(x))
        np.testing.assert_array_equal(alone_keys[0], keys[i])
        np.testing.assert_array_equal(alone_scores[0], scores[i])


@pytest.mark.parametrize("codec", CODECS)
def test_only_allowed_keys_are_found_and_all_of_the_best(codec: str) -> None:
    x, q = vectors(3000), vectors(6, seed=1)
    index = made(codec, x, keys=np.arange(3000) * 3 + 5)
    everything = index.search(q, 3000, fetch=lambda keys: x[(keys - 5) // 3])
    rng = np.random.default_rng(2)
    for count in (1, 40, 1500, 2990):
        allowed = rng.choice(3000, count, replace=False) * 3 + 5
        noise = np.array([0, 1, 10**12])  # keys that are not there
        scores, keys = index.search(
            q, 10, allowed=np.concatenate([allowed, noise]), fetch=lambda keys: x[(keys - 5) // 3], oversample=60
        )
        for row, (all_scores, all_keys) in enumerate(zip(*everything, strict=True)):
            best = all_scores[np.isin(all_keys, allowed)][:10]
            np.testing.assert_allclose(scores[row, : len(best)], best, atol=2e-6)
            assert np.isin(keys[row, : len(best)], allowed).all()
            assert (keys[row, len(best) :] == -1).all() and np.isneginf(scores[row, len(best) :]).all()
    scores, keys = index.search(q, 3, allowed=[], fetch=fetcher(x))
    assert (keys == -1).all()


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("codec", ["f32", "sq8", "sq4", "pq8x5", "pq16x4fs,refine(sq8)"])
def test_any_order_of_changes_ends_in_the_same_answers(codec: str, kind: str) -> None:
    x, q = vectors(4000), vectors(8, seed=1)
    index = CodeIndex.build(codec, DIM, kind=kind, expected=4000)
    index.train(x)
    rng = np.random.default_rng(5)
    alive: dict[int, int] = {}  # key: row of x
    for step in range(12):
        keys = rng.choice(2500, rng.integers(1, 900), replace=False)
        if step % 3 == 2:
            assert index.remove(keys) == sum(int(key) in alive for key in keys)
            for key in keys:
                alive.pop(int(key), None)
        else:
            rows = rng.choice(4000, len(keys), replace=False)
            index.add(keys, x[rows])
            alive.update(zip(keys.tolist(), rows.tolist(), strict=True))
    assert len(index) == len(alive) and next(iter(alive)) in index and 2501 not in index
    if kind == "ivf":
        index.probes = index.lists
    fresh = CodeIndex.build(codec, DIM)
    fresh.train(x)
    fresh.add(np.array(list(alive)), x[list(alive.values())])
    found, expected = index.search(q, 10), fresh.search(q, 10)
    np.testing.assert_allclose(found[0], expected[0], atol=2e-6)
    assert (found[1] == expected[1]).mean() > 0.98  # equal scores may come in another order


@pytest.mark.parametrize("codec", ["rabitq1", "rabitq3", "sq4", "pq8x4fs"])
def test_lists_hold_the_codes_of_a_flat_scan(codec: str) -> None:
    """So that a score does not depend on how codes are searched, also after removing, saving and adding again."""
    x, q = vectors(900), vectors(20, 1)
    flat, listed = made(codec, x), made(codec, x, kind="ivf")
    assert listed.lists > 4
    for index in (flat, listed):
        index.remove(np.arange(100, 900, 2))  # enough of them to be compacted
        index.add(np.arange(1000, 1200), vectors(200, 2))
    listed.probes = listed.lists
    scores, keys = flat.search(q, 5)
    again, others = listed.search(q, 5)
    np.testing.assert_allclose(again, scores, atol=1e-5)
    assert (others == keys).mean() > 0.95  # but for scores that differ in the last digit
    rows = np.arange(0, 700, 7)
    np.testing.assert_allclose(listed._scan.decoded(rows), flat._scan.decoded(rows), atol=1e-5)


def test_dead_rows_are_given_back() -> None:
    x = vectors(6000)
    index = made("sq4", x)
    before = index.bytes
    index.remove(np.arange(5000))
    assert len(index) == 1000 and index.bytes < before / 4
    scores, keys = index.search(x[5500:5501], 1)
    assert keys[0, 0] == 5500


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("codec", LISTED)
def test_a_saved_index_answers_the_same(codec: str, kind: str, tmp_path: Path) -> None:
    x, q = vectors(1500), vectors(9, seed=1)
    index = made(codec, x, kind=kind, transform=fit(x, {"text": vectors(500, 3) + 0.2}, gate=0))
    index.remove(np.arange(0, 300, 7))
    index.save(tmp_path / "codes")
    again = CodeIndex.load(tmp_path / "codes")
    assert (len(again), str(again.spec), again.kind, again.bytes) == (len(index), codec, kind, index.bytes)
    for options in ({}, {"allowed": np.arange(100, 900)}):
        for mine, theirs in zip(index.search(q, 9, **options), again.search(q, 9, **options), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    again.add([10_000], q[:1])  # and can be changed
    assert again.search(q[:1], 1)[1][0, 0] == 10_000
    assert again.remove([10_000]) == 1


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "codes"
    made("rabitq1", vectors(300)).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in [0, 16, 20, 90, len(whole) - 1, *rng.integers(0, len(whole), 40)]:
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(bytes(broken))
        with pytest.raises(CollectionError):
            CodeIndex.load(path)
    for end in (0, 10, 100, len(whole) // 2):
        path.write_bytes(whole[:end])
        with pytest.raises(CollectionError):
            CodeIndex.load(path)
    with pytest.raises(CollectionError, match="cannot be read"):
        CodeIndex.load(tmp_path / "nothing")


def test_the_original_scores_are_returned_after_refining() -> None:
    x, q = vectors(2000), vectors(5, seed=1)
    asked: list[np.ndarray] = []

    def fetch(keys: np.ndarray) -> np.ndarray:
        asked.append(keys)
        return x[keys] * 3  # any length: what is compared is normalised

    index = made("binary,refine(original)", x)
    scores, keys = index.search(q, 10, fetch=fetch, oversample=50)
    exact = q @ x.T
    np.testing.assert_allclose(scores, np.take_along_axis(exact, keys, 1), atol=1e-6)
    np.testing.assert_array_equal(keys, np.argsort(-exact, axis=1)[:, :10])
    assert len(asked) == 1 and len(np.unique(asked[0])) == len(asked[0])  # one call, each key once
    with pytest.raises(UsageError, match="needs the original vectors"):
        index.search(q, 10)
    with pytest.raises(UsageError, match="1 vectors were fetched"):
        index.search(q, 10, fetch=lambda keys: x[:1])


def test_refining_twice_fetches_fewer_originals() -> None:
    x, q = vectors(3000), vectors(4, seed=1)
    counts = {}
    for codec in ("binary,refine(original)", "binary,refine(sq8),refine(original)"):
        seen: list[int] = []

        def fetch(keys: np.ndarray, seen: list[int] = seen) -> np.ndarray:
            seen.append(len(keys))
            return x[keys]

        scores, keys = made(codec, x).search(q, 5, oversample=200, fetch=fetch)
        np.testing.assert_array_equal(keys, np.argsort(-(q @ x.T), axis=1)[:, :5])
        counts[codec] = seen[0]
    assert counts["binary,refine(sq8),refine(original)"] * 5 < counts["binary,refine(original)"]


def test_a_transform_changes_codes_but_not_what_scores_mean() -> None:
    x = vectors(2000) + 0.15
    q = vectors(300, seed=1) * np.geomspace(2, 0.1, DIM).astype(np.float32) - 0.1
    transform = fit(x, {"text": q}, gate=0)
    exact = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    scores, keys = made("f32", x, transform=transform).search(q, 10)
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :10], atol=1e-5)
    assert made("rabitq1", x, transform=transform).search(q, 10)[0].shape == (300, 10)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 70), k=st.integers(1, 90), removed=st.integers(0, 70), codec=st.sampled_from(CODECS[:3]))
def test_there_may_be_fewer_than_k(count: int, k: int, removed: int, codec: str) -> None:
    x = vectors(200)
    index = CodeIndex.build(codec, DIM)
    index.train(x)
    index.add(np.arange(count), x[:count])
    gone = index.remove(np.arange(removed))
    assert gone == min(count, removed)
    scores, keys = index.search(x[100:103], k)
    assert scores.shape == keys.shape == (3, k)
    for row in range(3):
        valid = keys[row] >= 0
        assert valid.sum() == min(k, count - gone) and valid[: valid.sum()].all()
        assert sorted(set(keys[row, valid])) == sorted(keys[row, valid])
        assert (np.diff(scores[row, valid]) <= 0).all()


def test_searches_run_beside_each_other_and_beside_changes() -> None:
    x, q = vectors(4000), vectors(20, seed=1)
    index = made("pq16x4fs,refine(sq8)", x[:3000])
    expected = index.search(q, 5, allowed=np.arange(1000))
    errors: list[BaseException] = []
    stop = threading.Event()

    def search() -> None:
        try:
            while not stop.is_set():
                found = index.search(q, 5, allowed=np.arange(1000))
                np.testing.assert_array_equal(found[1], expected[1])
                np.testing.assert_array_equal(found[0], expected[0])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for at in range(3000, 4000, 50):
        index.add(np.arange(at, at + 50), x[at : at + 50])
        index.remove(np.arange(at - 2000, at - 1960))
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    assert len(index) == 4000 - 20 * 40


def test_keys_that_count_up_cost_nothing() -> None:
    x = vectors(2000)
    assert made("sq4", x).bytes == 2000 * 16
    assert made("sq4", x, keys=np.arange(2000) + 70).bytes == 2000 * 16
    assert made("sq4", x, keys=np.arange(2000) * 2).bytes == 2000 * (16 + 4)
    assert made("sq4", x, keys=np.arange(2000) * 2 + (1 << 40)).bytes == 2000 * (16 + 8)


def test_size_chooses_codec_and_kind() -> None:
    assert choose(500, 512) == ("f32", "flat")
    assert choose(50_000, 512) == ("sq4,refine(original)", "flat")
    codec, kind = choose(2_000_000, 512)
    assert kind == "ivf" and codec.endswith("refine(original)")
    assert CodeIndex.build("sq8", 8, expected=2_000_000).kind == "ivf"
    assert CodeIndex.build("sq8", 8, expected=2_000).kind == "flat"
    assert CodeIndex.build("rabitq1", 8, expected=2_000_000).kind == "ivf"
    assert CodeIndex.build("binary(hamming)", 8, expected=2_000_000).kind == "flat"
    assert CodeIndex.build(choose(2_000_000, 7)[0], 7).dim == 7


def test_what_cannot_be_done_is_refused() -> None:
    x = vectors(100)
    index = made("sq8", x)
    with pytest.raises(UsageError, match="k is 0"):
        index.search(x, 0)
    with pytest.raises(UsageError, match="oversample is 0.5"):
        index.search(x, 1, oversample=0.5)
    with pytest.raises(UsageError, match=r"queries of shape \[32\]"):
        index.search(x[0], 1)
    with pytest.raises(UsageError, match="a key is given twice"):
        index.add([1, 1], x[:2])
    with pytest.raises(UsageError, match="2 keys for 3 vectors"):
        index.add([1, 2], x[:3])
    with pytest.raises(UsageError, match="a key of -4"):
        index.add([-4], x[:1])
    with pytest.raises(UsageError, match="keys of type float64"):
        index.remove([1.5])
    with pytest.raises(UsageError, match="cannot be trained again"):
        index.train(x)
    with pytest.raises(UsageError, match="no lists to look into"):
        index.probes = 3
    with pytest.raises(UsageError, match="unknown kind of index 'tree'"):
        CodeIndex.build("sq8", DIM, kind="tree")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must be trained first"):
        CodeIndex.build("sq8", DIM).add([1], x[:1])
    with pytest.raises(UsageError, match="must be trained first"):
        CodeIndex.build("sq8", DIM).save("nowhere")
    with pytest.raises(UsageError, match="a transform of 8 dimensions"):
        CodeIndex.build("sq8", DIM, transform=fit(vectors(50, dim=8), {"text": vectors(50, 1, 8)}, gate=0))
    listed = made("sq8", vectors(500), kind="ivf")
    with pytest.raises(UsageError, match="0 lists to look into; allowed: 1 to"):
        listed.probes = 0
    broken = x[:2].copy()
    broken[1, 3] = np.inf
    with pytest.raises(UsageError, match="row 1 holds NaN or infinity"):
        index.add([500, 501], broken)
    assert 500 not in index  # nothing of a refused call is kept
