"""A recipe: which layer gets which scheme, as an ordered list of patterns that people can read, edit and keep as JSON.

    {
     "type": "slimbind-recipe",
     "version": 1,
     "rest": "bf16",
     "rules": [
      {"layers": "blocks.0.*",          "scheme": "bf16"},
      {"layers": "blocks.*.mlp.fc?",    "scheme": "int4-weight", "group": 64},
      {"layers": "vision/head.proj",    "scheme": "f16"},
      {"layers": "text/stem.embedding", "scheme": "int8-weight"},
      {"layers": "*",                   "scheme": "int8-dynamic"}
     ]
    }

Patterns are shell patterns over the names of a tower's layers (``*`` any characters, dots too; ``?`` one; ``[12]`` one
of these), and must match a whole name. With a modality in front (``vision/``) they are asked of that tower alone.

Precedence, in full: **the first rule that matches a layer decides**, later ones do not add to it. A layer that no rule
matches is stored as ``rest``. A rule that decides nothing is an error: its pattern has a typo, or stands behind rules
that take everything it would match.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slimbind.errors import ArtifactVersionError, UsageError
from slimbind.modalities import check_modality

VERSION = 1
LayerScheme = Literal["int8-dynamic", "int8-static", "int8-weight", "int4-weight", "f32", "f16", "bf16"]
SCHEMES: tuple[str, ...] = get_args(LayerScheme)
_MOST_BYTES = 4 << 20  # a recipe is some kilobytes


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Record):
    """All layers whose name matches ``layers`` get ``scheme``; ``group`` is of ``int4-weight`` alone."""

    layers: str = Field(min_length=1)
    scheme: LayerScheme
    group: int | None = Field(default=None, ge=1)

    def matches(self, modality: str, layer: str) -> bool:
        """Whether the pattern fits this layer of this tower."""
        tower, slash, pattern = self.layers.rpartition("/")
        return (not slash or tower == modality) and fnmatch.fnmatchcase(layer, pattern)


class Recipe(_Record):
    """Ordered rules; see the module's text."""

    type: Literal["slimbind-recipe"] = "slimbind-recipe"
    version: int = VERSION
    rest: Literal["f32", "f16", "bf16"] = "bf16"
    rules: tuple[Rule, ...] = Field(min_length=1)

    def assign(self, modality: str, layers: Iterable[str]) -> dict[str, Rule]:
        """The rule that decides each layer of one tower; layers without one are not in it."""
        found = {}
        for layer in layers:
            rule = next((rule for rule in self.rules if rule.matches(modality, layer)), None)
            if rule is not None:
                found[layer] = rule
        return found

    def deciding(self, modality: str, layers: Iterable[str]) -> Recipe:
        """Without the rules that decide nothing of this tower: what gives it again when it is alone.

        Raises:
            UsageError: no rule is left.
        """
        names = list(layers)
        used = {id(rule) for rule in self.assign(modality, names).values()}
        own = [k for k, rule in enumerate(self.rules) if rule.layers.rpartition("/")[0] in ("", modality)]
        if not used and own:
            raise self._useless(own[0], {modality: names})
        if not used:
            raise UsageError(f"the recipe has no rule for the {modality} tower", hint="leave that modality out")
        return self.model_copy(update={"rules": tuple(rule for rule in self.rules if id(rule) in used)})

    def check(self, towers: Mapping[str, Iterable[str]]) -> None:
        """Refuse rules that decide no layer of any of these towers (modality -> names of its layers).

        Raises:
            UsageError: names the rule, what it could have meant, or the rule that comes before it.
        """
        layers = {modality: list(names) for modality, names in towers.items()}
        deciding = {id(rule) for modality, names in layers.items() for rule in self.assign(modality, names).values()}
        for number, rule in enumerate(self.rules):
            if id(rule) not in deciding:
                raise self._useless(number, layers)

    def _useless(self, number: int, layers: Mapping[str, list[str]]) -> UsageError:
        rule = self.rules[number]
        got = f"rule {number + 1} of the recipe, {rule.layers!r}"
        tower, slash, pattern = rule.layers.rpartition("/")
        if slash and tower not in layers:
            return UsageError(
                f"{got}, is for the tower {tower!r}; the towers here are {', '.join(layers)}",
                hint="write modality/pattern, or leave the modality out",
            )
        for modality, names in layers.items():
            for name in names:
                if rule.matches(modality, name):
                    first = next(k for k, other in enumerate(self.rules) if other.matches(modality, name))
                    return UsageError(
                        f"{got}, never decides: rule {first + 1}, {self.rules[first].layers!r}, already takes {name}",
                        hint="the first rule that matches a layer decides; move the narrower pattern up",
                    )
        known = [name for modality, names in layers.items() if tower in ("", modality) for name in names]
        near = near_misses(pattern, known)
        return UsageError(
            f"{got}, matches no layer",
            hint=f"nearest: {', '.join(near)}" if near else "there are no layers that can be quantized",
        )

    def to_json(self) -> str:
        """The recipe as text, one rule a line."""
        lines = [json.dumps(rule.model_dump(exclude_none=True)) for rule in self.rules]
        head = f'{{\n "type": "{self.type}",\n "version": {self.version},\n "rest": "{self.rest}",\n "rules": [\n  '
        return head + ",\n  ".join(lines) + "\n ]\n}\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "the recipe") -> Recipe:
        """Read what ``to_json`` wrote, or a person.

        Raises:
            UsageError: not JSON, an unknown field, scheme or modality.
            ArtifactVersionError: written by a newer slimbind.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{source} is not JSON: {error}", hint="see `slimbind quantize --help`") from error
        if not isinstance(raw, dict) or raw.get("type") != "slimbind-recipe":
            raise UsageError(
                f'{source} is no recipe: it lacks "type": "slimbind-recipe"',
                hint='it looks like {"type": "slimbind-recipe", "version": 1, "rules": [...]}',
            )
        version = raw.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise ArtifactVersionError(
                f"{source} has version {version}; this slimbind reads up to {VERSION}",
                hint="pip install --upgrade slimbind",
            )
        try:
            recipe = cls.model_validate(raw)
        except ValidationError as error:
            raise UsageError(f"{source}: {_first(error)}", hint=f"schemes: {', '.join(SCHEMES)}") from error
        if recipe.version < 1:
            raise UsageError(f"{source} has version {recipe.version}", hint=f"the version is {VERSION}")
        for rule in recipe.rules:
            tower, slash, pattern = rule.layers.rpartition("/")
            if slash:
                check_modality(tower)
            if not pattern:
                raise UsageError(f"{source}: the pattern {rule.layers!r} is empty", hint="use * for all layers")
            if rule.group is not None and rule.scheme != "int4-weight":
                raise UsageError(
                    f"{source}: {rule.layers!r} has a group, which {rule.scheme} does not take",
                    hint="only int4-weight is quantized in groups",
                )
        return recipe

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a file.

        Raises:
            UsageError: the file cannot be read, or see ``from_json``.
            ArtifactVersionError: written by a newer slimbind.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise UsageError(f"{path} is too large for a recipe", hint=f"at most {_MOST_BYTES} bytes")
            text = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the recipe {path} cannot be read: {error}", hint="give a JSON file") from error
        return cls.from_json(text, source=str(path))


def written(choice: Mapping[str, tuple[LayerScheme, int | None]], rest: Literal["f32", "f16", "bf16"]) -> Recipe:
    """The shortest recipe (of full names and a closing ``*``) that gives every layer what ``choice`` says of it.

    Args:
        choice: layer -> (scheme, group). The commonest becomes the closing rule; layers kept as ``rest`` are listed.
        rest: how what is no layer (positions, norms) is stored.
    """
    counts: dict[tuple[LayerScheme, int | None], int] = {}
    for value in choice.values():
        counts[value] = counts.get(value, 0) + 1
    common = max(counts, key=lambda value: counts[value])
    rules = [
        Rule(layers=_escaped(name), scheme=value[0], group=value[1])
        for name, value in choice.items()
        if value != common
    ]
    return Recipe(rest=rest, rules=(*rules, Rule(layers="*", scheme=common[0], group=common[1])))


def near_misses(pattern: str, names: Iterable[str], most: int = 5) -> list[str]:
    """Names that a pattern which matches nothing may have meant, nearest first; the same layer of many blocks once."""
    shapes = {re.sub(r"(?<=\.)\d+(?=\.)", "N", name): name for name in reversed(list(names))}
    bare = re.sub(r"(?<=\.)[\d*?]+(?=\.)", "N", pattern)
    close = difflib.get_close_matches(bare, list(shapes), n=most, cutoff=0.3)
    return [shapes[shape] for shape in close] or sorted(shapes.values())[:most]


def _escaped(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    where = ".".join(str(part) for part in found["loc"])
    if where == "":
        return str(found["msg"])
    return f"{where}: {found['msg']}" + (f", got {found['input']!r}" if found["type"] == "literal_error" else "")
