"""Markdown: the numbers of the page as a table that stays a table."""

from __future__ import annotations

import pytest

from slimbind.errors import UsageError
from slimbind.evaluate.record import Estimate, Record
from slimbind.evaluate.report import markdown


def test_a_row_for_each_measure_and_a_column_for_each_model():
    found = markdown(
        [
            Record("zero-shot", "CIFAR-10", "f32", measures={"top1": Estimate(0.713, 0.65, 0.77)}),
            Record("zero-shot", "CIFAR-10", "int8", measures={"top1": Estimate(0.71), "bytes": Estimate(3 << 20)}),
        ]
    )
    assert found.splitlines() == [
        "| measure | f32 | int8 |",
        "| --- | ---: | ---: |",
        "| top1 | 71.3 % (65.0 to 77.0 %) | 71.0 % |",
        "| bytes | - | 3.0 MiB |",
    ]


def test_a_difference_stands_behind_its_number():
    first = Record("zero-shot", "x", "f32", measures={"top-1": Estimate(0.7), "top-5": Estimate(0.9)})
    second = Record(
        "zero-shot", "x", "int8", measures=first.measures | {"top-1 difference": Estimate(-0.01, -0.02, 0.003)}
    )
    assert [line.split(" | ")[0] for line in markdown([first, second]).splitlines()[2:]] == [
        "| top-1",
        "| top-1 difference",
        "| top-5",
    ]
    assert "| - | -1.0 points (-2.0 to +0.3) |" in markdown([first, second])


def test_two_tasks_on_the_same_data_are_told_apart():
    records = [
        Record(task, "birds", "f32", measures={"top-1": Estimate(0.5)}) for task in ("zero-shot", "linear-probe")
    ]
    names = [line.split(" | ")[0] for line in markdown(records).splitlines()[2:]]
    assert names == ["| zero-shot, birds: top-1", "| linear-probe, birds: top-1"]


def test_what_would_be_markup_or_leave_its_cell_is_escaped():
    found = markdown([Record("x", "y", "a|b\n<i>*c*<i>`d`[e](f)\x00", measures={"m": Estimate(1.0)})])
    assert found.splitlines()[0] == r"| measure | a\|b \<i\>\*c\*\<i\>\`d\`\[e\](f)" + "\ufffd |"
    assert len(found.splitlines()) == 3


def test_no_records_are_no_table():
    with pytest.raises(UsageError, match="nothing to report"):
        markdown([])
