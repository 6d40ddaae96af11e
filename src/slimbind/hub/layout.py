"""Which files of a folder or repository make a model: names in, the few that are needed out. Reads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from slimbind.artifact import MANIFEST
from slimbind.errors import CheckpointError, UsageError

CARD = "README.md"
CONFIGS = ("open_clip_config.json", "config.json", "preprocessor_config.json")

# Safetensors before pickles, and the layout whose keys need no joining before the one whose do.
_PREFERRED = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NOT_WEIGHTS = re.compile(r"(optimizer|scheduler|training_args|rng_state|tower)", re.IGNORECASE)
INDEX_SUFFIX = ".index.json"


@dataclass(frozen=True)
class Layout:
    """The files that matter, by name.

    Either ``artifact`` is true and the manifest says the rest, or ``weights`` is one file: the weights themselves, or
    (``.index.json``) the list of the files that hold them.
    """

    artifact: bool
    weights: str = ""
    configs: tuple[str, ...] = ()
    card: str = ""

    @property
    def sharded(self) -> bool:
        """Whether ``weights`` is the list of several files."""
        return self.weights.endswith(INDEX_SUFFIX)


def choose(names: Iterable[str], *, where: str) -> Layout:
    """Choose among the names of a folder's or repository's top level; ``where`` names it in errors.

    Raises:
        CheckpointError: there are no weights, or several that could be meant.
    """
    top = sorted({name for name in names if "/" not in name})
    if MANIFEST in top:
        return Layout(artifact=True, card=CARD if CARD in top else "")
    weights = next((name for name in _PREFERRED if name in top), "") or _only_one(top, where)
    configs = tuple(name for name in CONFIGS if name in top)
    return Layout(artifact=False, weights=weights, configs=configs, card=CARD if CARD in top else "")


def _only_one(names: Iterable[str], where: str) -> str:
    for suffix in _SUFFIXES:
        found = [name for name in names if name.endswith(suffix) and not _NOT_WEIGHTS.search(name)]
        if len(found) > 1:
            raise CheckpointError(f"{where} has several checkpoints: {', '.join(found)}", hint="name one of them")
        if found:
            return found[0]
    raise CheckpointError(
        f"{where} holds no checkpoint (none of {', '.join('*' + suffix for suffix in _SUFFIXES)}) and no {MANIFEST}",
        hint="name a checkpoint file, or a folder or repository that has one",
    )


def shards(index: object, *, where: str) -> tuple[str, ...]:
    """The files that an index names: ``{"weight_map": {key: file}}``.

    Raises:
        CheckpointError: it is no index, or a name leaves the folder.
    """
    places = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(places, Mapping) or not places:
        raise CheckpointError(f"{where} is not an index of weights: it has no weight_map")
    files = sorted({str(name) for name in places.values()})
    for name in files:
        if PurePosixPath(name).name != name or "\\" in name or ":" in name or name in ("", ".", ".."):
            raise CheckpointError(f"{where} names {name!r}, which is not a file beside it")
    return tuple(files)


def split_first(what: str) -> UsageError:
    """The error for a checkpoint where an artifact is wanted."""
    return UsageError(
        f"{what} is a checkpoint, not an artifact",
        hint=f"slimbind split {what} -o FOLDER, then load the folder",
    )


def license_of(card: str) -> str:
    """The licence that a model card states in its front matter (SPDX where we know it), or an empty string."""
    head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", card, re.DOTALL)
    if head is None:
        return ""
    fields = dict(re.findall(r"^(license|license_name):[ \t]*['\"]?([\w.+-]+)", head.group(1), re.MULTILINE))
    stated = fields.get("license", "")
    if stated == "other":
        stated = fields.get("license_name", "")
    return str(_SPDX.get(stated.lower(), stated))


_SPDX = {
    "mit": "MIT",
    "apache-2.0": "Apache-2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "cc0-1.0": "CC0-1.0",
}
