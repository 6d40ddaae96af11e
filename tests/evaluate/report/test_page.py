"""The page: what stands where, valid, harmless whatever it was given, and whole or not there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.errors import UsageError
from slimbind.evaluate.record import Estimate, Record
from slimbind.evaluate.report import html, write_html

HOSTILE = [
    "<script>alert(1)</script>",
    "</title></style></script><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "nul\x00 bell\x07 c1\x9b \ud800 \ufdd0 \uffff",
    "\u202egnp.exe",
    "&lt;b&gt; &amp; &#60;",
    "-->]]><!--",
]


def record(task="zero-shot", title="things", model="f32", **fields):
    return Record(task, title, model, **fields)


def test_a_record_becomes_a_page_with_summary_section_and_environment(page, said):
    root = page(
        [
            record(
                settings={"seed": 7},
                measures={"top1": Estimate(0.713, 0.65, 0.77, 200), "top5": Estimate(0.9, n=200)},
                details={"odd": [{"kind": "a", "count": 3}]},
                environment={"cpu": "a fast one", "time": "2026-01-02T03:04:05+00:00"},
            )
        ],
        title="What was lost",
    )
    assert said(root.find("./head/title")) == said(root.find(".//h1")) == "What was lost"
    assert [said(item) for item in root.iter("h2")] == ["Summary", "Zero-shot", "Environment"]
    rows = [[said(cell) for cell in row] for row in root.find(".//table").iter("tr")]
    assert rows == [["measure", "f32"], ["top1", "71.3 %65.0 to 77.0 %"], ["top5", "90.0 %"]]
    text = said(root)
    assert "seed7" in text.replace(" ", "") and "a fast one" in text and "2026-01-02 at 03:04 UTC" in text
    assert ["a", "3"] in [[said(cell) for cell in row] for row in root.iter("tr")]


def test_models_of_one_evaluation_stand_side_by_side_the_reference_first(page, said):
    found = [
        record(model="f32", measures={"cosine_mean": Estimate(1.0), "cosine_min": Estimate(1.0)}),
        record(task="speed", title="speed", model="f32", measures={"p50_seconds": Estimate(0.0123)}),
        record(model="int8", measures={"cosine_mean": Estimate(0.99912), "cosine_min": Estimate(0.98)}),
    ]
    rows = [[said(cell) for cell in row] for row in page(found).find(".//table").iter("tr")]
    assert rows == [
        ["measure", "f32", "int8"],
        ["things"],
        ["cosine mean", "1.00000", "0.99912"],
        ["cosine min", "1.00000", "0.98000"],
        ["speed"],
        ["p50 seconds", "12.3 ms", "-"],
    ]


def test_whole_embeddings_stand_in_the_column_of_their_model(page, said):
    found = [record(task="size", title="size", model=name, measures={"bytes": Estimate(1)}) for name in ("f32", "int8")]
    for name in ("f32", "int8"):
        for codec in ("f32", "sq8"):
            found.append(record(model=name, settings={"codec": codec}, measures={"top1": Estimate(0.5)}))
    tables = list(page(found).find(".//section").iter("table"))
    heads = [[said(cell) for cell in table.find("./thead/tr")] for table in tables]
    assert heads == [["measure", "f32", "int8"], ["measure", "f32", "f32, codec sq8", "int8", "int8, codec sq8"]]
    assert "-" not in [said(cell) for table in tables for cell in table.iter("td")], "no column stands empty"


def test_rows_that_all_models_share_stand_there_once(page, said):
    same, other = [{"direction": "text to vision", "queries": 3}], [{"direction": "text to vision", "queries": 2}]
    heads = ["direction", "queries"]
    for rows, expected in (((same, same), [heads]), ((same, other), [["model", *heads]])):
        found = [record(model=str(place), details={"odd": one}) for place, one in enumerate(rows)]
        tables = [table for table in page(found).iter("table") if "odd" in said(table.find("caption"))]
        assert [[said(cell) for cell in table.find("./thead/tr")] for table in tables] == expected


def test_models_go_by_the_end_of_their_path_where_that_tells_them_apart(page, said):
    models = ["/home/a/models/clip/f32", "/home/a/models/clip/int8/", "/home/b/models/clip/int8", "mini", "hf://a/b"]
    root = page([record(model=name, measures={"top1": Estimate(0.5)}) for name in models])
    head = [said(cell) for cell in root.find(".//thead/tr")]
    assert head == ["measure", "f32", "a/models/clip/int8", "b/models/clip/int8", "mini", "b"]
    assert {said(name) for name in root.find(".//header/dl")} >= {models[0], models[1]}


def test_one_model_twice_is_told_apart_by_its_settings(page, said):
    found = [record(settings={"codec": name, "seed": 1}, measures={"top1": Estimate(0.5)}) for name in ("f32", "pq8")]
    found += [record(settings={"codec": "pq8", "seed": 1}, measures={"top1": Estimate(0.25)})]
    head = [said(cell) for cell in page(found).find(".//thead/tr")]
    assert head == ["measure", "f32, codec f32", "f32, codec pq8 (2)", "f32, codec pq8 (3)"]


def test_every_section_is_linked_and_no_name_is_given_twice(page):
    root = page([record(), record(task="speed"), record(task="memory", failed=(("a", "b"),))])
    names = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(set(names)) == len(names)
    links = [link.get("href") for link in root.find(".//nav").iter("a")]
    assert len(links) == 6 and {link.removeprefix("#") for link in links} <= set(names)


def test_tables_can_be_read_by_ear_and_scroll_in_their_own_box(page):
    root = page([record(measures={"top1": Estimate(1.0)}, failed=(("a.png", "broken"),))])
    boxes = {table for box in root.iter("div") if "scroll" in box.get("class", "") for table in box.iter("table")}
    tables = list(root.iter("table"))
    assert len(tables) == 2 and set(tables) == boxes
    for table in tables:
        assert table.find("caption") is not None
        assert all(cell.get("scope") == "col" for cell in table.find("thead/tr"))
        assert all(row[0].get("scope") == "row" for row in table.find("tbody"))
    for box in (one for one in root.iter("div") if one.get("class") == "scroll"):
        assert box.get("tabindex") == "0" and box.get("aria-label")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_wherever_it_stands(page, said, text):
    found = record(
        task=text,
        title=text,
        model=text,
        settings={text: text},
        measures={text: Estimate(1.0)},
        details={text: [{text: text}], "plain": text, "nested": {"a": {"b": [text]}}},
        failed=((text, text),),
        environment={text: text},
    )
    root = page([found, record(model="other", measures={text: Estimate(0.5)})], title=text)
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section", "div"}
    allowed |= {"h1", "h2", "h3", "p", "a", "ul", "li", "dl", "dt", "dd", "span"}
    allowed |= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert {element.tag for element in root.iter()} == allowed
    attributes = {name for element in root.iter() for name in element.keys()}
    assert not any(name.startswith("on") or name in ("src", "style", "srcset") for name in attributes)
    assert all(link.get("href").startswith("#") for link in root.iter("a"))
    harmless = re.sub(r"[\x00\x07\x9b\ud800\ufdd0\uffff\u202e]", "\ufffd", text)
    assert said(root).count(" ".join(harmless.split())) >= 8


def test_no_address_is_in_a_page_and_none_could_be_asked(page):
    root = page([record()])
    policy = next(meta.get("content") for meta in root.iter("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "script" not in policy
    assert not re.search(r"(?i)https?:|//|url\(|@import", html([record()]).removeprefix("<!doctype html>"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(details=st.dictionaries(st.text(max_size=6), json_values, max_size=4), task=st.text(max_size=10))
def test_any_details_of_a_task_nobody_knows_give_a_valid_page(read_page, details, task):
    read_page(html([record(task=task or "x", details=details)]))


def test_long_tables_are_cut_and_say_so(page, said):
    root = page([record(failed=tuple((f"{number}.png", "no picture") for number in range(1000)))])
    table = list(root.iter("table"))[-1]
    assert len(table.findall("tbody/tr")) == 200
    assert "first 200 of 1000" in said(table.find("caption"))


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write_html(path, [record()], title="one")
    before = path.read_text(encoding="utf-8")
    assert before == html([record()], title="one") and before.startswith("<!doctype html>")
    with pytest.raises(UsageError, match="nothing to report"):
        write_html(path, [])
    assert path.read_text(encoding="utf-8") == before
    with pytest.raises(UsageError, match=r"cannot be written"):
        write_html(tmp_path / "not there" / "report.html", [record()])
    with pytest.raises(UsageError, match=r"cannot be written"):
        write_html(tmp_path, [record()])
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
