"""WebDataset: tar files in which the files of one sample follow each other and share their name up to the first dot.

``0001.jpg``, ``0001.cls``, ``0001.txt`` are one sample: a picture, its class, its caption. Other types are left alone.
A ``.json`` may hold ``label``, ``caption`` or ``text`` in place of files of their own.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any

from slimbind.datasets.dataset import Dataset, Sample
from slimbind.datasets.files import SPLITS, class_names, part_of
from slimbind.datasets.tar import Member, is_tar, members
from slimbind.errors import UsageError
from slimbind.modalities import MODALITIES, check_modality, modality_of

_NAMES = ("classnames.txt", "classes.txt")
_LOOKED_AT = 64  # samples that tell what there is
_SMALL = 4 << 20  # bytes of a .cls, .txt or .json; more is none
_MEDIA_BYTES = 256 << 20
_DESCRIBING = {"cls", "txt", "json"}

Files = dict[str, bytes]  # of one sample, by type


class WebDataset(Dataset):
    """Samples of one or many tars. Pictures and sounds come as bytes.

    Args:
        shards: tar files, read in this order.
        path: where they are, for messages.
        columns: the types of what is embedded and, for pairs, of its other side (``jpg``, ``txt``); by default the
            first known type, and the text, or else the next type of another modality.
        modalities: of these; by default what the types tell.

    Class names are the lines of ``classnames.txt`` or ``classes.txt`` beside the tars, or in the folder above.

    Raises:
        DatasetError: a file is no tar, or damaged. UsageError: no sample has what is asked for.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        path: Path,
        *,
        columns: Sequence[str] | None = None,
        modalities: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self._shards = tuple(shards)
        listed = [
            place / name for shard in shards[:1] for place in (shard.parent, shard.parent.parent) for name in _NAMES
        ]
        names = next((class_names(file) for file in listed if file.is_file()), None)
        types, captioned = self._look()
        asked = [name.lower().removeprefix(".") for name in columns or ()]
        if len(asked) > 2:
            raise UsageError(f"columns is {asked}", hint="name what is embedded, and for pairs its other side")
        for name in asked:
            if name not in types:
                raise UsageError.unknown(f"type of file in {path}", name, types)
        self._types = asked or _chosen(types, modalities[0], path)
        kinds = [
            check_modality(told) if told else _modality(name) or "text"
            for told, name in zip(modalities, self._types, strict=False)
        ]
        self._captioned = len(self._types) == 1 and captioned and kinds != ["text"]
        self._class = {name: number for number, name in reversed([*enumerate(names or ())])}  # the first of its name
        super().__init__("webdataset", path, modalities=tuple(kinds + ["text"] * self._captioned), classes=names)

    def _look(self) -> tuple[list[str], bool]:
        """The types of the first samples, in their order, and whether they have captions."""
        self.skipped = []
        types: dict[str, None] = {}
        captioned = False
        for _, files in islice(self._groups(_DESCRIBING), _LOOKED_AT):
            types.update(dict.fromkeys(files))
            with suppress(ValueError):
                captioned = captioned or _caption(files) is not None
        return list(types), captioned

    def _samples(self) -> Iterator[Sample]:
        for name, files in self._groups({*self._types, *_DESCRIBING}):
            lacking = [one for one in self._types if one not in files]
            if lacking:
                self.skip(name, f"has no .{lacking[0]}")
                continue
            try:
                sides = [
                    _text(files, one) if kind == "text" else files[one]
                    for one, kind in zip(self._types, self.modalities, strict=False)
                ]
                words = _caption(files)
                label = self._label(files)
                if self._captioned:
                    if words is None:
                        raise ValueError("has no caption")
                    sides.append(words)
            except ValueError as error:
                self.skip(name, str(error))
                continue
            if words is None:
                words = next((side for side in sides if isinstance(side, str)), None)
            yield Sample(sides[0], label, words, name, sides[1] if len(sides) > 1 else None)

    def _groups(self, wanted: Container[str]) -> Iterator[tuple[str, Files]]:
        """The files of each sample; of types that are not wanted nothing is read, and nothing told but that they are
        there. What is too large, or leaves the tar, is left out.
        """
        for shard in self._shards:
            found = members(shard, max_bytes=_MEDIA_BYTES, left_out=partial(self._leave_out, shard))
            for key, group in groupby(found, key=lambda member: _split(member)[0]):
                files: Files = {}
                for member in group:
                    kind = _split(member)[1]
                    if kind in files:
                        self._leave_out(shard, member.name, f"is the second .{kind} of its sample")
                    elif kind in _DESCRIBING and member.size > _SMALL:
                        self._leave_out(shard, member.name, f"has {member.size} bytes; the limit is {_SMALL}")
                    elif kind:
                        files[kind] = member.read() if kind in wanted else b""
                if files:
                    yield f"{shard.name}/{key}", files

    def _leave_out(self, shard: Path, name: str, why: str) -> None:
        self.skip(f"{shard.name}/{name}", why)

    def _label(self, files: Files) -> int | None:
        if "cls" in files:
            told: Any = _text(files, "cls")
        else:
            about = _about(files)
            told = about.get("label", about.get("cls"))
        if told is None:
            return None
        if isinstance(told, str) and told in self._class:
            return self._class[told]
        try:
            number = int(told) if isinstance(told, int | str) and not isinstance(told, bool) else -1
        except ValueError:
            raise ValueError(f"has the class {str(told)[:60]!r}, which is in no {' or '.join(_NAMES)}") from None
        if number < 0 or (self.classes is not None and number >= len(self.classes)):
            raise ValueError(f"has the label {str(told)[:60]}")
        return number


def shards_of(path: Path, split: str | None = None) -> list[Path]:
    """The tars in a folder, or in the subfolder of a split; the file itself where it is one."""
    if path.is_file():
        return [path]
    folder = part_of(path, split) if not _tars(path) or split is not None else path
    return _tars(folder)


def has_shards(path: Path) -> bool:
    """Whether a file or folder is tars, in itself or in the subfolders of its splits."""
    if path.is_file():
        return is_tar(path)
    return bool(_tars(path)) or any(_tars(path / split) for split in SPLITS if (path / split).is_dir())


def _tars(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_tar(file) and not file.name.startswith("."))


def _split(member: Member) -> tuple[str, str]:
    """Key and type: ``a/b.seg.png`` is the ``seg.png`` of ``a/b``; what begins with a dot is of no sample."""
    path = PurePosixPath(member.name)
    stem, _, kind = path.name.partition(".")
    return (path.parent / stem).as_posix() if stem else "", kind.lower() if stem else ""


def _modality(kind: str) -> str | None:
    return modality_of(f"x.{kind}")


def _chosen(types: Sequence[str], modality: str | None, path: Path) -> list[str]:
    """The types to embed where nobody names them."""
    media = [name for name in types if name not in _DESCRIBING]
    if modality is not None:
        info = MODALITIES[check_modality(modality)]
        media = [name for name in media if f".{name}" in info.suffixes | info.explicit_suffixes]
    else:
        media = [name for name in media if _modality(name) not in (None, "imu", "text")]
    if not media:
        raise UsageError(
            f"{path} has no files of {modality or 'a known type'}: {', '.join(types) or 'nothing'}",
            hint="name the types, for example --columns png,txt",
        )
    if "txt" in types:
        return [media[0], "txt"]
    other = next((name for name in media if _modality(name) != _modality(media[0])), None)
    return [media[0]] if other is None else [media[0], other]


def _text(files: Files, kind: str) -> str:
    try:
        text = files[kind].decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"has a .{kind} that is not UTF-8") from None
    if not text:
        raise ValueError(f"has an empty .{kind}")
    return text


def _about(files: Files) -> dict[str, Any]:
    if "json" not in files:
        return {}
    try:
        told = json.loads(_text(files, "json"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a .json that is none: {error}") from None
    return told if isinstance(told, dict) else {}


def _caption(files: Files) -> str | None:
    if "txt" in files:
        return _text(files, "txt")
    about = _about(files)
    told = about.get("caption", about.get("text"))
    return told.strip() or None if isinstance(told, str) else None
