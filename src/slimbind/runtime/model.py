"""A model whose towers open one by one, on first use: what ``slimbind.load`` gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import Artifact
from slimbind.errors import UsageError
from slimbind.modalities import check_modality
from slimbind.runtime.crew import Crew
from slimbind.runtime.device import Device, resolve
from slimbind.runtime.encoder import Embedded, Encoder
from slimbind.runtime.engine import Options, Session, engine
from slimbind.runtime.forks import renew_after_fork
from slimbind.runtime.layout import of_tower
from slimbind.runtime.pool import LoadedTower, TowerPool
from slimbind.runtime.threads import resolve_threads
from slimbind.sizes import parse_bytes

if TYPE_CHECKING:
    from slimbind.media import Preprocessor
    from slimbind.media.limits import Limits


def load(
    source: str | os.PathLike[str],
    *,
    threads: int | None = None,
    streams: int | None = None,
    memory_budget: int | str | None = None,
    idle_ttl: float | None = None,
    preload: Iterable[str] = (),
    limits: Limits | None = None,
    verify: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    device: str = "cpu",
) -> Model:
    """Open a model. Only its manifest is read; a tower is opened when its modality is first used.

    Args:
        source: ``mini`` (comes with slimbind), a folder, or ``hf://org/repo[@revision]``, of which a tower is fetched
            when it is first used.
        threads: cores that the model may use, for decoding and forward passes together, whatever calls it; by default
            ``SLIMBIND_THREADS``, else the CPUs this process may use.
        streams: forward passes side by side on those cores; by default what suits each tower (``runtime.layout``).
        memory_budget: most bytes of weights open at once, as a number or like ``"2GB"`` (10^9) or ``"2GiB"`` (2^30).
            The tower used least recently is closed to make room.
        idle_ttl: close a tower that nobody has used for so many seconds.
        preload: modalities to open at once instead of on first use.
        limits: what one item may cost at most (bytes, pixels, seconds, frames, characters).
        verify: compare a tower's files with their sha256 before it is opened for the first time.
        cache_dir: let the engine keep compiled models there: opening is faster, at the price of disk space.
        device: ``cpu``, or for folders written by ``slimbind split`` also ``cuda``, ``cuda:1,f16,compile`` and others;
            see ``slimbind.runtime.device``.

    Raises:
        HubError, ArtifactError: there is no such model, or it is damaged or too new.
        UsageError: an argument has a value that is not allowed.
    """
    from slimbind import hub

    folder = hub.resolve(source, modalities=())  # the manifest; a tower's files come when the tower is first used
    return Model(
        Artifact.open(folder),
        threads=threads,
        streams=streams,
        memory_budget=memory_budget,
        idle_ttl=idle_ttl,
        preload=preload,
        limits=limits,
        verify=verify,
        cache_dir=cache_dir,
        device=device,
        fetch=hub.fetcher(source, folder),
    )


class Model:
    """An artifact in use. Safe to share between threads; ``with slimbind.load(...) as model`` closes it at the end.

    See ``load`` for the arguments; ``fetch`` brings the files of one modality before they are first read.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int | None = None,
        streams: int | None = None,
        memory_budget: int | str | None = None,
        idle_ttl: float | None = None,
        preload: Iterable[str] = (),
        limits: Limits | None = None,
        verify: bool = True,
        cache_dir: str | os.PathLike[str] | None = None,
        device: str = "cpu",
        fetch: Callable[[str], object] | None = None,
    ) -> None:
        self.artifact = artifact
        if idle_ttl is not None and not (isinstance(idle_ttl, int | float) and idle_ttl > 0):
            raise UsageError(f"idle_ttl is {idle_ttl!r}", hint="give seconds above 0, or leave it out")
        self.device = resolve(Device.parse(device), artifact)
        self._crew = Crew(resolve_threads(threads))
        self._layouts = {
            name: of_tower(artifact.tower(name), name, self._crew.size, asked=streams, on_card=self.device.is_cuda)
            for name in artifact.modalities
        }
        cache = None if cache_dir is None else Path(cache_dir)
        options = {
            name: Options(layout.threads, cache, self.device, layout.streams) for name, layout in self._layouts.items()
        }
        self._parts = _Parts(artifact, options, limits, verify=verify, fetch=fetch)
        self._pool = TowerPool(
            self._parts.open,
            {name: artifact.tower(name).bytes for name in artifact.modalities},
            budget=None if memory_budget is None else parse_bytes(memory_budget),
            idle_ttl=idle_ttl,
        )
        self._encoders: dict[str, Encoder] = {}
        wanted = (preload,) if isinstance(preload, str) else tuple(preload)
        for modality in wanted:  # all, before the first is opened for nothing
            self._check(modality)
        for modality in wanted:
            with self._pool.lease(modality):
                pass

    @property
    def id(self) -> str:
        """The model's name."""
        return self.artifact.manifest.model.id

    @property
    def dim(self) -> int:
        """Length of its embeddings."""
        return self.artifact.manifest.embedding_dim

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it can embed."""
        return self.artifact.modalities

    @property
    def threads(self) -> int:
        """How many cores it may use."""
        return self._crew.size

    @property
    def loaded(self) -> dict[str, LoadedTower]:
        """The towers that are open now, and what they cost."""
        return self._pool.loaded

    def embed(self, items: Iterable[Any], modality: str, *, batch_size: int | None = None) -> NDArray[np.float32]:
        """Embed items of one modality: ``[n, dim]`` float32 unit vectors in their order. See ``Encoder.embed``.

        Raises:
            ItemsError: some items are bad; it carries the vectors of the others.
            UsageError: the model does not have this modality.
            ArtifactCorruptError, EngineError: the tower cannot be opened.
        """
        return self.encoder(modality).embed(items, batch_size=batch_size)

    def stream(self, items: Iterable[Any], modality: str, *, batch_size: int | None = None) -> Iterator[Embedded]:
        """Embed items lazily and in order; a bad one yields its error. See ``Encoder.stream``."""
        return self.encoder(modality).stream(items, batch_size=batch_size)

    def encoder(self, modality: str) -> Encoder:
        """The encoder of one modality. Making it opens nothing."""
        self._check(modality)
        if modality not in self._encoders:
            made = Encoder(
                modality,
                self.device.record(self.artifact.tower(modality)),
                self.dim,
                lease=partial(self._pool.lease, modality),
                preprocessor=partial(self._parts.preprocessor, modality),
                crew=self._crew,
                layout=self._layouts[modality],
            )
            self._encoders.setdefault(modality, made)  # another thread may have made one at the same moment
        return self._encoders[modality]

    def unload(self, modality: str | None = None) -> None:
        """Close one tower, or all, and give the memory back. They open again when they are next used."""
        if modality is not None:
            self._check(modality)
        self._pool.unload(modality)
        self._parts.forget(modality)

    def close(self) -> None:
        """Close all towers for good; waits for those in use."""
        self._pool.close()
        self._crew.close()
        self._parts.forget()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<slimbind.Model {self.id}: {', '.join(self.modalities)}; open: {', '.join(self.loaded) or 'none'}>"

    def _check(self, modality: str) -> None:
        check_modality(modality)
        self.artifact.tower(modality)


class _Parts:
    """What towers are made of: their files, brought and checked before they are first read, and their preprocessing.

    Not the model itself, so that nothing the model holds refers to it: the towers of a model that was dropped without
    being closed go with it, instead of waiting for the collector of cycles, which weights do not hurry.
    """

    def __init__(
        self,
        artifact: Artifact,
        options: dict[str, Options],
        limits: Limits | None,
        *,
        verify: bool,
        fetch: Callable[[str], object] | None,
    ) -> None:
        self._artifact = artifact
        self._options = options
        self._limits = limits
        self._fetch = fetch
        self._unfetched = set(artifact.modalities) if fetch is not None else set()
        self._unverified = set(artifact.modalities) if verify else set()
        self.preprocessors: dict[str, Preprocessor] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin with locks that nobody holds; see ``forks``."""
        self._verifying = {name: Lock() for name in self._artifact.modalities}
        self._lock = Lock()

    def open(self, modality: str) -> Session:
        self._have(modality)
        entry = self._artifact.tower(modality)
        info = self._artifact.manifest.model
        options = self._options[modality]
        return engine(entry.engine).open(self._artifact.folder, entry, options, model=info, modality=modality)

    def preprocessor(self, modality: str) -> Preprocessor:
        from slimbind.media import preprocessor

        self._have(modality)
        with self._lock:
            if modality not in self.preprocessors:
                self.preprocessors[modality] = preprocessor(
                    self._artifact.tower(modality).preprocess,
                    folder=self._artifact.folder / modality,
                    limits=self._limits,
                )
            return self.preprocessors[modality]

    def forget(self, modality: str | None = None) -> None:
        with self._lock:
            for name in [modality] if modality else list(self.preprocessors):
                self.preprocessors.pop(name, None)

    def _have(self, modality: str) -> None:
        """Make sure that a tower's files are on this machine, and are those of the manifest."""
        with self._verifying[modality]:
            if self._fetch is not None and modality in self._unfetched:
                self._fetch(modality)
                self._unfetched.discard(modality)
            if modality in self._unverified:
                self._artifact.verify(modality)
                self._unverified.discard(modality)
