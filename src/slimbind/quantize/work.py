"""Towers that are finished while others are not yet, kept beside the destination so that a stopped job can go on.

Each is an artifact of one tower, named by everything that decides what is in it. The folder goes when the job is done.
While it goes on, a lock keeps a second job from writing to the same place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import TracebackType

from slimbind import __version__
from slimbind.artifact import Artifact, ArtifactWriter, ModelInfo, TowerEntry
from slimbind.errors import ArtifactError
from slimbind.quantize.schemes import Scheme

_CHECKPOINT = ".qat.safetensors"


class Work:
    """The finished towers of one job. Use it in a ``with`` block around the job.

    Entering the block raises ``ArtifactError`` where another job is writing to the same destination.

    Args:
        destination: of the whole artifact.
        model, embedding_dim: of the whole artifact.
    """

    def __init__(self, destination: Path, *, model: ModelInfo, embedding_dim: int) -> None:
        self.folder = destination.absolute().parent / f".{destination.name}.unfinished"
        self._model = model
        self._dim = embedding_dim
        self._done = False
        self._lock = _Lock(destination)

    def __enter__(self) -> Work:
        self._lock.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._done or not (self.kept or self.begun):
                shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            self._lock.release()

    @property
    def kept(self) -> int:
        """How many towers are finished and wait here."""
        return sum(not path.name.startswith(".") for path in self.folder.iterdir()) if self.folder.is_dir() else 0

    @property
    def begun(self) -> bool:
        """Whether a tower's fine-tuning can be gone on with."""
        return any(self.folder.glob(f".*{_CHECKPOINT}"))

    def path(self, modality: str, entry: TowerEntry, config: Scheme, engine: str, data: str) -> Path:
        """Where the tower waits that these weights, settings and data (its digest) give."""
        told = [
            __version__,
            entry.weights,
            entry.scheme,
            entry.config,
            [file.sha256 for file in entry.files],  # the tokenizer too
            entry.preprocess.model_dump(mode="json"),
            config.to_record(),
            engine,
            data,
        ]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{modality}-{digest[:16]}"

    def find(self, path: Path) -> Artifact | None:
        """The finished tower there, or None; one that was damaged is removed."""
        try:
            artifact = Artifact.open(path)
            for modality in artifact.modalities:
                artifact.verify(modality)
        except ArtifactError:
            shutil.rmtree(path, ignore_errors=True)
            return None
        return artifact

    def begin(self, path: Path) -> ArtifactWriter:
        """What writes a tower there, whole or not at all."""
        return ArtifactWriter(path, model=self._model, embedding_dim=self._dim)

    @staticmethod
    def checkpoint(path: Path) -> Path:
        """The file in which the fine-tuning of the tower that is to lie at ``path`` is kept."""
        return path.with_name(f".{path.name}{_CHECKPOINT}")

    def done(self) -> None:
        """Nothing is needed any more."""
        self._done = True


class _Lock:
    """A file beside the destination, which the system lets go of when its holder dies.

    Without ``fcntl`` (Windows) nothing is checked.
    """

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._path = destination.absolute().parent / f".{destination.name}.lock"
        self._fd = -1

    def take(self) -> None:
        """Take it at once or not at all.

        Raises:
            ArtifactError: another job has it, or the folder cannot be written.
        """
        try:
            import fcntl
        except ImportError:
            return
        while self._fd < 0:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise ArtifactError(f"cannot write to {self._path.parent}: {error.strerror}") from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                raise ArtifactError(
                    f"another job is writing {self._destination}", hint="let it finish, or choose another folder"
                ) from error
            if self._is_there(fd):
                self._fd = fd
            else:  # its last holder removed it between our opening and locking it: a third would make a new one
                os.close(fd)

    def _is_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others write there."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)  # while it is still ours
            os.close(self._fd)
            self._fd = -1


def place(artifact: Artifact, modality: str, writer: ArtifactWriter) -> TowerEntry:
    """Put a finished tower into the whole artifact, by links where the file system has them."""
    entry = artifact.tower(modality)
    folder = writer.folder(modality)
    for file in entry.files:
        source, target = artifact.folder / file.path, folder / Path(file.path).name
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    fields = {name: getattr(entry, name) for name in TowerEntry.model_fields if name != "files"}
    return writer.add(modality, digests={file.path: file.sha256 for file in entry.files}, **fields)
