"""The artifact: a folder with ``manifest.json`` and one subfolder per modality. Read, verified and written here.

    photos-model/
      manifest.json        what is inside, where it comes from, and the sha256 of every file
      vision/              files of one tower, as its engine wants them
      text/                ... and tokenizer.json

The folder is plain data: JSON, safetensors, OpenVINO IR or ONNX. No file of it is ever unpickled or executed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from slimbind.errors import ArtifactCorruptError, ArtifactError, ArtifactVersionError, UsageError
from slimbind.media.spec import PreprocessSpec, TextSpec
from slimbind.modalities import MODALITIES
from slimbind.scores import Scores
from slimbind.sizes import binary

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 4 << 20  # a manifest is some kilobytes; more is not a manifest
_CHUNK = 1 << 20


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Record):
    """One file of a tower: path relative to the artifact, size in bytes, sha256 in hex."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path or not pure.parts:
            raise ValueError(f"{path!r} leaves the artifact's folder")
        return path


class Fidelity(_Record):
    """Cosine to the fp32 reference over ``samples`` inputs, plain and after subtracting the mean embedding.

    ``reference_bytes`` is the size of the tower it was compared with, ``time_ratio`` how many times as fast it was:
    both were timed in turns, in one run, on the machine that wrote this; by ``quantize`` with one thread each.
    """

    samples: int = Field(ge=1)
    cosine_mean: float
    cosine_min: float
    centred_mean: float | None = None
    centred_min: float | None = None
    data: str = Field(description="what the inputs were")
    reference_bytes: int | None = Field(None, ge=1)
    time_ratio: float | None = Field(None, gt=0)


class ModelInfo(_Record):
    """Which model this is and on what terms it may be used."""

    id: str
    family: str
    license: str
    source: str = ""
    attribution: str = ""


class TowerEntry(_Record):
    """One modality's tower.

    ``scheme`` is how the weights are stored (``f32``, ``bf16``, ``int8-dynamic``, ...), ``weights`` the sha256 of the
    fp32 tower they were made from, ``config`` what the architecture needs to be rebuilt, ``logit_scale`` the learned
    temperature (embeddings are unit vectors, so it is a number beside them, not a part of them). ``quantization`` is
    the scheme's own record: type, version and settings, and under ``report`` what was found on the way.
    """

    engine: str
    scheme: str
    weights: str
    files: tuple[FileEntry, ...] = Field(min_length=1)
    parameters: int = Field(ge=0)
    config: dict[str, Any] = Field(default_factory=dict)
    preprocess: PreprocessSpec
    logit_scale: float | None = None
    fidelity: Fidelity | None = None
    quantization: dict[str, Any] | None = None

    @property
    def bytes(self) -> int:
        """Size of all files on disk."""
        return sum(file.bytes for file in self.files)

    @property
    def encoder_id(self) -> str:
        """16 hex digits that change with weights, scheme (and its settings) or preprocessing, and with nothing else."""
        told = [self.weights, self.scheme, self.preprocess.model_dump(mode="json")]
        if isinstance(self.preprocess, TextSpec):  # the record only names the file that says which ids a text becomes
            named = PurePosixPath("text", self.preprocess.tokenizer)
            told += [file.sha256 for file in self.files if PurePosixPath(file.path) == named]
        if self.quantization is not None:  # the same scheme with other settings gives other vectors
            told += [{key: value for key, value in self.quantization.items() if key != "report"}]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


class Manifest(_Record):
    """The contents of ``manifest.json``."""

    format: Literal["slimbind-artifact"] = "slimbind-artifact"
    format_version: int = FORMAT_VERSION
    created_by: str
    model: ModelInfo
    embedding_dim: int = Field(ge=1)
    towers: dict[str, TowerEntry] = Field(min_length=1)
    scores: Scores = Field(default_factory=Scores)

    @field_validator("towers")
    @classmethod
    def _known_modalities(cls, towers: dict[str, TowerEntry]) -> dict[str, TowerEntry]:
        for name in towers:
            if name not in MODALITIES:
                raise ValueError(f"unknown modality {name!r}")
        return towers


class Artifact:
    """An artifact on disk: its folder and its validated manifest. Opening it reads the manifest only."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Artifact:
        """Read and check the manifest of ``folder``.

        Raises:
            ArtifactError: there is no manifest.
            ArtifactVersionError: it was written by a newer slimbind.
            ArtifactCorruptError: it is not valid.
        """
        root = Path(folder)
        path = root / MANIFEST
        try:
            size = path.stat().st_size
            raw = path.read_bytes() if size <= _MAX_MANIFEST_BYTES else b""
        except (FileNotFoundError, NotADirectoryError):
            raise ArtifactError(
                f"{root} is not a slimbind artifact: it has no {MANIFEST}",
                hint="make one with `slimbind split` and `slimbind export`, or see `slimbind models`",
            ) from None
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
        if size > _MAX_MANIFEST_BYTES:
            raise ArtifactCorruptError(f"{path} has {size} bytes; a manifest has at most {_MAX_MANIFEST_BYTES}")
        try:
            data = json.loads(raw)
            version = data["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactCorruptError(f"{path} is not a manifest: {error}", hint="fetch or build it again") from error
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ArtifactVersionError(
                f"{root} has format version {version}; this slimbind reads up to {FORMAT_VERSION}",
                hint="pip install --upgrade slimbind",
            )
        try:
            manifest = Manifest.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ArtifactCorruptError(
                f"{path}: {where}: {first['msg']}", hint="fetch or build the artifact again"
            ) from error
        return cls(root, manifest)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it has towers for, in the project's order."""
        return tuple(name for name in MODALITIES if name in self.manifest.towers)

    def tower(self, modality: str) -> TowerEntry:
        """The entry of one modality.

        Raises:
            UsageError: the artifact has no such tower.
        """
        if modality not in self.manifest.towers:
            raise UsageError.unknown(
                f"modality of {self.manifest.model.id}", modality, self.modalities, hint="load a model that has it"
            )
        return self.manifest.towers[modality]

    def verify(self, modality: str) -> None:
        """Read every file of a tower and compare size and sha256 with the manifest.

        Raises:
            ArtifactCorruptError: a file is missing, has another size, or other contents.
        """
        for file in self.tower(modality).files:
            path = self.folder / file.path
            mend = "fetch or build the artifact again"
            try:
                size = path.stat().st_size
                if size != file.bytes:
                    raise ArtifactCorruptError(f"{path} has {size} bytes, not {file.bytes}", hint=mend)
                digest = sha256_of(path)
            except OSError as error:
                raise ArtifactCorruptError(f"{path} cannot be read: {error.strerror}", hint=mend) from error
            if digest != file.sha256:
                raise ArtifactCorruptError(
                    f"{path} was changed: its sha256 is {digest[:12]}..., not {file.sha256[:12]}...", hint=mend
                )


class ArtifactWriter:
    """Writes an artifact so that it appears whole or not at all.

    Files go into a hidden folder beside the destination; leaving the ``with`` block without an error writes the
    manifest and renames the folder. Any error, Ctrl-C included, removes it.

        with ArtifactWriter("out", model=info, embedding_dim=1024) as writer:
            save_file(tensors, writer.folder("vision") / "tower.safetensors")
            writer.add("vision", engine="torch", scheme="f32", ...)
    Of ``scores``, those are written whose encoders are the ones of the towers.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str],
        *,
        model: ModelInfo,
        embedding_dim: int,
        overwrite: bool = False,
        scores: Scores | None = None,
    ) -> None:
        self.destination = Path(destination)
        self.model = model
        self.embedding_dim = embedding_dim
        self.overwrite = overwrite
        self.scores = scores or Scores()
        self._towers: dict[str, TowerEntry] = {}

    def __enter__(self) -> ArtifactWriter:
        check_destination(self.destination, overwrite=self.overwrite)
        parent = self.destination.absolute().parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self._temp = Path(tempfile.mkdtemp(prefix=f".{self.destination.name}.", suffix=".partial", dir=parent))
            self._temp.chmod(0o755)  # mkdtemp makes it private; an artifact is shared like any other folder
        except OSError as error:
            raise ArtifactError(f"cannot write to {parent}: {error.strerror}") from error
        return self

    def folder(self, modality: str) -> Path:
        """The folder to write one modality's files into."""
        path = self._temp / modality
        path.mkdir(exist_ok=True)
        return path

    @property
    def towers(self) -> dict[str, TowerEntry]:
        """The towers recorded so far."""
        return dict(self._towers)

    def add(
        self,
        modality: str,
        *,
        digests: Mapping[str, str] | None = None,
        **entry: Any,  # noqa: ANN401  (fields of TowerEntry, validated there)
    ) -> TowerEntry:
        """Record a tower whose files lie in ``folder(modality)``; takes TowerEntry's fields less ``files``.

        ``weights`` may be left out where the files are the fp32 tower itself: their own hash then stands for them.
        ``digests`` (path in the artifact -> sha256) are hashes taken while writing; other files are read for theirs.
        """
        known = digests or {}
        paths = sorted(path for path in self.folder(modality).rglob("*") if path.is_file())
        named = {path.relative_to(self._temp).as_posix(): path for path in paths}
        files = tuple(
            FileEntry(path=name, bytes=path.stat().st_size, sha256=known.get(name) or sha256_of(path))
            for name, path in named.items()
        )
        if "weights" not in entry:
            entry["weights"] = max(files, key=lambda file: file.bytes).sha256
        self._towers[modality] = TowerEntry(files=files, **entry)
        return self._towers[modality]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._publish()
        except OSError as problem:
            error = problem
            raise _explain(problem, self.destination) from problem
        finally:
            shutil.rmtree(self._temp, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _explain(error, self.destination) from error

    def _publish(self) -> None:
        from slimbind import __version__

        manifest = Manifest(
            created_by=f"slimbind {__version__}",
            model=self.model,
            embedding_dim=self.embedding_dim,
            towers=self._towers,
            scores=self.scores.kept({name: entry.encoder_id for name, entry in self._towers.items()}),
        )
        with open(self._temp / MANIFEST, "w", encoding="utf-8") as file:
            file.write(manifest.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # Again, because somebody else may have written there meanwhile, and that is not ours to replace.
        check_destination(self.destination, overwrite=self.overwrite)
        replaced = self._temp.with_suffix(".old")
        if not self.destination.exists():
            os.rename(self._temp, self.destination)
            return
        try:
            os.rename(self.destination, replaced)
            os.rename(self._temp, self.destination)
        finally:  # Ctrl-C between the two must not leave the place empty
            if replaced.exists() and not self.destination.exists():
                os.rename(replaced, self.destination)
            shutil.rmtree(replaced, ignore_errors=True)


def check_destination(destination: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Refuse a destination that would lose something, before any work is done.

    Raises:
        ArtifactError: it exists and is not empty, and ``overwrite`` is off or it is not an artifact; or ``source``, the
            artifact that is to be read, lies there, and would be replaced by what is made from it.
    """
    if source is not None and destination.exists():
        place, read = destination.resolve(), source.resolve()
        if place == read or place in read.parents:
            raise ArtifactError(f"{destination} is what {source} is read from", hint="choose another folder")
    if not destination.exists():
        return
    if not destination.is_dir():
        raise ArtifactError(f"{destination} is a file", hint="choose another folder")
    if any(destination.iterdir()) and not (overwrite and (destination / MANIFEST).is_file()):
        raise ArtifactError(
            f"{destination} exists and is not empty",
            hint="choose another folder, or --overwrite an artifact that is there",
        )


def check_space(destination: Path, needed: int) -> None:
    """Refuse to begin what will not fit on the disk.

    Raises:
        ArtifactError: fewer than ``needed`` bytes are free where ``destination`` is to lie.
    """
    place = destination.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ArtifactError(
            f"{destination} needs {binary(needed)}, but only {binary(free)} are free there",
            hint="free some space, choose another place, or ask for fewer modalities",
        )


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hex, read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _explain(error: OSError, destination: Path) -> ArtifactError:
    return ArtifactError(
        f"{destination} was not written: {error.strerror}",
        hint="nothing was left behind; free some space or choose another place",
    )
