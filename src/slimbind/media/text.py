"""Text to token ids: CLIP's byte-pair encoding, or BERT's word pieces.

Takes a ``str`` (the text itself), or a file of UTF-8: a ``pathlib.Path``, bytes or a file object, which is one text.
Out: int32 ids ``[length]``, start and end tokens included, not padded, at most ``spec.context`` of them; a text that
is too long is cut and keeps its end token. The empty text is valid: start and end.

CLIP's cleaning happens here: ftfy mends mojibake, HTML entities are unescaped twice, white space is folded, and all
is lower case. The BERT tokenizer does its own cleaning.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import ArtifactError, LimitError, MediaError
from slimbind.media.limits import Limits
from slimbind.media.source import decoding, describe, is_file_like, open_source
from slimbind.media.spec import TextSpec

_SPACE = re.compile(r"\s+")
_EXCERPT = 40


class TextPreprocessor:
    """Texts for one ``TextSpec``. Safe to call from several threads.

    Args:
        spec: which cleaning, which tokenizer file, how many tokens.
        folder: where ``spec.tokenizer`` lies, the artifact's text folder. None takes the CLIP tokenizer that comes
            with slimbind; there is none for ``wordpiece``.
        limits: ``max_characters`` is checked before tokenising, ``max_bytes`` before reading a file.

    Raises:
        ArtifactError: the tokenizer file is missing or damaged.
        MediaError (on call): not a text, or not UTF-8. LimitError (on call): too long.
    """

    def __init__(self, spec: TextSpec, folder: Path | None, limits: Limits) -> None:
        from tokenizers import Tokenizer

        self.spec = spec
        self.limits = limits
        try:
            self._tokenizer = Tokenizer.from_str(_tokenizer_json(spec, folder))
        except ArtifactError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise ArtifactError(
                f"{spec.tokenizer} is no tokenizer file: {error}", hint="write the artifact again"
            ) from error
        # Cutting is done below, where the end token is kept; both settings may linger in a tokenizer file.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def __call__(self, item: object) -> NDArray[np.int32]:
        """One item to token ids ``[length]``; see the class."""
        text = self._text(item)
        if len(text) > self.limits.max_characters:
            raise LimitError(
                _name(item),
                f"has {len(text)} characters; the limit is {self.limits.max_characters}",
                hint=f"only the first {self.spec.context} tokens count; cut it, or raise Limits(max_characters=...)",
            )
        with decoding(_name(item), "tokenise the text"):
            if self.spec.kind == "clip-bpe":
                text = clean(text)
            elif not text.isascii():
                text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is no character
            ids = self._tokenizer.encode(text).ids
        if len(ids) > self.spec.context:
            ids = [*ids[: self.spec.context - 1], ids[-1]]
        return np.asarray(ids, dtype=np.int32)

    def _text(self, item: object) -> str:
        if isinstance(item, str):
            return item
        if not is_file_like(item):
            raise MediaError(
                describe(item),
                f"a {type(item).__name__} is no text",
                hint="give a str, or a path to a UTF-8 file",
            )
        with open_source(item, self.limits) as source:
            # Four bytes are the most a character takes: a longer file is too long without being read.
            if source.size > 4 * self.limits.max_characters + 4:
                raise LimitError(
                    source.name,
                    f"has {source.size} bytes, more than {self.limits.max_characters} characters can take",
                    hint="cut it, or raise Limits(max_characters=...)",
                )
            data = source.file.read()
        if b"\0" in data:
            raise MediaError(source.name, "holds zero bytes, so it is no text", hint="give a UTF-8 text file")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise MediaError(
                source.name, f"is not UTF-8 (byte {error.start})", hint="save it as UTF-8, or pass a str"
            ) from None


def clean(text: str) -> str:
    """CLIP's cleaning: mend, unescape HTML twice, fold white space, lower case."""
    import ftfy

    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _SPACE.sub(" ", mended).strip().lower()


def _tokenizer_json(spec: TextSpec, folder: Path | None) -> str:
    if folder is None:
        if spec.kind == "clip-bpe":
            from slimbind.media.clip_tokenizer import clip_tokenizer_json

            return clip_tokenizer_json()
        raise ArtifactError(
            f"a {spec.kind} tokenizer needs the artifact's folder",
            hint="open it with slimbind.load(artifact)",
        )
    path = Path(folder) / spec.tokenizer
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"cannot read the tokenizer {path}: {error}", hint="write the artifact again") from error


def _name(item: object) -> str:
    if isinstance(item, str):
        excerpt = " ".join(item[: _EXCERPT + 1].split())
        return repr(excerpt if len(item) <= _EXCERPT else f"{excerpt[:_EXCERPT]}...")
    return describe(item) if not isinstance(item, os.PathLike) else str(item)
