"""The short string that names a codec, and how many bytes a vector takes under it.

f32  f16                the numbers themselves
sq8  sq4                8 or 4 bits for each dimension, over a trained range
pqMxB  opqMxB           M parts of the vector, each the nearest of 2^B trained ones; `opq` turns the vector first
pqMx4fs  opqMx4fs       the same with the layout and the search of FastScan
rabitqB                 signs of the turned vector and B - 1 more bits (B = 1..4), with a scale for each vector
binary                  signs alone; the query stays float. binary(int4), binary(hamming): the query is rounded too
COARSE,refine(FINE)     search by COARSE, then score the best again by FINE: a codec, or `original`
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from slimbind.errors import UsageError

Family = Literal["f32", "f16", "sq", "pq", "rabitq", "binary"]
Rounding = Literal["float", "int4", "hamming"]

ORIGINAL = "original"
NAMES = ("f32", "f16", "sq8", "sq4", "pqMxB", "opqMxB", "pqMx4fs", "opqMx4fs", "rabitq1..4", "binary")
_HINT = "for example sq8, pq64x8, rabitq1 or rabitq4,refine(original)"
_PRODUCT = re.compile(r"(o?)pq(\d{1,5})x(\d{1,2})(fs)?")
_REFINE = re.compile(r"\s*refine\(\s*(.+?)\s*\)\s*")


@dataclass(frozen=True)
class CodecSpec:
    """A codec by name, for vectors of one length. Made by ``parse``; ``str`` gives the name back.

    ``bits`` are those of a dimension (``sq``, ``rabitq``) or of a part (``pq``); ``parts`` is the M of ``pq``;
    ``refine`` is the codec the best are scored again with, ``"original"`` for the vectors themselves, None for no
    second look.
    """

    family: Family
    dim: int
    bits: int = 0
    parts: int = 0
    turned: bool = False
    fast: bool = False
    query: Rounding = "float"
    refine: CodecSpec | Literal["original"] | None = None

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one vector's codes in memory, those of ``refine`` included; originals are not kept there."""
        fine = self.refine.bytes_per_vector if isinstance(self.refine, CodecSpec) else 0
        return self.coarse_bytes + fine

    @property
    def coarse_bytes(self) -> int:
        """Bytes of one vector under the first codec alone."""
        if self.family in ("f32", "f16"):
            return self.dim * self.bits // 8
        if self.family == "pq":
            return -(-self.parts * self.bits // 8)
        if self.family == "rabitq":
            # RaBitQ keeps a norm and a scale beside the signs; with more bits, three and two numbers in their place.
            signs = -(-self.dim // 8)
            return signs + 8 if self.bits == 1 else signs + 12 + -(-self.dim * (self.bits - 1) // 8) + 8
        return -(-self.dim * self.bits // 8)

    @property
    def coarse(self) -> CodecSpec:
        """The first codec alone."""
        return replace(self, refine=None)

    @property
    def needs_originals(self) -> bool:
        """Whether a search ends with the original vectors, which have to be fetched."""
        return self.refine == ORIGINAL or (isinstance(self.refine, CodecSpec) and self.refine.refine == ORIGINAL)

    @property
    def has_lists(self) -> bool:
        """Whether it can be kept in inverted lists; signs of queries say little about which list is near."""
        return self.query != "hamming"

    @property
    def oversample(self) -> int:
        """How many times k is looked at again by default: the coarser the codes, the more.

        Codebooks keep no length of the single vector, and need more than signs with a scale do.
        """
        rate = self.coarse_bytes * 8 / self.dim
        return 2 if rate > 5 else 4 if rate > 3 else 8 if rate > 2.2 else 16 if self.family == "rabitq" else 32

    def __str__(self) -> str:
        if self.refine is not None:
            last = self.refine.refine if isinstance(self.refine, CodecSpec) else None
            fine = self.refine.coarse if isinstance(self.refine, CodecSpec) else self.refine
            return f"{self.coarse},refine({fine})" + (f",refine({last})" if last else "")
        if self.family == "pq":
            return f"{'o' * self.turned}pq{self.parts}x{self.bits}{'fs' * self.fast}"
        if self.family == "binary":
            return "binary" if self.query == "float" else f"binary({self.query})"
        return f"{self.family}{self.bits}" if self.family in ("sq", "rabitq") else self.family


def parse(text: str, dim: int) -> CodecSpec:
    """Read a codec's name.

    Args:
        text: the name, as on top of this module.
        dim: length of the vectors.

    Raises:
        UsageError: there is no such codec, or it cannot be used at this length.
    """
    if dim < 1:
        raise UsageError(f"vectors of {dim} dimensions", hint="at least 1")
    clean = text.strip().lower()
    first, *rest = clean.split(",")
    stages: list[str] = []
    for part in rest:
        if not (found := _REFINE.fullmatch(part)):
            raise UsageError(f"codec {text!r}: {part.strip()!r} is not refine(...)", hint=_HINT)
        stages.append(found[1])
    if len(stages) > 2 or ORIGINAL in stages[:-1] or (len(stages) == 2 and stages[1] != ORIGINAL):
        raise UsageError(
            f"codec {text!r}: refine is said once, or twice where the second is refine(original)", hint=_HINT
        )
    refine: CodecSpec | Literal["original"] | None = None
    for stage in reversed(stages):
        refine = "original" if stage == ORIGINAL else replace(_simple(stage, dim), refine=refine)
    return replace(_simple(first.strip(), dim), refine=refine)


def _simple(text: str, dim: int) -> CodecSpec:
    if text in ("f32", "f16"):
        return CodecSpec("f32" if text == "f32" else "f16", dim, int(text[1:]))
    if text in ("sq8", "sq4"):
        return CodecSpec("sq", dim, int(text[2:]))
    if text in ("rabitq1", "rabitq2", "rabitq3", "rabitq4"):
        return CodecSpec("rabitq", dim, int(text[6:]))
    if text in ("binary", "binary(float)"):
        return CodecSpec("binary", dim, 1)
    if text == "binary(int4)":
        return CodecSpec("binary", dim, 1, query="int4")
    if text == "binary(hamming)":
        return CodecSpec("binary", dim, 1, query="hamming")
    if found := _PRODUCT.fullmatch(text):
        return _product(text, dim, parts=int(found[2]), bits=int(found[3]), turned=bool(found[1]), fast=bool(found[4]))
    raise UsageError.unknown("codec", text, [*NAMES, "COARSE,refine(FINE)"], hint=_HINT)


def _product(text: str, dim: int, *, parts: int, bits: int, turned: bool, fast: bool) -> CodecSpec:
    if not parts or dim % parts:
        near = max((m for m in range(1, min(parts, dim) + 1) if dim % m == 0), default=1)
        raise UsageError(
            f"{text}: {dim} dimensions cannot be cut into {parts} equal parts",
            hint=f"the next smaller number that divides {dim} is {near}",
        )
    if fast and bits != 4:
        raise UsageError(f"{text}: FastScan needs 4 bits for each part, not {bits}", hint=f"pq{parts}x4fs")
    if not 1 <= bits <= 12:
        raise UsageError(f"{text}: {bits} bits for each part; allowed: 1 to 12", hint=f"pq{parts}x8")
    return CodecSpec("pq", dim, bits, parts, turned, fast)
