"""From what a user names (a model, a folder, a file, ``hf://``, ``https://``) to files on this machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from slimbind.artifact import MANIFEST, sha256_of
from slimbind.errors import ArtifactError, CheckpointError, HubError, UsageError
from slimbind.hub import layout
from slimbind.hub.known import catalog, find, packaged_folder

HF = "hf://"
_WEB = ("https://", "http://")
_MAX_JSON_BYTES = 16 << 20
_OPEN_CLIP_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint on this machine.

    ``files`` are its weights, ``config`` and ``preparation`` the architecture's and the preprocessing's settings that
    were published beside them, ``license`` what its card states (or an empty string), ``source`` where it came from,
    without local paths.
    """

    id: str
    source: str
    files: tuple[Path, ...]
    config: Mapping[str, Any] | None = None
    preparation: Mapping[str, Any] | None = None
    license: str = ""


def resolve(source: str | os.PathLike[str], modalities: Iterable[str] | None = None) -> Path:
    """The local artifact folder that ``source`` names, for ``slimbind.load``; fetched first if it is on the hub.

    Args:
        source: a known model's name, a folder, or ``hf://org/repo[@revision]``. A name wins over a folder of the same
            name in the current directory: write ``./mini`` for that.
        modalities: which towers to fetch; all by default, none but the manifest if it is empty.

    Raises:
        UsageError: nothing is called so, or it is a checkpoint that has to be split first.
        ArtifactError: the folder is no artifact.
        HubError, OfflineError: it cannot be fetched.
    """
    text = os.fspath(source)
    model = find(text)
    if model is not None and model.packaged:
        return packaged_folder(model.name)
    if model is not None or text.startswith(_WEB):
        raise layout.split_first(text if model is None else model.name)
    if text.startswith(HF):
        from slimbind.hub.huggingface import Repository, snapshot

        return snapshot(Repository.parse(text), modalities, artifact_only=True)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / MANIFEST).is_file() and _is_checkpoint_folder(path):
            raise layout.split_first(text)
        return path
    if path.exists():
        raise layout.split_first(text)
    raise _nothing(text)


def fetcher(source: str | os.PathLike[str], folder: Path) -> Callable[[str], object] | None:
    """What brings one modality's files into ``folder``, which ``resolve(source)`` gave; None where all are local.

    It asks for the commit that the folder is of: a branch that moves meanwhile does not mix two versions.
    """
    text = os.fspath(source)
    if not text.startswith(HF):
        return None
    from slimbind.hub.huggingface import Repository

    pinned = f"{HF}{Repository.parse(text).name}@{folder.name}"
    return lambda modality: resolve(pinned, [modality])


def checkpoint(
    source: str | os.PathLike[str],
    *,
    sha256: str = "",
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> FoundCheckpoint:
    """The files of the checkpoint that ``source`` names, for ``slimbind split``; fetched first if they are elsewhere.

    Args:
        source: a file, a folder, ``hf://org/repo[@revision]``, an ``https`` address, or a known model's name.
        sha256: what the one file of weights must hash to, in hex.
        progress: hears ``(bytes so far, bytes in all or None)`` while an ``https`` address is fetched.

    Raises:
        UsageError: nothing is called so, it is an artifact already, or a checksum was given for several files.
        CheckpointError: there are no weights, or several that could be meant.
        HubError, OfflineError: it cannot be fetched, or does not match ``sha256``.
    """
    text = os.fspath(source)
    model = find(text)
    if model is not None and model.packaged:
        raise UsageError(f"{text!r} is a packaged model; there is nothing to split")
    if model is not None:
        text, sha256 = model.source, sha256 or model.sha256
    if text.startswith(_WEB):
        return _from_web(text, sha256, progress)
    if text.startswith(HF):
        from slimbind.hub.huggingface import Repository, snapshot

        repository = Repository.parse(text)
        found = _from_folder(snapshot(repository), where=str(repository), id=repository.name, source=str(repository))
    else:
        path = Path(text).expanduser()
        if path.is_dir():
            name = path.resolve().name
            found = _from_folder(path, where=text, id=name, source=name)
        elif path.is_file():
            found = _from_file(path)
        else:
            raise _nothing(text)
    _check_sum(found, sha256)
    return found


def cache_folder() -> Path:
    """Where files fetched over ``https`` are kept: ``SLIMBIND_CACHE``, or ``slimbind`` in the user's cache folder."""
    if os.environ.get("SLIMBIND_CACHE"):
        return Path(os.environ["SLIMBIND_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimbind"


def _from_web(url: str, sha256: str, progress: Callable[[int, int | None], None]) -> FoundCheckpoint:
    from slimbind.hub.download import check_url, fetch, shown

    parts = urlsplit(check_url(url))
    name = PurePosixPath(parts.path).name
    if not name:
        raise UsageError(f"{shown(url)} names no file")
    known = next((model for model in catalog() if model.source == url), None)
    # Two files of one name may come from two places; the address keeps them apart.
    place = cache_folder() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    if not sha256 and known is not None:
        sha256 = known.sha256
    file = fetch(url, place, sha256=sha256, progress=progress)
    return FoundCheckpoint(id=known.name if known else PurePosixPath(name).stem, source=shown(url), files=(file,))


def _from_file(path: Path) -> FoundCheckpoint:
    if path.name == MANIFEST:
        raise _already(str(path.parent))
    files = _shards_of(path) if path.name.endswith(layout.INDEX_SUFFIX) else (path,)
    return FoundCheckpoint(id=path.name.partition(".")[0] or path.name, source=path.name, files=files)


def _from_folder(folder: Path, *, where: str, id: str, source: str) -> FoundCheckpoint:  # noqa: A002
    found = layout.choose([path.name for path in folder.iterdir() if path.is_file()], where=where)
    if found.artifact:
        raise _already(where)
    weights = folder / found.weights
    contents = {name: read_json(folder / name) for name in found.configs}
    order = [_OPEN_CLIP_CONFIG, "config.json"]
    if not found.weights.startswith("open_clip"):
        order.reverse()
    config = next((contents[name] for name in order if name in contents), None)
    preparation = config if config and "preprocess_cfg" in config else contents.get("preprocessor_config.json")
    card = (folder / found.card).read_text(encoding="utf-8", errors="replace") if found.card else ""
    return FoundCheckpoint(
        id=id,
        source=source,
        files=_shards_of(weights) if found.sharded else (weights,),
        config=config,
        preparation=preparation,
        license=layout.license_of(card),
    )


def _shards_of(index: Path) -> tuple[Path, ...]:
    names = layout.shards(read_json(index), where=str(index))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index} names {missing[0]!r}, which is not there", hint="fetch the whole model")
    return tuple(index.parent / name for name in names)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: it cannot be read, or is no JSON object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than any config ({_MAX_JSON_BYTES} bytes)")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def _check_sum(found: FoundCheckpoint, sha256: str) -> None:
    if not sha256:
        return
    if len(found.files) != 1:
        raise UsageError("--sha256 is for one file, but these weights are in several")
    digest = sha256_of(found.files[0])
    if digest != sha256.lower():
        raise HubError(f"{found.files[0]} has sha256 {digest}, not {sha256}", hint="fetch it again")


def _is_checkpoint_folder(path: Path) -> bool:
    try:
        layout.choose([child.name for child in path.iterdir() if child.is_file()], where=str(path))
    except CheckpointError:
        return False
    return True


def _already(where: str) -> UsageError:
    return UsageError(f"{where} is an artifact: it is split already", hint="use it as it is, or `slimbind export` it")


def _nothing(text: str) -> UsageError | ArtifactError:
    if "/" in text or os.sep in text or text.startswith("."):
        return ArtifactError(f"{text} does not exist", hint="check the path, or see `slimbind models` for names")
    names = [model.name for model in catalog()]
    return UsageError.unknown("model", text, names, hint="or name a folder, or hf://ORGANISATION/NAME")
