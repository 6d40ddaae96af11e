"""The model that is shipped: whole, small, without PyTorch, the same in every batch, and knowing what it should."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import slimbind
from slimbind.artifact import Artifact
from slimbind.media import preprocessor
from slimbind.scores import Curve

ROOT = Path(__file__).parents[2]
MINI = ROOT / "src" / "slimbind" / "models" / "mini"
PHOTOS = ROOT / "samples" / "photos"
TEXTS = [
    "a dog",
    "hat",
    "two people riding horses through a river in the mountains of a far country, painted in oil",
    "a photo of a cat on the beach at sunset",
    "x",
]


@pytest.fixture(scope="module")
def model() -> Iterator[slimbind.Model]:
    with slimbind.load("mini", threads=1) as opened:
        yield opened


def test_every_file_is_as_the_manifest_says_and_all_is_under_30_mb() -> None:
    artifact = Artifact.open(MINI)
    for modality in artifact.modalities:
        artifact.verify(modality)
    assert artifact.modalities == ("vision", "text")
    assert sum(path.stat().st_size for path in MINI.rglob("*") if path.is_file()) <= 30_000_000


def test_the_manifest_records_its_fidelity() -> None:
    for entry in Artifact.open(MINI).manifest.towers.values():
        assert entry.fidelity is not None
        assert entry.fidelity.samples >= 300
        assert entry.fidelity.cosine_mean > 0.998
        assert entry.fidelity.cosine_min > 0.98


def test_license_and_sources_are_with_it() -> None:
    notice = (MINI / "NOTICE").read_text(encoding="utf-8")
    for source in ("EfficientNet-Lite0", "MiniLM", "WordNet", "Openclipart", "Noto", "Twemoji", "Fluent", "CC-BY 4.0"):
        assert source in notice
    assert Artifact.open(MINI).manifest.model.license == "Apache-2.0"


def test_the_card_is_written_from_the_results() -> None:
    spec = importlib.util.spec_from_file_location("mini_card", ROOT / "recipes" / "mini" / "card.py")
    assert spec is not None and spec.loader is not None
    card = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(card)
    record = json.loads((ROOT / "recipes" / "mini" / "results.json").read_text(encoding="utf-8"))
    assert (MINI / "card.md").read_text(encoding="utf-8") == card.write(record)
    assert (MINI / "NOTICE").read_text(encoding="utf-8") == card.NOTICE


def test_training_was_worth_it_and_quantization_cost_little() -> None:
    results = json.loads((ROOT / "recipes" / "mini" / "results.json").read_text(encoding="utf-8"))["results"]
    for name, key, gain in (
        ("cifar10", "one_prompt", 1.03),
        ("openclipart_unseen_concepts", "name_to_picture_R@10", 1.5),
        ("openmoji", "name_to_picture_R@10", 1.5),
        ("openmoji_unseen_concepts", "picture_to_name_R@10", 1.5),
        ("tuxpaint_photographs", "name_to_picture_R@10", 1.0),
    ):
        assert results["shipped"][name][key] > gain * results["untrained"][name][key]
        assert results["shipped"][name][key] > results["trained"][name][key] - 0.015


def test_it_runs_without_pytorch() -> None:
    code = """
import sys
sys.modules["torch"] = None
import slimbind
with slimbind.load("mini", threads=1) as model:
    vectors = model.embed(["a dog", "a cat"], modality="text")
    assert model.loaded.keys() == {"text"}, model.loaded
print(vectors.shape, float((vectors ** 2).sum(1).mean()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(2, 384) ")
    assert float(done.stdout.split()[-1]) == pytest.approx(1.0, abs=1e-5)


def test_a_text_is_the_same_alone_and_in_a_batch(model: slimbind.Model) -> None:
    together = model.embed(TEXTS, modality="text")
    alone = np.concatenate([model.embed([text], modality="text") for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_padded_batch_is_the_same_too() -> None:
    # The run plane sorts texts by length; this asks the engine itself for the worst case, a short text padded long.
    from slimbind.runtime.engine import Options, engine

    artifact = Artifact.open(MINI)
    entry = artifact.tower("text")
    prepare = preprocessor(entry.preprocess, folder=MINI / "text")
    ids = [prepare(text) for text in TEXTS]
    batch = np.zeros((len(ids), 40), np.int32)
    for row, line in zip(batch, ids, strict=True):
        row[: len(line)] = line
    session = engine(entry.engine).open(MINI, entry, Options(threads=1), model=artifact.manifest.model, modality="text")
    try:
        alone = np.concatenate([session.run({"input": line[None]}) for line in ids])
        np.testing.assert_allclose(session.run({"input": batch}), alone, atol=1e-5)
    finally:
        session.close()


def test_a_picture_is_the_same_alone_and_in_a_batch(model: slimbind.Model) -> None:
    chosen = sorted(PHOTOS.iterdir())[:5]
    together = model.embed(chosen, modality="vision")
    alone = np.concatenate([model.embed([path], modality="vision") for path in chosen])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_words_find_their_photographs(model: slimbind.Model) -> None:
    paths = sorted(PHOTOS.iterdir())
    pictures = model.embed(paths, modality="vision")
    asked = {
        "a giraffe": "giraffes",
        "a bicycle": "bicycles",
        "a penguin": "penguin",
        "a plane": "airliner",
        "butterfly": "butterfly",
        "scissors": "scissors",
        "a sailing boat": "sailing-ship",
        "a polar bear": "polar-bear",
    }
    scores = model.embed(list(asked), modality="text") @ pictures.T
    names = [path.stem for path in paths]
    found = [names[best] for best in scores.argmax(1)]
    assert sum(got == wanted for got, wanted in zip(found, asked.values(), strict=True)) >= 7, found


def test_the_tokenizer_knows_common_words_whole_and_spells_the_rest(model: slimbind.Model) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MINI / "text" / "tokenizer.json"))
    assert tokenizer.encode("A Dog and a ZEBRA").tokens == ["[CLS]", "a", "dog", "and", "a", "zebra", "[SEP]"]
    assert tokenizer.token_to_id("[PAD]") == 0
    rare = tokenizer.encode("Schwarzenegger")
    assert len(rare.ids) > 3 and tokenizer.token_to_id("[UNK]") not in rare.ids
    config = Artifact.open(MINI).tower("text").config
    assert tokenizer.get_vocab_size() == config["vocabulary"]
    assert set(tokenizer.get_vocab().values()) == set(range(config["vocabulary"]))


def test_a_very_long_text_is_cut_and_embedded(model: slimbind.Model) -> None:
    vector = model.embed(["a dog runs along the beach " * 200], modality="text")
    assert vector.shape == (1, 384)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_what_its_scores_mean_was_fitted_with_these_towers() -> None:
    artifact = Artifact.open(MINI)
    encoders = {name: artifact.tower(name).encoder_id for name in artifact.modalities}
    curve = artifact.manifest.scores.need("text", "vision", encoders)
    record = json.loads((ROOT / "recipes" / "mini" / "scores.json").read_text(encoding="utf-8"))
    assert curve == Curve.model_validate(record["curve"]), "run recipes/mini/scores.py --write"
    assert curve.measured is not None and curve.measured.ece_after < curve.measured.ece_before / 5
