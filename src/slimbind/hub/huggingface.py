"""Hugging Face repositories: only the needed files, from the cache where they are there; never a call when offline."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimbind.artifact import MANIFEST, Artifact
from slimbind.errors import CheckpointError, HubError, OfflineError, UsageError
from slimbind.hub import layout
from slimbind.hub.offline import is_offline, silence_telemetry

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf://"
DEFAULT_REVISION = "main"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPO = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")


@dataclass(frozen=True)
class _Wanted:
    modalities: tuple[str, ...] | None
    artifact_only: bool


class _UnreachableError(HubError):
    """The hub did not answer; what is in the cache may do."""


@dataclass(frozen=True)
class Repository:
    """``org/name`` at a branch, tag or commit."""

    name: str
    revision: str = DEFAULT_REVISION

    @classmethod
    def parse(cls, source: str) -> Repository:
        """Read ``hf://org/repo[@revision]``.

        Raises:
            UsageError: it has another form.
        """
        found = _REPO.fullmatch(source.removeprefix(PREFIX))
        if found is None or ".." in source:
            raise UsageError(f"{source!r} is no repository", hint="write hf://ORGANISATION/NAME or ...@REVISION")
        return cls(found["repo"], found["revision"] or DEFAULT_REVISION)

    def __str__(self) -> str:
        at = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{PREFIX}{self.name}{at}"


def snapshot(repository: Repository, modalities: Iterable[str] | None = None, *, artifact_only: bool = False) -> Path:
    """The local folder of a repository with the files that are needed in it; fetches those that are missing.

    Of an artifact these are the manifest and the folders of ``modalities`` (all by default); of a checkpoint the
    weights in one format, the configs and the model card. ``HF_HOME``, ``HF_TOKEN`` and ``HF_ENDPOINT`` are honoured.

    Raises:
        HubError: the repository does not exist, is not open to us, or cannot be reached.
        OfflineError: the network is forbidden and a needed file is not in the cache.
        CheckpointError: the repository holds neither an artifact nor a checkpoint.
        UsageError: it holds a checkpoint, but ``artifact_only`` was set: nothing large is fetched to find that out.
    """
    wanted = _Wanted(None if modalities is None else tuple(modalities), artifact_only)
    if is_offline():
        return _cached(repository, wanted)
    try:
        return _fetched(repository, wanted)
    except _UnreachableError:
        try:
            return _cached(repository, wanted)
        except OfflineError:
            pass  # what is in the way is the hub, not the cache
        raise


def _fetched(repository: Repository, wanted: _Wanted) -> Path:
    api = _api()
    # One call without the library's long retries, so that a hub that is down soon leaves the word to the cache.
    told = _guarded(repository, lambda: api.model_info(repository.name, revision=repository.revision))
    names = {sibling.rfilename for sibling in told.siblings or ()}
    folder: list[Path] = []

    def fetch(name: str) -> Path:
        from huggingface_hub import hf_hub_download

        if name not in names:
            raise HubError(f"{repository} names {name!r} but does not have it", hint="the repository is incomplete")
        got = _guarded(
            repository,
            lambda: hf_hub_download(
                repository.name,
                name,
                revision=repository.revision,
                library_name="slimbind",
                library_version=_version(),
                cache_dir=_cache_folder(),
                endpoint=os.environ.get("HF_ENDPOINT"),
            ),
        )
        path = Path(got)
        place = path.parents[name.count("/")]
        if folder and folder[0] != place:
            raise HubError(f"{repository} was changed while it was fetched", hint="run the same command again")
        folder[:] = [place]
        return path

    for name in _needed(names, str(repository), fetch, wanted):
        fetch(name)
    return folder[0]


def _cached(repository: Repository, wanted: _Wanted) -> Path:
    """The snapshot in the cache, whose layout is documented (huggingface_hub, "Understand caching"); no call."""
    storage = _cache_folder() / f"models--{repository.name.replace('/', '--')}"
    reference = storage / "refs" / repository.revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else repository.revision
    folder = storage / "snapshots" / commit
    mend = "unset HF_HUB_OFFLINE once to fetch it"
    if not folder.is_dir():
        raise OfflineError(f"{repository} is not in the cache ({_cache_folder()}), and the network is off", hint=mend)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    def look(name: str) -> Path:
        if name not in names:
            raise OfflineError(f"{name!r} of {repository} is not in the cache, and the network is off", hint=mend)
        return folder / name

    try:
        for name in _needed(names, str(repository), look, wanted):
            look(name)
    except CheckpointError as error:
        raise OfflineError(error.message, hint=mend) from error
    return folder


def _needed(names: set[str], where: str, get: Callable[[str], Path], wanted: _Wanted) -> Iterable[str]:
    """The files to have, in the order of fetching; ``get`` brings those that say which others are needed."""
    found = layout.choose(names, where=where)
    if wanted.artifact_only and not found.artifact:
        raise layout.split_first(where)
    yield from filter(None, (found.card,))
    if found.artifact:
        artifact = Artifact.open(get(MANIFEST).parent)
        chosen = artifact.modalities if wanted.modalities is None else wanted.modalities
        for modality in chosen:
            for file in artifact.tower(modality).files:
                yield file.path
        return
    yield from found.configs
    if not found.sharded:
        yield found.weights
        return
    index = get(found.weights)
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{where}: {found.weights} cannot be read: {error}") from error
    yield from layout.shards(content, where=f"{where}: {found.weights}")


def _guarded(repository: Repository, call: Callable[[], Any]) -> Any:  # noqa: ANN401  (what the call returns)
    """Run a call to the hub; its many errors become ours."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return call()
    except GatedRepoError as error:
        raise HubError(f"{repository} is gated", hint="accept its terms on its page and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"{repository} does not exist, or is private", hint="check the name, or set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repository.name} has no revision {repository.revision!r}") from error
    except OfflineModeIsEnabled as error:
        raise OfflineError(f"{repository} is needed, and the network is off", hint="unset HF_HUB_OFFLINE") from error
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise _UnreachableError(
            f"{repository}: {_first_line(error)}", hint="see whether the hub can be reached"
        ) from error
    except (HFValidationError, EntryNotFoundError) as error:
        raise HubError(f"{repository}: {_first_line(error)}", hint="check the name") from error
    except OSError as error:
        raise HubError(
            f"{repository}: {_first_line(error)}", hint="see whether there is space left on the disk"
        ) from error
    except Exception as error:
        # The library's HTTP client has changed over its versions, and so has the type of its connection errors.
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
            raise
        raise _UnreachableError(
            f"{repository}: the hub cannot be reached ({_first_line(error)})", hint="try again later"
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _api() -> HfApi:
    silence_telemetry()
    from huggingface_hub import HfApi, constants

    constants.HF_HUB_DISABLE_TELEMETRY = True  # in case it was imported before
    return HfApi(os.environ.get("HF_ENDPOINT"), library_name="slimbind", library_version=_version())


def _version() -> str:
    from slimbind import __version__

    return __version__


def _cache_folder() -> Path:
    """Where the hub's library keeps its files, by its own rules, without importing it."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    if os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.environ["HUGGINGFACE_HUB_CACHE"]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "huggingface" / "hub"
