"""mini's towers against the published implementations, and the rules that their formulas promise."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.errors import UsageError
from slimbind.towers import registry
from slimbind.towers.mini import (
    TEXT_CONFIG,
    VISION_CONFIG,
    ConceptHead,
    EfficientNetLite,
    MiniText,
    MiniVision,
    read_efficientnet,
    read_minilm,
)

HERE = Path(__file__).parent
GOLDEN = np.load(HERE / "mini_reference.npz")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_golden = _load(HERE / "make_golden.py")
TEXT, random_weights = make_golden.TEXT, make_golden.random_weights
SMALL = TEXT_CONFIG | {"vocabulary": 50, "tokens": 12, "depth": 1}


def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    lines = (line.split() for line in GOLDEN[name].tolist())
    return {key: tuple(map(int, sizes)) for key, *sizes in lines}


@pytest.fixture(scope="module")
def text() -> MiniText:
    torch.manual_seed(0)
    tower = MiniText(SMALL).eval().requires_grad_(False)
    tower.adapt.weight.normal_(std=0.05)
    tower.centre.normal_(std=0.02)
    return tower


@torch.inference_mode()
def test_efficientnet_with_folded_batch_norm_equals_the_published_one() -> None:
    backbone = EfficientNetLite().eval().double()
    backbone.load_state_dict(read_efficientnet(random_weights(_shapes("efficientnet_shapes"))))
    pixels = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 3, 224, 224)))
    logits = backbone.classifier(backbone.features(pixels)).numpy()
    np.testing.assert_allclose(logits, GOLDEN["logits"], atol=1e-5)


@torch.inference_mode()
def test_sentence_embedding_equals_the_published_bert() -> None:
    tower = MiniText(TEXT).eval().double()
    weights = read_minilm(random_weights(_shapes("bert_shapes")), torch.arange(TEXT["vocabulary"]), TEXT)
    missing, unexpected = tower.load_state_dict(weights, strict=False)
    assert (set(missing), unexpected) == ({"centre", "adapt.weight"}, [])
    np.testing.assert_allclose(tower.sentence(torch.from_numpy(GOLDEN["ids"])).numpy(), GOLDEN["sentences"], atol=1e-5)


@torch.inference_mode()
def test_pruning_rows_renames_tokens_and_changes_nothing_else() -> None:
    weights = random_weights(_shapes("bert_shapes"))
    whole, pruned = MiniText(TEXT).eval().double(), MiniText(TEXT | {"vocabulary": 4}).eval().double()
    whole.load_state_dict(read_minilm(weights, torch.arange(50), TEXT), strict=False)
    pruned.load_state_dict(read_minilm(weights, torch.tensor([0, 7, 9, 23]), TEXT), strict=False)
    old, new = torch.tensor([[7, 23, 9]]), torch.tensor([[1, 3, 2]])
    torch.testing.assert_close(pruned.sentence(new), whole.sentence(old), atol=1e-6, rtol=0)


@torch.inference_mode()
@settings(max_examples=20, deadline=None)
@given(ids=st.lists(st.integers(1, 49), min_size=1, max_size=6), padding=st.integers(0, 6))
def test_padding_does_not_change_a_text(ids: list[int], padding: int) -> None:
    torch.manual_seed(0)
    tower = MiniText(SMALL).eval()
    alone = tower(torch.tensor([ids], dtype=torch.int32))
    padded = tower(torch.tensor([ids + [0] * padding, [5] * (len(ids) + padding)], dtype=torch.int32))[:1]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_an_empty_text_gives_a_finite_unit_vector(text: MiniText) -> None:
    vector = text(torch.zeros(1, 3, dtype=torch.int32))
    assert torch.isfinite(vector).all()
    torch.testing.assert_close(vector.norm(dim=-1), torch.ones(1))


@torch.inference_mode()
def test_text_is_centred_before_it_is_adapted(text: MiniText) -> None:
    ids = torch.tensor([[3, 4, 5]])
    t = F.normalize(text.sentence(ids) - text.centre, dim=-1)
    torch.testing.assert_close(text(ids), F.normalize(t + t @ text.adapt.weight.T, dim=-1))


def _head() -> ConceptHead:
    torch.manual_seed(0)
    head = ConceptHead(16)
    head.labels.data.normal_()
    return head


@torch.inference_mode()
def test_a_certain_classifier_leaves_the_learned_branch_nothing_to_say() -> None:
    head = _head()
    z = torch.zeros(1, 1000)
    z[0, 7] = 1000.0
    torch.testing.assert_close(head(torch.randn(1, 1280), z), F.normalize(head.labels[7:8], dim=-1))


@torch.inference_mode()
def test_head_is_its_formula() -> None:
    head, f, z = _head(), torch.randn(3, 1280), torch.randn(3, 1000)
    named = F.normalize(F.softmax(z / 1.5, dim=-1) @ head.labels, dim=-1)
    learned = F.normalize(head.down(F.gelu(head.up(f))) + head.skip(f), dim=-1)
    expected = F.normalize(named + (1 - F.softmax(z, dim=-1).max(-1, keepdim=True)[0]) * head.gain * learned, dim=-1)
    torch.testing.assert_close(head(f, z), expected)


@torch.inference_mode()
def test_the_untrained_head_is_the_first_term_alone() -> None:
    head, z = ConceptHead(0), torch.randn(2, 1000)
    head.labels.data.normal_()
    torch.testing.assert_close(head(torch.randn(2, 1280), z), head.named(z))


@pytest.mark.parametrize(("modality", "config"), [("vision", VISION_CONFIG), ("text", SMALL)])
@torch.inference_mode()
def test_registry_builds_towers_that_take_their_own_example(modality: str, config: dict[str, object]) -> None:
    torch.manual_seed(0)
    tower = registry.build("mini", modality, config, device="cpu")
    vectors = tower(tower.example(2))
    assert vectors.shape == (2, 384)
    if modality == "text":  # a random label matrix of zeros has no direction yet
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))
    assert tower.config == config
    assert tower.dynamic_axes == ({0: "batch"} if modality == "vision" else {0: "batch", 1: "length"})


def test_another_modality_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="audio.*text, vision"):
        registry.build("mini", "audio", {})


def test_a_picture_tower_for_another_size_keeps_its_weights() -> None:
    small, large = MiniVision(VISION_CONFIG | {"size": 96}), MiniVision(VISION_CONFIG)
    small.load_state_dict(large.state_dict())
    assert small.example(1).shape == (1, 3, 96, 96)
