"""Filters such as ``year > 2020 and modality = 'audio'``: read from text into a tree, with the place of every mistake.

    filter      either { "or" either }          either   both { "and" both }
    both        "not" both | "(" filter ")" | condition
    condition   field ( "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
              | field [ "not" ] "in" "(" value { "," value } ")"
              | field [ "not" ] "like" 'pattern with % and _'
              | field "is" [ "not" ] "null"     null: there is no such field, or it is null
              | field "exists"                  or it is null
    value       'text, a quote is written twice' | number | true | false
    field       name { "." name } | "any name at all"

``id``, ``modality``, ``source`` and ``hash`` are an item's own; every other name is looked up in its metadata, and
``metadata.`` in front says so where the two are called alike. Every condition is true or false: a comparison (``!=``
too) with a field that is missing, null or of another type is false, and ``not`` turns it round. Texts are compared by
code point, ``like`` takes small and capital letters of ASCII for the same, and numbers beyond 64 bits are floats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from slimbind.errors import UsageError

COLUMNS = ("id", "modality", "source", "hash")
Value = str | int | float | bool

_MAX_TEXT = 20_000  # characters
_MAX_DEPTH = 20  # parentheses and `not` inside each other; SQLite's own parser ends at about 25
_MAX_CONDITIONS = 200
_KEYWORDS = {"and", "or", "not", "in", "like", "is", "null", "exists", "true", "false"}
_COMPARISONS = {"==": "=", "<>": "!=", "=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_SPACE = re.compile(r"\s*", re.ASCII)
_TOKEN = re.compile(
    r"""(?P<text>'(?:[^']|'')*')
      | (?P<quoted>"[^"]*")
      | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<name>[^\W\d]\w*)
      | (?P<sign><=|>=|<>|!=|==|[=<>(),.])""",
    re.VERBOSE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Field:
    """A column of the item, or a path of names in its metadata."""

    column: str = ""
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Compare:
    """``field op value``; ``op`` is one of = != < <= > >=."""

    field: Field
    op: str
    value: Value


@dataclass(frozen=True, slots=True)
class In:
    """The field equals one of the values."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """The field is a text of this pattern; % stands for any characters, _ for one."""

    field: Field
    pattern: str


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there; with ``or_null`` false, and it is not null."""

    field: Field
    or_null: bool


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    node: Node


@dataclass(frozen=True, slots=True)
class Many:
    """All of the nodes (``and``) or any of them (``or``)."""

    op: str
    nodes: tuple[Node, ...]


Node = Compare | In | Like | Exists | Not | Many


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # text, quoted, number, name, sign, keyword, end
    text: str
    start: int


def parse(text: str) -> Node:
    """The tree of a filter.

    Raises:
        UsageError: it cannot be read; the message shows where.
    """
    return _Parser(text).whole()


def wanted(where: str, modality: str | None = None) -> Node | None:
    """The tree of a filter that may be empty, and of a modality; None where all is wanted.

    Raises:
        UsageError: the filter cannot be read.
    """
    nodes = [parse(where)] if where.strip() else []
    if modality is not None:
        nodes.append(Compare(Field(column="modality"), "=", modality))
    return Many("and", tuple(nodes)) if nodes else None


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > _MAX_TEXT:
            raise UsageError(f"the filter has {len(text)} characters; allowed are {_MAX_TEXT}")
        if bad := _NO_TEXT.search(text):
            raise self._wrong(bad.start(), "this character is no text")
        self._tokens = self._split()
        self._at = 0
        self._depth = 0
        self._conditions = 0

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        place = self._skip(0)
        while place < len(self._text):
            match = _TOKEN.match(self._text, place)
            if match is None:
                raise self._wrong(place, self._unreadable(place))
            kind, told = str(match.lastgroup), match[0]
            if kind == "name" and told.lower() in _KEYWORDS:
                kind, told = "keyword", told.lower()
            tokens.append(_Token(kind, told, place))
            place = self._skip(match.end())
        return [*tokens, _Token("end", "", len(self._text))]

    def _skip(self, place: int) -> int:
        match = _SPACE.match(self._text, place)
        return place if match is None else match.end()

    def _unreadable(self, start: int) -> str:
        first = self._text[start]
        if first in "'\"":
            return f"the {first} is not closed"
        if first.isalpha():
            return f"names with {first!r} stand in double quotes"
        return "this is no number" if first.isdigit() else f"{first!r} means nothing here"

    def _wrong(self, start: int, why: str) -> UsageError:
        before, after = self._text[max(start - 40, 0) : start], self._text[start : start + 40]
        return UsageError(
            f"the filter is wrong at character {start + 1}: {why}; here: {before}-->{after}",
            hint="for example: year > 2020 and modality = 'audio'",
        )

    def _expected(self, what: str) -> UsageError:
        token = self._tokens[self._at]
        got = "the end" if token.kind == "end" else token.text
        return self._wrong(token.start, f"{what} was expected, not {got}")

    def _take(self, kind: str, *texts: str) -> _Token | None:
        token = self._tokens[self._at]
        if token.kind != kind or (texts and token.text not in texts):
            return None
        self._at += 1
        return token

    def _need(self, kind: str, text: str) -> None:
        if self._take(kind, text) is None:
            raise self._expected(repr(text))

    def whole(self) -> Node:
        node = self._or()
        if self._tokens[self._at].kind != "end":
            raise self._expected("'and', 'or' or the end")
        return node

    def _or(self) -> Node:
        return self._several("or", lambda: self._several("and", self._one))

    def _several(self, op: str, part: Callable[[], Node]) -> Node:
        nodes = [part()]
        while self._take("keyword", op):
            nodes.append(part())
        return nodes[0] if len(nodes) == 1 else Many(op, tuple(nodes))

    def _one(self) -> Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._wrong(self._tokens[self._at].start, f"more than {_MAX_DEPTH} levels of parentheses and not")
        try:
            if self._take("keyword", "not"):
                return Not(self._one())
            if self._take("sign", "("):
                node = self._or()
                self._need("sign", ")")
                return node
            return self._condition()
        finally:
            self._depth -= 1

    def _condition(self) -> Node:
        self._conditions += 1
        if self._conditions > _MAX_CONDITIONS:
            raise self._wrong(self._tokens[self._at].start, f"more than {_MAX_CONDITIONS} conditions")
        field = self._field()
        if self._take("keyword", "exists"):
            return Exists(field, or_null=True)
        if self._take("keyword", "is"):
            negated = self._take("keyword", "not")
            self._need("keyword", "null")
            return Exists(field, or_null=False) if negated else Not(Exists(field, or_null=False))
        if sign := self._take("sign", *_COMPARISONS):
            return self._comparison(field, _COMPARISONS[sign.text])
        negated = self._take("keyword", "not")
        node: Node
        if self._take("keyword", "in"):
            node = In(field, self._values())
        elif self._take("keyword", "like"):
            start = self._tokens[self._at].start
            pattern = self._value()
            if not isinstance(pattern, str):
                raise self._wrong(start, "like takes a text")
            node = Like(field, pattern)
        else:
            raise self._expected("'in' or 'like'" if negated else "a comparison, in, like, is or exists")
        return Not(node) if negated else node

    def _comparison(self, field: Field, op: str) -> Node:
        start = self._tokens[self._at].start
        if self._take("keyword", "null"):
            raise self._wrong(start, "null is asked for with `is null`")
        value = self._value()
        if isinstance(value, bool) and op not in ("=", "!="):
            raise self._wrong(start, f"true and false have no order, so {op} cannot be asked")
        return Compare(field, op, value)

    def _values(self) -> tuple[Value, ...]:
        self._need("sign", "(")
        values = [self._value()]
        while self._take("sign", ","):
            values.append(self._value())
        self._need("sign", ")")
        return tuple(values)

    def _value(self) -> Value:
        if token := self._take("text"):
            return token.text[1:-1].replace("''", "'")
        if token := self._take("keyword", "true", "false"):
            return token.text == "true"
        if token := self._take("number"):
            if re.fullmatch(r"[+-]?\d{1,19}", token.text) and -(2**63) <= int(token.text) < 2**63:
                return int(token.text)
            if math.isinf(number := float(token.text)):
                raise self._wrong(token.start, "this number is too large")
            return number
        raise self._expected("a value ('text', a number, true or false)")

    def _field(self) -> Field:
        first = self._tokens[self._at]
        names = [self._name()]
        while self._take("sign", "."):
            names.append(self._name())
        if first.kind == "name" and len(names) == 1 and names[0] in COLUMNS:
            return Field(column=names[0])
        if first.kind == "name" and names[0] == "metadata" and len(names) > 1:
            names = names[1:]
        return Field(path=tuple(names))

    def _name(self) -> str:
        if token := self._take("name"):
            return token.text
        if token := self._take("quoted"):
            name = token.text[1:-1]
            # SQLite looks a name up as it stands in the JSON, where these are written in another way.
            if not name or "\\" in name or any(ord(char) < 32 for char in name):
                raise self._wrong(token.start, "a name is not empty and has neither \\ nor control characters")
            return name
        raise self._expected("the name of a field")
