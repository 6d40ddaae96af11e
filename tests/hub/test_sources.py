"""What a user may name, and the errors for what is something else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import slimbind
from slimbind import hub as public
from slimbind.artifact import MANIFEST
from slimbind.errors import ArtifactError, CheckpointError, HubError, OfflineError, SlimbindError, UsageError
from slimbind.hub import known
from slimbind.hub.sources import cache_folder


def test_the_packaged_model_comes_first_and_a_folder_can_still_be_meant(toy_artifact, tmp_path, monkeypatch):
    (tmp_path / "mini").symlink_to(toy_artifact)
    monkeypatch.chdir(tmp_path)
    assert public.resolve("mini") == Path(slimbind.__file__).parent / "models" / "mini"
    assert public.resolve("./mini").resolve() == toy_artifact


def test_a_folder_is_taken_as_it_is(toy_artifact):
    assert public.resolve(toy_artifact) == toy_artifact
    assert public.resolve(str(toy_artifact)) == toy_artifact


@pytest.mark.parametrize("source", ["https://example.com/m.pth", "imagebind-huge", "clip-vit-b-32"])
def test_what_has_to_be_split_says_so(source, no_network):
    no_network()
    with pytest.raises(UsageError) as caught:
        public.resolve(source)
    assert f"slimbind split {source} -o" in caught.value.hint


def test_checkpoints_on_this_machine_have_to_be_split(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"x")
    for source in (tmp_path, tmp_path / "model.pth"):
        with pytest.raises(UsageError, match="is a checkpoint, not an artifact"):
            public.resolve(source)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown model 'mimi'; allowed: .*imagebind-huge, mini"):
        public.resolve("mimi")
    with pytest.raises(UsageError, match="unknown model"):
        public.checkpoint("mimi")
    for path in ("./mimi", "/no/such/folder", "a/b"):
        with pytest.raises(ArtifactError, match="does not exist"):
            public.resolve(path)


def test_a_folder_of_something_else_is_left_to_the_artifact_reader(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    assert public.resolve(tmp_path) == tmp_path
    with pytest.raises(ArtifactError, match="not a slimbind artifact"):
        slimbind.Artifact.open(public.resolve(tmp_path))


def test_the_catalogue_is_complete_and_consistent():
    models = public.catalog()
    assert models[0].name == "mini"
    assert models[0].packaged
    assert not models[0].needs_split
    assert len({model.name for model in models}) == len(models)
    for model in models:
        assert model.license
        assert model.summary
        assert model.dim > 0
        assert model.packaged or (model.bytes > 0 and model.source.startswith(("hf://", "https://")))
        assert known.find(model.name).source == model.source
    huge = known.find("imagebind-huge")
    assert (huge.license, len(huge.modalities), len(huge.sha256)) == ("CC-BY-NC-4.0", 6, 64)


def test_a_file_stands_for_itself(tmp_path):
    path = tmp_path / "imagebind_huge.pth"
    path.write_bytes(b"weights")
    (tmp_path / "config.json").write_text('{"of": "another model"}')
    found = public.checkpoint(path)
    assert (found.id, found.source, found.files, found.config) == ("imagebind_huge", path.name, (path,), None)


def test_a_folder_brings_its_config_card_and_preprocessing(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "preprocessor_config.json").write_text('{"b": 2}')
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    found = public.checkpoint(tmp_path)
    assert found.id == found.source == tmp_path.name
    assert (found.config, found.preparation, found.license) == ({"a": 1}, {"b": 2}, "MIT")


@pytest.mark.parametrize("content", ["", "{", "[1]", "nul", "\ufeff{}", "[" * 100_000])
def test_a_config_that_is_no_object_is_an_error(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        public.checkpoint(tmp_path)


def test_a_divided_checkpoint_needs_all_its_parts(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    (tmp_path / "1.safetensors").write_bytes(b"1")
    for source in (tmp_path, index):
        with pytest.raises(CheckpointError, match=r"2\.safetensors"):
            public.checkpoint(source)
    (tmp_path / "2.safetensors").write_bytes(b"2")
    for source in (tmp_path, index):
        assert [path.name for path in public.checkpoint(source).files] == ["1.safetensors", "2.safetensors"]
    with pytest.raises(UsageError, match="in several"):
        public.checkpoint(tmp_path, sha256="0" * 64)


def test_an_artifact_is_split_already(toy_artifact):
    for source in (toy_artifact, toy_artifact / MANIFEST):
        with pytest.raises(UsageError, match="split already"):
            public.checkpoint(source)
    with pytest.raises(UsageError, match="packaged"):
        public.checkpoint("mini")


def test_a_checksum_holds_for_local_files_too(tmp_path):
    path = tmp_path / "m.pth"
    path.write_bytes(b"weights")
    assert public.checkpoint(path, sha256=hashlib.sha256(b"weights").hexdigest().upper()).files == (path,)
    with pytest.raises(HubError, match="sha256"):
        public.checkpoint(path, sha256="0" * 64)


def test_an_address_is_fetched_into_the_cache(shop, own_cache):
    shop.content = b"weights"
    found = public.checkpoint(f"{shop.url}/a/model.pth?token=secret")
    assert found.files[0].read_bytes() == b"weights"
    assert found.files[0].is_relative_to(own_cache)
    assert (found.id, found.source) == ("model", f"{shop.url}/a/model.pth")
    other = public.checkpoint(f"{shop.url}/b/model.pth")
    assert other.files != found.files, "two addresses, two files"
    with pytest.raises(UsageError, match="names no file"):
        public.checkpoint(f"{shop.url}/")


def test_a_known_model_is_checked_against_its_sum(shop, monkeypatch):
    shop.content = b"not ImageBind"
    huge = known.find("imagebind-huge")
    moved = type(huge)(**{**huge.__dict__, "source": f"{shop.url}/imagebind_huge.pth"})
    monkeypatch.setattr(known, "_MODELS", (moved,))
    for source in ("imagebind-huge", moved.source):
        with pytest.raises(HubError, match=huge.sha256):
            public.checkpoint(source)
    monkeypatch.setattr(
        known, "_MODELS", (type(huge)(**{**moved.__dict__, "sha256": hashlib.sha256(shop.content).hexdigest()}),)
    )
    assert public.checkpoint("imagebind-huge").id == "imagebind-huge"


def test_offline_forbids_to_fetch(monkeypatch, no_network):
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    no_network()
    for source in ("imagebind-huge", "clip-vit-b-32", "https://example.com/m.pth", "hf://org/repo"):
        with pytest.raises(OfflineError):
            public.checkpoint(source)


def test_where_files_are_kept(monkeypatch):
    monkeypatch.setenv("SLIMBIND_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models"
    monkeypatch.delenv("SLIMBIND_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/slimbind")


def test_a_local_source_loads_no_network_code():
    """Opening a folder must not pay for TLS or the hub's library."""
    script = (
        "import sys; from slimbind import hub; hub.resolve('mini')\n"
        "print([name for name in ('ssl', 'huggingface_hub', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "[]", done.stderr


def test_errors_are_ours():
    assert issubclass(OfflineError, HubError)
    assert issubclass(HubError, SlimbindError)
