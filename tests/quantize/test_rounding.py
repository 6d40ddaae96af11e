"""Weights to codes: what rounding may cost, what it never changes, and numbers done by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.quantize import rounding
from slimbind.quantize.plan import LARGEST, SMALLEST, WeightCodes

seeds = st.integers(0, 2**31)
bits = st.sampled_from([8, 4])


def weights(seed, rows=6, inputs=24, spread=2.0):
    """Rows of very different sizes, a few exact zeros among them."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, inputs, generator=random) * torch.exp(spread * torch.randn(rows, 1, generator=random))
    values[torch.rand(rows, inputs, generator=random) < 0.1] = 0
    return values


def test_eight_bits_by_hand():
    codes = rounding.per_channel(torch.tensor([[1.27, -0.5, 0.0, 0.004], [0.0, 0.0, 254.0, -1.1]]))
    assert codes.codes.tolist() == [[127, -50, 0, 0], [0, 0, 127, -1]]
    assert torch.allclose(codes.scale, torch.tensor([[0.01], [2.0]]))
    assert torch.allclose(codes.dequantize()[0], torch.tensor([1.27, -0.5, 0.0, 0.0]))


def test_four_bits_in_groups_by_hand():
    codes = rounding.grouped(torch.tensor([[7.0, -3.0, 0.7, 0.3]]), 2, 4, search=False)
    assert codes.codes.tolist() == [[-7, 3, -7, -3]]
    assert torch.allclose(codes.scale, torch.tensor([[-1.0, -0.1]]), rtol=1e-3)
    assert codes.bits == 4


def test_the_loudest_weight_of_four_bits_may_take_the_code_that_has_no_opposite():
    weight = torch.tensor([[8.0, -7.0, 4.0, -1.0], [-8.0, 7.0, -4.0, 1.0]])
    codes = rounding.grouped(weight, 4, 4)
    assert codes.codes.tolist() == [[-8, 7, -4, 1]] * 2
    assert torch.allclose(codes.dequantize(), weight, rtol=0.01)


def test_halves_go_to_the_even_code():
    codes = rounding.encode(torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5]]), torch.tensor([1.0]))
    assert codes.tolist() == [[0, 2, 2, 0, -2]]


@given(seeds, bits, st.sampled_from([24, 8, 4, 1]))
def test_a_weight_moves_by_half_a_step_at_most(seed, bits, group):
    weight = weights(seed)
    codes = rounding.grouped(weight, group, bits, search=False)
    # a scale rounded to f16 may cut the largest weight by its own rounding
    step = codes.scale.abs().repeat_interleave(group, 1)
    bound = step * (0.5 + (LARGEST[4] * 2**-11 if bits == 4 else 1e-4))
    assert (codes.dequantize() - weight).abs().le(bound + 1e-7).all()


@given(seeds, bits)
def test_zero_stays_zero_and_the_opposite_weight_is_rounded_alike(seed, bits):
    weight = weights(seed)
    codes = rounding.grouped(weight, 8, bits)
    assert (codes.dequantize()[weight == 0] == 0).all()
    assert codes.codes.min() >= SMALLEST[bits] and codes.codes.max() <= LARGEST[bits]
    assert torch.equal(rounding.grouped(-weight, 8, bits).dequantize(), -codes.dequantize())


@given(seeds, st.integers(-6, 6))
def test_a_factor_of_two_goes_into_the_scale(seed, power):
    weight = weights(seed, spread=0.5)
    codes, larger = (rounding.per_channel(w, search=True) for w in (weight, weight * 2.0**power))
    assert torch.equal(codes.codes, larger.codes)
    assert torch.allclose(codes.scale * 2.0**power, larger.scale)


@given(seeds)
def test_rows_do_not_know_of_each_other(seed):
    weight = weights(seed)
    whole = rounding.grouped(weight, 8)
    alone = rounding.grouped(weight[2:3], 8)
    assert torch.equal(whole.codes[2:3], alone.codes) and torch.equal(whole.scale[2:3], alone.scale)


@settings(max_examples=30)
@given(seeds, bits)
def test_a_searched_scale_never_costs_more(seed, bits):
    weight = weights(seed)
    plain, searched = (rounding.grouped(weight, 12, bits, search=search) for search in (False, True))
    errors = [(c.dequantize() - weight).reshape(-1, 12).square().sum(1) for c in (plain, searched)]
    assert (errors[1] <= errors[0] * (1 + 1e-5) + 1e-12).all()


def test_a_search_gains_in_four_bits():
    weight = weights(1, rows=64, inputs=256, spread=0.0)
    plain, searched = (rounding.grouped(weight, 64, 4, search=search) for search in (False, True))
    error = [(c.dequantize() - weight).square().mean() for c in (plain, searched)]
    assert error[1] < 0.9 * error[0]


def test_a_search_minds_what_inputs_count():
    weight = torch.full((1, 16), 0.1)
    weight[0, 0] = 1.0
    only_rest = torch.ones(16)
    only_rest[0] = 0.0
    even = rounding.grouped(weight, 16, 4)
    rest = rounding.grouped(weight, 16, 4, importance=only_rest)
    off = [(c.dequantize() - weight).abs() for c in (even, rest)]
    assert off[1][0, 1:].max() < off[0][0, 1:].max()
    assert off[1][0, 0] > off[0][0, 0]


def test_rows_of_zeros_are_zeros():
    for bits in (8, 4):
        codes = rounding.per_channel(torch.zeros(2, 8), bits, search=True)
        assert not codes.dequantize().any() and (codes.scale != 0).all()


def test_convolutions_and_tables_keep_their_shape():
    weight = torch.randn(5, 3, 2, 2)
    codes = rounding.per_channel(weight)
    assert codes.codes.shape == weight.shape and codes.scale.shape == (5, 1)
    assert (codes.dequantize() - weight).abs().max() <= codes.scale.max() / 2 * 1.001


def test_many_rows_are_rounded_in_parts(monkeypatch):
    weight = weights(3, rows=50)
    whole = rounding.grouped(weight, 8)
    monkeypatch.setattr(rounding, "_ROWS", 100)
    assert torch.equal(rounding.grouped(weight, 8).codes, whole.codes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(value):
    weight = torch.ones(2, 8)
    weight[1, 3] = value
    with pytest.raises(ValueError, match="infinite or not a number"):
        rounding.per_channel(weight)


@pytest.mark.parametrize("group", [0, 3, 16])
def test_groups_must_divide_the_inputs(group):
    with pytest.raises(ValueError, match=f"groups of {group} do not divide the 8 inputs"):
        rounding.grouped(torch.ones(2, 8), group)


@pytest.mark.parametrize(
    "codes, scale",
    [
        (torch.zeros(2, 8), torch.ones(2, 1)),  # no int8
        (torch.zeros(2, 8, dtype=torch.int8), torch.ones(3, 1)),  # another number of rows
        (torch.zeros(2, 8, dtype=torch.int8), torch.ones(2, 3)),  # groups that do not divide
    ],
)
def test_codes_that_do_not_fit_their_scale_are_refused(codes, scale):
    with pytest.raises(ValueError, match="codes"):
        WeightCodes(codes, scale)
