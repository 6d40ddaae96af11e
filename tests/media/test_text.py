"""Text: CLIP's ids exactly, cutting that keeps the end token, and files that are no text."""

from __future__ import annotations

import gzip
import io
import json
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slimbind.errors import ArtifactError, LimitError, MediaError
from slimbind.media import Limits, preprocessor
from slimbind.media.clip_tokenizer import clip_tokenizer_json
from slimbind.media.spec import TextSpec
from slimbind.media.text import clean

START, END = 49406, 49407


@pytest.fixture(scope="module")
def tokens():
    return preprocessor(TextSpec())


@pytest.mark.parametrize("index", range(16))
def test_equals_the_reference(golden, golden_meta, tokens, index):
    text, expected = golden_meta["texts"][index], golden["text_ids"][index]
    ids = tokens(text)
    assert ids.dtype == np.int32 and 2 <= len(ids) <= 77
    np.testing.assert_array_equal(np.pad(ids, (0, 77 - len(ids))), expected)


def test_a_long_text_keeps_its_end_token(tokens):
    ids = tokens("word " * 200)
    assert len(ids) == 77 and ids[0] == START and ids[-1] == END and END not in ids[:-1]
    short = preprocessor(TextSpec(context=5))("word " * 200)
    np.testing.assert_array_equal(short, [*ids[:4], END])


def test_the_empty_text_is_start_and_end(tokens):
    for empty in ("", "  \n", "\ufeff"):
        np.testing.assert_array_equal(tokens(empty), [START, END])


def test_every_way_in_gives_the_same(tmp_path, tokens):
    text = "Ein schöner Hund — 犬"
    path = tmp_path / "note.txt"
    path.write_text("\ufeff" + text, encoding="utf-8")
    for way in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        np.testing.assert_array_equal(tokens(way), tokens(text))


def test_a_str_is_the_text_itself_even_if_it_looks_like_a_path(tmp_path, tokens):
    path = tmp_path / "a.txt"
    path.write_text("a dog")
    assert len(tokens(str(path))) > len(tokens(path))


def test_cleaning_is_clips():
    assert clean("  A &amp;amp; B\u00a0\tc\n") == "a & b c"
    assert clean("schÃ¶n") == "schön"


@pytest.mark.parametrize(
    ("data", "cause"), [(b"\xff\xfe\x00d", "zero bytes"), (b"caf\xe9", r"not UTF-8 \(byte 3\)"), (b"", "0 bytes")]
)
def test_files_that_are_no_text(tokens, data, cause):
    with pytest.raises(MediaError, match=cause):
        tokens(data)


def test_other_objects(tokens):
    with pytest.raises(MediaError, match="a int is no text"):
        tokens(3)


def test_limits_are_checked_before_the_work(tmp_path):
    tokens = preprocessor(TextSpec(), limits=Limits(max_characters=10))
    tokens("0123456789")
    with pytest.raises(LimitError, match="has 11 characters; the limit is 10"):
        tokens("0123456789a")
    path = tmp_path / "long.txt"
    path.write_bytes(b"x" * 45)
    with pytest.raises(LimitError, match="45 bytes"):
        tokens(path)
    with pytest.raises(LimitError, match="max_bytes"):
        preprocessor(TextSpec(), limits=Limits(max_bytes=44))(path)


def test_the_message_quotes_only_the_beginning():
    tokens = preprocessor(TextSpec(), limits=Limits(max_characters=100))
    with pytest.raises(LimitError) as caught:
        tokens("secret " * 50)
    assert len(str(caught.value)) < 250


@lru_cache(maxsize=1)
def _ranks() -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    packed = files("slimbind.media").joinpath("data/clip_merges.txt.gz").read_bytes()
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(gzip.decompress(packed).decode().splitlines())}
    return ranks, json.loads(clip_tokenizer_json())["model"]["vocab"]


def _by_the_book(text: str) -> list[int]:
    """Byte-pair encoding as the paper describes it, slow and plain: merge the best pair until none is left."""
    regex = pytest.importorskip("regex")
    ranks, vocab = _ranks()
    letters = list(vocab)[:256]
    table = dict(zip([*range(33, 127), *range(161, 173), *range(174, 256)], letters, strict=False))
    table |= dict(zip([b for b in range(256) if b not in table], letters[len(table) :], strict=True))
    ids = [START]
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    for word in regex.findall(pattern, clean(text), regex.IGNORECASE):
        parts = [table[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(zip(parts, parts[1:])))  # noqa: B905
            if rank == len(ranks):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [vocab[part] for part in parts]
    ids.append(END)
    return ids if len(ids) <= 77 else [*ids[:76], END]


# Libraries disagree about characters that were not in Unicode when they were built.
ASSIGNED = st.characters(exclude_categories=("Cn", "Cs"))


@settings(max_examples=150, deadline=None)
@given(st.text(ASSIGNED, max_size=60).filter(lambda text: "<|" not in text))
@example("it's THEY'RE 'tis o'clock ſ'ſ 'S")
@example("①²٣ 3.14")
@example("a\u0301\u200d👩‍🚀\ud800")
def test_equals_byte_pair_encoding_by_the_book(tokens, text):
    np.testing.assert_array_equal(tokens(text), _by_the_book(text))


def test_the_tokenizer_file_is_complete():
    content = json.loads(clip_tokenizer_json())
    assert len(content["model"]["vocab"]) == 49408 and len(content["model"]["merges"]) == 48894
    assert content["model"]["vocab"]["<|endoftext|>"] == END


def test_a_tokenizer_in_a_folder(tmp_path, tokens):
    (tmp_path / "tokenizer.json").write_text(clip_tokenizer_json(), encoding="utf-8")
    np.testing.assert_array_equal(preprocessor(TextSpec(), folder=tmp_path)("a dog"), tokens("a dog"))


@pytest.mark.parametrize("content", [None, "{}", "not json", "\udcff"])
def test_a_missing_or_damaged_tokenizer(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        preprocessor(TextSpec(), folder=tmp_path)


def wordpiece(folder: Path) -> Path:
    """A small BERT-like tokenizer, with the truncation and padding that such files tend to carry."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "##s", "cafe", "!"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "words.json"))
    return folder


def test_wordpiece(tmp_path):
    spec = TextSpec(kind="wordpiece", tokenizer="words.json", context=6)
    tokens = preprocessor(spec, folder=wordpiece(tmp_path))
    np.testing.assert_array_equal(tokens("A Dogs CAFÉ !"), [2, 4, 5, 6, 7, 3])
    np.testing.assert_array_equal(tokens("a a a a a a a a a"), [2, 4, 4, 4, 4, 3])
    np.testing.assert_array_equal(tokens(""), [2, 3])
    np.testing.assert_array_equal(tokens("\ud800"), tokens("?"))


def test_wordpiece_has_no_tokenizer_of_its_own():
    with pytest.raises(ArtifactError, match="needs the artifact's folder"):
        preprocessor(TextSpec(kind="wordpiece"))
