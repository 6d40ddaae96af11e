"""Every codec: codes of the promised size, scores that are dot products with decoded vectors, one like many."""

from __future__ import annotations

import numpy as np
import pytest

from slimbind.codecs import Codec, CodeIndex, open_codec, parse
from slimbind.errors import UsageError

DIM = 48
NAMES = [
    "f32",
    "f16",
    "sq8",
    "sq4",
    "pq12x8",
    "pq12x5",
    "pq16x4",
    "pq16x4fs",
    "opq12x4",
    "opq16x4fs",
    "rabitq1",
    "rabitq2",
    "rabitq3",
    "rabitq4",
    "binary",
    "binary(int4)",
    "binary(hamming)",
]
# The squared error that is left, as a share of the variance of Gaussian data: what the number of bits allows.
LEFT = {"f32": 1e-12, "f16": 1e-5, "sq8": 1e-3, "sq4": 0.02, "rabitq4": 0.02, "rabitq3": 0.08, "rabitq2": 0.3}


def vectors(count: int = 800, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Unit vectors around a mean, of very different spread by dimension."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, dim)) * np.geomspace(3, 0.03, dim) + 0.5
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def made(name: str, dim: int = DIM) -> Codec:
    codec = open_codec(name, dim)
    codec.train(vectors(dim=dim))
    return codec


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_dot_products_with_decoded_vectors(name: str) -> None:
    codec, x, q = made(name), vectors(seed=1), vectors(9, seed=2)
    codes = codec.encode(x)
    assert codes.dtype == np.uint8 and codes.shape == (len(x), parse(name, DIM).bytes_per_vector)
    decoded = codec.decode(codes)
    asked = codec.asked(q)
    np.testing.assert_allclose(codec.score(q, codes), asked @ decoded.T, atol=2e-6)
    if "(" not in name:  # queries stay as they are
        np.testing.assert_array_equal(asked, q)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("name", NAMES)
def test_search_scores_are_dot_products_with_decoded_vectors(name: str, kind: str) -> None:
    spec = parse(name, DIM)
    if kind == "ivf" and not spec.has_lists:
        with pytest.raises(UsageError, match="has no lists"):
            CodeIndex.build(spec, DIM, kind="ivf")
        return
    x, q = vectors(seed=1), vectors(9, seed=2)
    index = CodeIndex.build(spec, DIM, kind=kind, expected=len(x))
    index.train(vectors())
    index.add(np.arange(len(x)), x)
    scores, keys = index.search(q, 10)
    expected = index.codec.score(q, index.codec.encode(x))
    valid = keys >= 0
    assert valid.all() or kind == "ivf"
    np.testing.assert_allclose(scores[valid], np.take_along_axis(expected, keys, 1)[valid], atol=2e-6)
    if kind == "flat":  # and the highest there are
        np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :10], atol=2e-6 if "h" not in name else 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_one_vector_is_encoded_as_the_many_were(name: str) -> None:
    codec, x = made(name), vectors(20, seed=1)
    alone = np.concatenate([codec.encode(x[i : i + 1]) for i in range(len(x))])
    together = codec.encode(x)
    if "rabitq" in name or "opq" in name:  # a rotation adds in another order for one row
        np.testing.assert_allclose(codec.decode(alone), codec.decode(together), atol=2e-2)
        assert (alone == together).mean() > 0.95
    else:
        np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("name", NAMES)
def test_its_state_makes_the_same_codec(name: str) -> None:
    codec, x = made(name), vectors(20, seed=1)
    again = Codec.from_state(name, DIM, codec.state())
    np.testing.assert_array_equal(again.encode(x), codec.encode(x))
    np.testing.assert_array_equal(again.decode(codec.encode(x)), codec.decode(codec.encode(x)))


@pytest.mark.parametrize("name", sorted(LEFT))
def test_it_keeps_what_its_bits_allow(name: str) -> None:
    codec, x = made(name), vectors(2000, seed=1)
    error = ((codec.decode(codec.encode(x)) - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert error < LEFT[name]


def test_four_bits_keep_the_length_of_what_lies_far_out() -> None:
    """What scores highest lies far out, and would be cut short at the ends of the ranges, each vector otherwise."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3000, 64)).astype(np.float32)
    x *= rng.lognormal(0, 0.3, (3000, 1)).astype(np.float32)
    codec = open_codec("sq4", 64)
    codec.train(x)

    def along(codes: np.ndarray) -> np.ndarray:
        """Dot products of decoded vectors with the originals, over what they should be."""
        return np.einsum("nd,nd->n", codec.decode(codes), x) / np.einsum("nd,nd->n", x, x)

    far = np.argsort(-np.linalg.norm(x, axis=1))[:300]
    before, after = along(codec.quantizer.compute_codes(x)), along(codec.encode(x))
    assert np.abs(after[far] - 1).mean() < np.abs(before[far] - 1).mean() / 2
    assert np.abs(after - 1).mean() < np.abs(before - 1).mean() / 2


def test_a_vector_that_is_the_mean_itself_is_encoded() -> None:
    codec = open_codec("sq4", 8)
    codec.train(np.concatenate([vectors(50, dim=8), -vectors(50, dim=8)]))
    tiny = np.full((1, 8), 1e-30, np.float32)
    assert np.isfinite(codec.decode(codec.encode(tiny))).all()


@pytest.mark.parametrize("name", ["rabitq1", "rabitq4", "binary", "sq4", "f16"])
@pytest.mark.parametrize("dim", [7, 33])
def test_odd_lengths(name: str, dim: int) -> None:
    x, q = vectors(100, 1, dim), vectors(5, 2, dim)
    index = CodeIndex.build(name, dim, kind="flat")
    index.train(vectors(dim=dim))
    index.add(np.arange(100), x)
    scores, keys = index.search(q, 5)
    expected = index.codec.score(q, index.codec.encode(x))
    np.testing.assert_allclose(scores, np.take_along_axis(expected, keys, 1), atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_encoded_is_refused(name: str) -> None:
    codec = made(name)
    good = vectors(3)
    for bad, said in [(np.nan, "row 1 holds NaN or infinity"), (np.inf, "row 1 holds NaN or infinity")]:
        broken = good.copy()
        broken[1, 5] = bad
        with pytest.raises(UsageError, match=said):
            codec.encode(broken)
        with pytest.raises(UsageError, match=said):
            codec.score(broken, codec.encode(good))
    broken = good.copy()
    broken[2] = 0
    with pytest.raises(UsageError, match="row 2 is all zeros"):
        codec.encode(broken)
    with pytest.raises(UsageError, match=r"shape \[3, 47\], not \[n, 48\]"):
        codec.encode(good[:, :-1])
    with pytest.raises(UsageError, match="one vector is passed as"):
        codec.encode(good[0])
    with pytest.raises(UsageError, match="use the codec that wrote them"):
        codec.decode(np.zeros((2, codec.bytes_per_vector + 1), np.uint8))
    assert codec.encode(good[:0]).shape == (0, codec.bytes_per_vector)
    assert codec.decode(codec.encode(good[:0])).shape == (0, DIM)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("f32", "f16")])
def test_an_untrained_codec_says_so(name: str) -> None:
    codec = open_codec(name, DIM)
    assert not codec.trained and codec.state() == {}
    with pytest.raises(UsageError, match="has not been trained"):
        codec.encode(vectors(3))
    with pytest.raises(UsageError, match="no state of"):
        Codec.from_state(name, DIM, {})


def test_too_few_vectors_for_a_codebook() -> None:
    with pytest.raises(UsageError, match="learns 256 entries for each part; 100 vectors are too few"):
        open_codec("pq12x8", DIM).train(vectors(100))
    with pytest.raises(UsageError, match="no vectors to train with"):
        open_codec("sq8", DIM).train(vectors(3)[:0])


def test_a_number_that_half_precision_cannot_hold() -> None:
    with pytest.raises(UsageError, match="above 65504"):
        open_codec("f16", 2).encode(np.array([[1e6, 1]], np.float32))


def test_a_dimension_that_never_changes() -> None:
    x = vectors(200)
    x[:, 3] = 0.25
    for name in ("sq8", "sq4", "binary", "rabitq2"):
        codec = open_codec(name, DIM)
        codec.train(x)
        assert np.isfinite(codec.decode(codec.encode(x))).all()
        if name.startswith("sq"):
            np.testing.assert_allclose(codec.decode(codec.encode(x))[:, 3], 0.25, atol=1e-4)


def test_a_query_of_four_bits_has_fifteen_values() -> None:
    asked = made("binary(int4)").asked(vectors(5))
    for row in asked:
        assert len(np.unique(np.round(row / np.abs(row).max() * 7, 3))) <= 15


def test_hamming_counts_equal_signs() -> None:
    codec, x = made("binary(hamming)"), vectors(6, seed=3)
    codes = codec.encode(x)
    equal = (np.unpackbits(codes[:, None] ^ codes[None], axis=2) == 0).sum(2)
    np.testing.assert_allclose(codec.score(x, codes), (2 * equal - DIM) / DIM, atol=1e-6)


@pytest.mark.parametrize(("name", "kept"), [("sq4", 0.97), ("pq12x4fs", 0.68)])
def test_vectors_that_lie_far_out_are_not_cut_short(name: str, kept: float) -> None:
    rng = np.random.default_rng(0)
    # Most vectors are short and the few long ones, ten times as long, are what scores high.
    x = (rng.standard_normal((4000, DIM)) * np.where(rng.random((4000, 1)) < 0.05, 1, 0.1)).astype(np.float32)
    codec = open_codec(name, DIM)
    codec.train(x)
    long = x[np.linalg.norm(x, axis=1) > 3]
    slope = (codec.decode(codec.encode(long)) * long).sum() / (long**2).sum()
    assert kept < slope < 1.03  # learned from all alike: .71 and .57
