"""CLIP's tokenizer as a ``tokenizer.json``, built from its merge list, which is all that has to be stored.

``data/clip_merges.txt.gz`` holds the 48 894 merges of OpenAI's CLIP (MIT licence), one per line, best first. It is
written by ``recipes/clip_tokenizer/make.py``.
"""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = 49_408

# Contractions, runs of letters, single digits, runs of anything else; white space only separates.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@lru_cache(maxsize=1)
def clip_tokenizer_json() -> str:
    """The text of a ``tokenizer.json`` for the ``tokenizers`` library: 49 408 tokens, start 49406, end 49407.

    It expects text already cleaned (``slimbind.media.text.clean``) and adds the start and end tokens.
    """
    packed = files("slimbind.media").joinpath("data/clip_merges.txt.gz").read_bytes()
    merges = [line.split(" ") for line in gzip.decompress(packed).decode("utf-8").splitlines()]
    letters = _byte_letters()
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    ids = {token: index for index, token in enumerate(tokens)}
    return json.dumps(_tokenizer(ids, merges), ensure_ascii=False, separators=(",", ":"))


def _tokenizer(ids: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    specials = (START, END)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    body = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, **flags} for token in specials],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Removed", "invert": True},
                byte_level,
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special(START), body, _special(END)],
            "pair": [body, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in specials},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": merges,
        },
    }


def _special(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _byte_letters() -> list[str]:
    """One printable character per byte, in the order of GPT-2's table: printable bytes first, then the others."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = sorted(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
