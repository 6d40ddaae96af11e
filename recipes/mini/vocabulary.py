"""The text tower's vocabulary, pruned: every piece that a caption needs, then the most frequent ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
import wordnet
from sources import member
from tokenizers import Tokenizer

SIZE = 20500
CONTEXT = 128  # tokens; longer texts are cut


def full_tokenizer(cache: Path) -> Tokenizer:
    """The tokenizer as published, neither padding nor cutting."""
    tokenizer = Tokenizer.from_str(member("minilm", "model/tokenizer.json", cache).decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def prune(cache: Path, captions: list[str]) -> tuple[Tokenizer, torch.Tensor]:
    """The pruned tokenizer and, for each of its ids, the row of the published embedding table.

    Kept are [PAD] (as id 0), [UNK], [CLS], [SEP], every single Latin letter, digit and sign, every piece of
    ``captions``, and then the pieces that most texts of WordNet have. A word whose token is gone is spelled with
    shorter pieces; text in other scripts becomes [UNK].
    """
    tokenizer = full_tokenizer(cache)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    needed = {token for encoding in tokenizer.encode_batch(captions) for token in encoding.tokens}
    texts_with = Counter[str]()
    for encoding in tokenizer.encode_batch(wordnet.texts(cache), add_special_tokens=False):
        texts_with.update(set(encoding.tokens))
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}
    letters = {token for token in vocabulary if len(token.removeprefix("##")) == 1 and token.isascii()}
    plain = {token for token in vocabulary if token.isascii() and not token.startswith("[unused")}
    order = sorted(plain - special - letters - needed, key=lambda token: (-texts_with[token], vocabulary[token]))
    first = special | letters | (needed & plain)
    ranked = [*first, *order][:SIZE]
    kept = sorted(ranked, key=vocabulary.__getitem__)  # [PAD] has the lowest id and stays 0
    data = json.loads(tokenizer.to_str())
    new_ids = {token: index for index, token in enumerate(kept)}
    data["model"]["vocab"] = new_ids
    data["added_tokens"] = [
        {**token, "id": new_ids[token["content"]]} for token in data["added_tokens"] if token["content"] in new_ids
    ]
    for name, entry in data["post_processor"].get("special_tokens", {}).items():
        entry["ids"] = [new_ids[name]]
    for field in ("sep", "cls"):
        if isinstance(data["post_processor"].get(field), list):
            data["post_processor"][field][1] = new_ids[data["post_processor"][field][0]]
    return Tokenizer.from_str(json.dumps(data)), torch.tensor([vocabulary[token] for token in kept])
