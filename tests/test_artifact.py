"""Artifacts appear whole or not at all, and a damaged one is refused with its cause."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimbind.artifact import (
    FORMAT_VERSION,
    MANIFEST,
    Artifact,
    ArtifactWriter,
    FileEntry,
    Manifest,
    ModelInfo,
    TowerEntry,
)
from slimbind.errors import ArtifactCorruptError, ArtifactError, ArtifactVersionError, UsageError
from slimbind.media.spec import ImageSpec, TextSpec

INFO = ModelInfo(id="toy", family="imagebind", license="CC0-1.0")
ENTRY = {"engine": "torch", "scheme": "f32", "parameters": 3, "preprocess": ImageSpec()}


def write(folder: Path, *, weights: bytes = b"weights", overwrite: bool = False) -> Artifact:
    with ArtifactWriter(folder, model=INFO, embedding_dim=8, overwrite=overwrite) as writer:
        (writer.folder("vision") / "tower.safetensors").write_bytes(weights)
        writer.add("vision", **ENTRY)
    return Artifact.open(folder)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    artifact = write(tmp_path / "a")
    entry = artifact.tower("vision")
    assert artifact.modalities == ("vision",)
    assert (entry.bytes, entry.files[0].path) == (7, "vision/tower.safetensors")
    assert entry.preprocess == ImageSpec()
    artifact.verify("vision")
    assert left_in(tmp_path) == ["a"]


def test_a_modality_it_lacks_names_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown modality of toy 'audio'; allowed: vision"):
        write(tmp_path / "a").tower("audio")


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_a_damaged_file_is_found(tmp_path: Path, damage: str) -> None:
    artifact = write(tmp_path / "a", weights=bytes(range(256)) * 64)
    path = tmp_path / "a/vision/tower.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[100] ^= 1 if damage == "flip" else 0
        path.write_bytes({"cut": data[:-1], "grow": data + b"x"}.get(damage, data))
    with pytest.raises(ArtifactCorruptError, match=r"tower\.safetensors.*again"):
        artifact.verify("vision")


def test_no_manifest_a_newer_one_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no manifest.json"):
        Artifact.open(tmp_path)
    write(tmp_path / "a")
    path = tmp_path / "a" / MANIFEST
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"format_version": FORMAT_VERSION + 1, "unheard_of": True}))
    with pytest.raises(ArtifactVersionError, match="format version 2; this slimbind reads up to 1"):
        Artifact.open(tmp_path / "a")
    path.write_text(json.dumps(data)[:-20])
    with pytest.raises(ArtifactCorruptError, match="is not a manifest"):
        Artifact.open(tmp_path / "a")
    path.write_text(json.dumps(data | {"embedding_dim": "many"}))
    with pytest.raises(ArtifactCorruptError, match="embedding_dim"):
        Artifact.open(tmp_path / "a")


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "vision/../../x", "c:\\x", ""])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    write(tmp_path / "a")
    manifest = tmp_path / "a" / MANIFEST
    data = json.loads(manifest.read_text())
    data["towers"]["vision"]["files"][0]["path"] = path
    manifest.write_text(json.dumps(data))
    with pytest.raises(ArtifactCorruptError, match=r"towers\.vision\.files"):
        Artifact.open(tmp_path / "a")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_manifest_never_raises_anything_else(tmp_path: Path, place: int, value: int) -> None:
    folder = tmp_path / "a"
    write(folder, overwrite=True)
    raw = bytearray((folder / MANIFEST).read_bytes())
    raw[place % len(raw)] = value
    (folder / MANIFEST).write_bytes(raw)
    try:
        Artifact.open(folder)
    except ArtifactError:
        pass
    (folder / MANIFEST).write_text('{"format": "slimbind-artifact"}')


def test_ctrl_c_while_overwriting_keeps_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a")
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        if source == tmp_path / "a":
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr("slimbind.artifact.os.rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", weights=b"new", overwrite=True)
    assert left_in(tmp_path) == ["a"]
    Artifact.open(tmp_path / "a").verify("vision")


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_nothing_is_left_after_an_error(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), ArtifactWriter(tmp_path / "a", model=INFO, embedding_dim=8) as writer:
        (writer.folder("vision") / "half").write_bytes(b"x")
        raise error
    assert left_in(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="was not written: No space left on device"),
        ArtifactWriter(tmp_path / "a", model=INFO, embedding_dim=8) as writer,
    ):
        (writer.folder("vision") / "half").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert left_in(tmp_path) == []


def test_what_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="exists and is not empty"),
        ArtifactWriter(tmp_path / "a", model=INFO, embedding_dim=8) as writer,
    ):
        (writer.folder("vision") / "tower.bin").write_bytes(b"slow")
        writer.add("vision", engine="torch", scheme="f32", parameters=1, preprocess=ImageSpec())
        write(tmp_path / "a", weights=b"quick")
    assert (tmp_path / "a" / "vision").is_dir()
    Artifact.open(tmp_path / "a").verify("vision")
    assert Artifact.open(tmp_path / "a").tower("vision").bytes == len(b"quick")
    assert left_in(tmp_path) == ["a"]


def test_overwriting_replaces_an_artifact_but_no_other_folder(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(ArtifactError, match="exists and is not empty"):
        write(tmp_path / "a")
    assert write(tmp_path / "a", weights=b"new", overwrite=True).tower("vision").bytes == 3
    assert left_in(tmp_path) == ["a"]
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "only-copy.jpg").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="exists and is not empty"):
        write(precious, overwrite=True)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="is a file"):
        write(tmp_path / "file", overwrite=True)


def test_an_artifact_without_towers_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="towers"), ArtifactWriter(tmp_path / "a", model=INFO, embedding_dim=8):
        pass
    assert left_in(tmp_path) == []


def test_the_encoder_id_changes_with_weights_scheme_and_preprocessing_only(tmp_path: Path) -> None:
    entry = write(tmp_path / "a").tower("vision")
    same = entry.model_copy(update={"engine": "onnx", "fidelity": None, "parameters": 4})
    assert same.encoder_id == entry.encoder_id
    for change in ({"weights": "0" * 64}, {"scheme": "bf16"}, {"preprocess": ImageSpec(size=96)}):
        assert entry.model_copy(update=change).encoder_id != entry.encoder_id


def test_the_encoder_id_changes_with_how_it_was_quantized_and_not_with_what_was_found(tmp_path: Path) -> None:
    entry = write(tmp_path / "a").tower("vision")
    record = {"type": "int8-static", "version": 1, "observer": "mse", "report": {"kept": ["blocks.0"]}}
    made = entry.model_copy(update={"quantization": record})
    assert made.encoder_id != entry.encoder_id
    for change, same in (({"report": {}}, True), ({"observer": "minmax"}, False), ({"version": 2}, False)):
        other = entry.model_copy(update={"quantization": record | change})
        assert (other.encoder_id == made.encoder_id) is same


def test_the_encoder_id_changes_with_the_tokenizer() -> None:
    def entry(tokenizer: bytes) -> TowerEntry:
        files = {"text/tower.xml": b"tower", "text/tokenizer.json": tokenizer}
        return TowerEntry(
            engine="openvino",
            scheme="f32",
            weights="a" * 64,
            files=tuple(
                FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                for path, data in files.items()
            ),
            parameters=1,
            preprocess=TextSpec(),
        )

    assert entry(b"one").encoder_id == entry(b"one").encoder_id != entry(b"two").encoder_id


@pytest.mark.parametrize("name", ["../../secret.json", "/etc/passwd", "a/b.json", "..", "a\\b", ""])
def test_a_tokenizer_lies_in_the_text_folder(name: str) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        TextSpec(tokenizer=name)


def test_the_manifest_survives_a_round_trip() -> None:
    entry = {
        "engine": "torch",
        "scheme": "f32",
        "weights": "a" * 64,
        "files": [{"path": "text/t", "bytes": 1, "sha256": "b" * 64}],
        "parameters": 1,
        "preprocess": TextSpec(kind="wordpiece"),
    }
    manifest = Manifest.model_validate(
        {"created_by": "x", "model": INFO, "embedding_dim": 4, "towers": {"text": entry}}
    )
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.json", "..", "C:x", ""])
def test_a_tokenizer_lies_in_its_towers_folder(name: str) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        TextSpec(tokenizer=name)
