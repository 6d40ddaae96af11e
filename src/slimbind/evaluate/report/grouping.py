"""Which records stand side by side: those of one evaluation, a column for each model, in the order they came in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slimbind.evaluate.outcome import DIFFERENCE, WHOLE
from slimbind.evaluate.record import Estimate, Record

_SAY = ("codec", "scheme", "engine", "modality", "modalities")  # what tells columns of one model apart, first of all


@dataclass(frozen=True)
class Column:
    """A record under the heading that its table has for it."""

    label: str
    record: Record


@dataclass(frozen=True)
class Group:
    """Records of one evaluation.

    Args:
        task: theirs.
        title: theirs.
        columns: one for each record; no two labels are the same.
    """

    task: str
    title: str
    columns: tuple[Column, ...]

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of all measures, as the first record that has them orders them; differences behind their number."""
        found = dict.fromkeys(name for column in self.columns for name in column.record.measures)
        behind = {name for name in found if name.endswith(DIFFERENCE) and name.removesuffix(DIFFERENCE) in found}
        return tuple(one for name in found if name not in behind for one in (name, *({name + DIFFERENCE} & behind)))

    def estimate(self, measure: str, label: str) -> Estimate | None:
        """The number in a column, if there is one."""
        found = (column.record.measures.get(measure) for column in self.columns if column.label == label)
        return next(found, None)


def groups(records: Sequence[Record]) -> list[Group]:
    """Gather records of the same task and title, the tasks in the order in which they first come."""
    short = short_names(list(dict.fromkeys(record.model for record in records)))
    found: dict[tuple[str, str], list[Record]] = {}
    for task in dict.fromkeys(record.task for record in records):
        for record in records:
            if record.task == task:
                found.setdefault((task, record.title), []).append(record)
    return [Group(task, title, tuple(map(Column, labels(of, short), of))) for (task, title), of in found.items()]


def short_names(models: Sequence[str]) -> dict[str, str]:
    """What each model is called in tables: the end of its path, with as much before it as tells it from the others."""
    parts = {model: [part for part in re.split(r"[/\\]+", model) if part] or [model] for model in models}
    found: dict[str, str] = {}
    for model, own in parts.items():
        others = [theirs for other, theirs in parts.items() if other != model]
        depth = next((n for n in range(1, len(own)) if all(theirs[-n:] != own[-n:] for theirs in others)), len(own))
        found[model] = "/".join(own[-depth:])
    return {model: name if list(found.values()).count(name) == 1 else model for model, name in found.items()}


def labels(records: Sequence[Record], short: Mapping[str, str]) -> list[str]:
    """A heading for each: the model's short name, and where one comes twice, the settings in which records differ.

    Beside other models, one whose embeddings are not compressed goes by its name alone, as it does in other tasks.
    """
    models = [record.model for record in records]
    keys = sorted({key for record in records for key in record.settings}, key=lambda key: (key not in _SAY, key))
    differing = [key for key in keys if len({json.dumps(record.settings.get(key)) for record in records}) > 1]
    several = len(set(models)) > 1
    found = []
    for record in records:
        told = [short[record.model]]
        if models.count(record.model) > 1:
            told += [
                _said(key, record.settings[key])
                for key in differing
                if key in record.settings and not (several and (key, record.settings[key]) == ("codec", WHOLE))
            ]
        found.append(", ".join(told))
    return [name if found.count(name) == 1 else f"{name} ({place + 1})" for place, name in enumerate(found)]


def headings(of: Sequence[Group]) -> list[str]:
    """A heading for each group of a table: its title, behind its task where another has the same title."""
    titles = [group.title for group in of]
    return [group.title if titles.count(group.title) == 1 else f"{group.task}, {group.title}" for group in of]


def all_labels(of: Sequence[Group]) -> list[str]:
    """Every column of a table that holds all groups."""
    return list(dict.fromkeys(column.label for group in of for column in group.columns))


def _said(key: str, value: object) -> str:
    return f"{key} {value if isinstance(value, str) else json.dumps(value)}"
