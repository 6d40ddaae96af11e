"""Filters let through what a plain evaluation of the same tree lets through, and mistakes are shown in their place."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slimbind.collection import Collection, Entry, filters, filters_plain, filters_sql
from slimbind.collection.filters import Compare, Exists, Field, In, Like, Many, Not
from slimbind.errors import UsageError

from .conftest import units


def number(value):
    return float(value) if type(value) is int and not -(2**63) <= value < 2**63 else value


def write(node):
    """A tree as text."""
    if isinstance(node, Not):
        return f"not ({write(node.node)})"
    if isinstance(node, Many):
        return f" {node.op} ".join(f"({write(part)})" for part in node.nodes)
    name = node.field.column or ".".join(["metadata", *(f'"{part}"' for part in node.field.path)])
    if isinstance(node, Exists):
        return f"{name} {'exists' if node.or_null else 'is not null'}"
    if isinstance(node, Like):
        return f"{name} like {literal(node.pattern)}"
    if isinstance(node, In):
        return f"{name} in ({', '.join(map(literal, node.values))})"
    return f"{name} {node.op} {literal(node.value)}"


def literal(value):
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


HOSTILE = [
    "'",
    "''",
    "'; DROP TABLE items; --",
    '"',
    "%",
    "_",
    "\\",
    "$",
    "$.a",
    "a'--",
    "İ",
    "ß",
    "\n",
    "\ud7ff",
    "\U0010ffff",
]
texts = st.sampled_from([*HOSTILE, "a", "A", "b", "ab", ""]) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5
)
numbers = (
    st.integers(-3, 3) | st.integers() | st.floats(allow_nan=False, allow_infinity=False, width=32) | st.just(2**63)
)
plain_names = st.sampled_from(["a", "b", "year", "and", "id", "select", "日本", "$", "a.b", "'; --", "[0]", "#", " "])
scalars = st.none() | st.booleans() | numbers | texts
documents = st.dictionaries(
    plain_names, scalars | st.lists(scalars, max_size=2) | st.dictionaries(plain_names, scalars, max_size=2), max_size=4
)
fields = st.builds(Field, column=st.sampled_from(filters.COLUMNS)) | st.builds(
    Field, path=st.lists(plain_names, min_size=1, max_size=2).map(tuple)
)
values = st.booleans() | numbers.map(number) | texts
conditions = (
    st.builds(Compare, fields, st.sampled_from(["=", "!="]), values)
    | st.builds(Compare, fields, st.sampled_from(["<", "<=", ">", ">="]), numbers.map(number) | texts)
    | st.builds(In, fields, st.lists(values, min_size=1, max_size=4).map(tuple))
    | st.builds(Like, fields, st.lists(st.sampled_from(["%", "_", "a", "B", "ß", "'"]), max_size=4).map("".join))
    | st.builds(Exists, fields, st.booleans())
)
trees = st.recursive(
    conditions,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(Many, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=6,
)
entries = st.builds(
    Entry, st.just("x"), st.sampled_from(["vision", "audio", ""]), texts, documents, st.sampled_from(["", "ab"])
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with Collection.create(tmp_path_factory.mktemp("filters") / "s") as shelf:
        yield shelf


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(node=trees, found=st.lists(entries, min_size=1, max_size=4))
@example(Compare(Field(path=("a",)), "=", 1), [Entry("x", metadata={"a": True})])
@example(Compare(Field(path=("a",)), "!=", 1), [Entry("x", metadata={"a": None}), Entry("x")])
@example(In(Field(path=("a",)), (True, 1, "1")), [Entry("x", metadata={"a": value}) for value in (True, 1, "1", 1.0)])
@example(Like(Field(path=("a",)), "%a%"), [Entry("x", metadata={"a": 1})])
def test_a_filter_says_what_plain_python_says(database, node, found):
    assert filters.parse(write(node)) == node
    items = [Entry(f"{n}", entry.modality, entry.source, entry.metadata, entry.hash) for n, entry in enumerate(found)]
    database.delete([entry.id for entry in database.entries()])
    database.put(items, units(1, len(items)))
    expected = {entry.id for entry in items if filters_plain.holds(node, entry)}
    assert {hit.id for hit in database.search(units(1), 9, where=write(node))} == expected


WORDS = "a b and or not in is null exists like ( ) , . = < '' ' 1 1.5 -".split()


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=30) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_is_a_filter_or_a_mistake_with_a_place(database, text):
    try:
        node = filters.parse(text)
    except UsageError as error:
        assert "at character" in error.message
        return
    sql, parameters = filters_sql.compiled(node)
    assert sql.count("?") == len(parameters)
    assert not re.search(r"[^\w\s?(),.'=<>]", sql)
    with database._db.reading() as connection:
        filters_sql.keys_of(connection, node)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("year >", r"at character 7: a value .* was expected, not the end; here: year >-->"),
        ("year > 2020 and", "at character 16: the name of a field was expected, not the end"),
        ("year > 2020 modality = 'a'", "at character 13: 'and', 'or' or the end was expected, not modality"),
        ("year = '2020", "at character 8: the ' is not closed; here: year = -->'2020"),
        ("year ~ 3", "at character 6: '~' means nothing here"),
        ("year = 20x", "at character 8: this is no number"),
        ("(a = 1", "at character 7: '\\)' was expected, not the end"),
        ("a in 1", "at character 6: '\\(' was expected, not 1"),
        ("a in ()", "at character 7: a value"),
        ("a not = 1", "at character 7: 'in' or 'like' was expected, not ="),
        ("a = null", "at character 5: null is asked for with `is null`"),
        ("a < true", "at character 5: true and false have no order"),
        ("a like 3", "at character 8: like takes a text"),
        ("a = 1e999", "at character 5: this number is too large"),
        ("größe = 1", "at character 3: names with 'ö' stand in double quotes"),
        ('"" = 1', "at character 1: a name is not empty"),
        ('"a\\b" = 1', "at character 1: a name is not empty and has neither"),
        ("a", "at character 2: a comparison, in, like, is or exists was expected"),
        ("a = 'x\0'", "at character 7: this character is no text"),
        ("(" * 60 + "a = 1" + ")" * 60, "more than 20 levels"),
        (" and ".join(["a = 1"] * 201), "more than 200 conditions"),
        ("a = '" + "x" * 20_000 + "'", "the filter has 20006 characters"),
    ],
)
def test_a_mistake_is_shown_in_its_place(text, match):
    with pytest.raises(UsageError, match=match):
        filters.parse(text)


def test_and_binds_more_than_or_and_not_more_than_and(database):
    database.delete([entry.id for entry in database.entries()])
    database.add(units(1, 4), ids=list("abcd"), metadata=[{"x": 1}, {"x": 1, "y": 1}, {"y": 1}, {}])
    asked = {
        "x = 1 or y = 1 and x = 2": {"a", "b"},
        "(x = 1 or y = 1) and x = 2": set(),
        "not x = 1 and y = 1": {"c"},
        "not (x = 1 and y = 1)": {"a", "c", "d"},
        "x IS NULL AND NOT y exists": {"d"},
        "id in ('a', 'd') or metadata.x == 1": {"a", "b", "d"},
        "x != 2": {"a", "b"},
        "x not in (2, 3)": set("abcd"),
    }
    for text, expected in asked.items():
        assert {hit.id for hit in database.search(units(1), where=text)} == expected, text


def test_a_limit_of_terms_is_one_that_sqlite_takes(database):
    database.search(units(1), where=" and ".join(["a = 1"] * 200))
    for open_, close in (("not ", ""), ("(", ")"), ("not (b = 1 or b in ('x', 1) and ", ")"), ("(not b = 1 and ", ")")):
        levels = 20 // (open_.count("(b") + open_.count("not")) - 1 if "not (" in open_ else 18
        database.search(units(1), where=open_ * levels + "a = 1" + close * levels)
    database.search(units(1), where=f"a in ({','.join(map(str, range(4000)))})")
