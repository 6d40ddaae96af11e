"""Repositories of the hub, from a stand-in on this machine: only the needed files, and silence when offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slimbind import hub as public
from slimbind.artifact import Artifact
from slimbind.errors import CheckpointError, HubError, OfflineError, UsageError
from slimbind.hub.huggingface import Repository, snapshot

CARD = b"---\nlicense: mit\n---\n# Card"
CLIP = {
    "README.md": CARD,
    "config.json": b"{}",
    "open_clip_config.json": json.dumps(
        {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0, 0, 0]}}
    ).encode(),
    "open_clip_model.safetensors": b"weights",
    "open_clip_pytorch_model.bin": b"the same in a pickle",
    "pytorch_model.bin": b"and again",
    "vocab.json": b"{}",
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def artifact_files(toy_artifact: Path) -> dict[str, bytes]:
    return {**files_of(toy_artifact), "README.md": CARD}


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [
        ("hf://org/repo", "org/repo", "main"),
        ("hf://org/repo@v1.0", "org/repo", "v1.0"),
        ("hf://Org-1/re.po_x@refs/pr/3", "Org-1/re.po_x", "refs/pr/3"),
    ],
)
def test_a_repository_is_named(source, name, revision):
    assert Repository.parse(source) == Repository(name, revision)


@pytest.mark.parametrize(
    "source",
    ["hf://", "hf://repo", "hf://a/b/c", "hf://../etc", "hf://a/..", "hf://a/b@", "hf://a b/c", "hf://a/b@../x"],
)
def test_what_is_no_repository_is_refused(source):
    with pytest.raises(UsageError, match="no repository"):
        Repository.parse(source)


def test_only_the_needed_files_of_a_checkpoint_are_fetched(hub):
    hub.repositories["org/clip"] = CLIP
    found = public.checkpoint("hf://org/clip")
    assert hub.fetched("org/clip") == [
        "README.md",
        "config.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    assert [path.name for path in found.files] == ["open_clip_model.safetensors"]
    assert found.files[0].read_bytes() == b"weights"
    assert (found.id, found.source, found.license) == ("org/clip", "hf://org/clip", "MIT")
    assert found.config == found.preparation == json.loads(CLIP["open_clip_config.json"])


def test_all_parts_of_a_divided_checkpoint_are_fetched(hub):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    hub.repositories["org/big"] = {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-1.safetensors": b"1",
        "model-2.safetensors": b"2",
        "model-old.safetensors": b"3",
    }
    found = public.checkpoint("hf://org/big@v1")
    assert [path.read_bytes() for path in found.files] == [b"1", b"2"]
    assert "model-old.safetensors" not in hub.fetched("org/big")


def test_only_the_modalities_asked_for_are_fetched_of_an_artifact(hub, artifact_files):
    hub.repositories["org/toy"] = artifact_files
    folder = public.resolve("hf://org/toy", ["text"])
    assert hub.fetched("org/toy") == [
        "README.md",
        "manifest.json",
        "text/tokenizer.json",
        "text/tower.bin",
        "text/tower.xml",
    ]
    Artifact.open(folder).verify("text")
    folder = public.resolve("hf://org/toy", ["vision"])
    Artifact.open(folder).verify("vision")
    Artifact.open(folder).verify("text")
    with pytest.raises(UsageError, match="smell"):
        public.resolve("hf://org/toy", ["smell"])


def test_a_loaded_model_fetches_a_tower_when_it_is_first_used(hub, artifact_files):
    import slimbind

    hub.repositories["org/toy"] = artifact_files
    with slimbind.load("hf://org/toy") as model:
        assert model.modalities == ("vision", "text", "audio")
        assert hub.fetched("org/toy") == ["README.md", "manifest.json"], "opening a model fetches what it is, not more"
        assert model.embed(["red"], modality="text").argmax() == 0
        assert "text/tower.bin" in hub.fetched("org/toy")
        assert not any(path.startswith(("vision", "audio")) for path in hub.fetched("org/toy"))
        calls = len(hub.requests)
        model.unload("text")
        model.embed(["red"], modality="text")
        assert len(hub.requests) == calls, "what is there is not asked for again"


def test_a_branch_that_moves_does_not_mix_two_versions(hub, artifact_files):
    import slimbind

    hub.repositories["org/toy"] = artifact_files
    with slimbind.load("hf://org/toy") as model:
        hub.requests.clear()
        model.embed(["red"], modality="text")
        assert {path.split("/")[4] for _, path in hub.requests if "/resolve/" in path} == {hub.commit}


def test_a_branch_that_moves_during_a_fetch_is_said(hub):
    hub.repositories["org/clip"] = CLIP
    weights = dict(CLIP)

    class Moving(dict):
        def __getitem__(self, name):
            if name == "open_clip_model.safetensors":
                hub.commit = "f" * 40
            return weights[name]

    hub.repositories["org/clip"] = Moving(weights)
    with pytest.raises(HubError, match=r"hf://org/clip was changed while it was fetched"):
        public.checkpoint("hf://org/clip")


def test_a_tower_that_is_not_in_the_cache_is_missed_when_it_is_used(hub, artifact_files, monkeypatch):
    import slimbind

    hub.repositories["org/toy"] = artifact_files
    public.resolve("hf://org/toy", ["text"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with slimbind.load("hf://org/toy") as model:
        assert model.embed(["red"], modality="text").argmax() == 0
        with pytest.raises(OfflineError, match="vision/"):
            model.embed([b"a picture"], modality="vision")


def test_offline_uses_the_cache_and_makes_no_call(hub, artifact_files, monkeypatch, no_network):
    hub.repositories["org/toy"], hub.repositories["org/clip"] = artifact_files, CLIP
    public.resolve("hf://org/toy", ["text"])
    public.checkpoint("hf://org/clip")
    seen = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    no_network()
    Artifact.open(public.resolve("hf://org/toy", ["text"])).verify("text")
    assert public.checkpoint("hf://org/clip").license == "MIT"
    with pytest.raises(OfflineError, match=r"vision/tower.* not in the cache"):
        public.resolve("hf://org/toy", ["vision"])
    with pytest.raises(OfflineError, match="not in the cache"):
        public.resolve("hf://org/other")
    with pytest.raises(OfflineError, match="not in the cache"):
        public.checkpoint("hf://org/clip@v1")
    assert len(hub.requests) == seen


def test_offline_in_a_fresh_process_makes_no_call(hub, artifact_files, tmp_path):
    """As a user has it: the variable is set before anything of the hub's library is imported."""
    hub.repositories["org/toy"] = artifact_files
    public.resolve("hf://org/toy", ["text"])
    script = (
        "import socket, sys\n"
        "def refuse(*args): sys.exit('a connection was attempted')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from slimbind import hub\n"
        "print(hub.resolve('hf://org/toy', ['text']))\n"
    )
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub.endpoint, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    Artifact.open(done.stdout.strip()).verify("text")


def test_a_hub_that_is_down_is_replaced_by_the_cache(hub, artifact_files):
    hub.repositories["org/toy"] = artifact_files
    first = public.resolve("hf://org/toy", ["text"])
    hub.broken = True
    assert public.resolve("hf://org/toy", ["text"]) == first
    with pytest.raises(HubError) as caught:
        public.resolve("hf://org/other")
    assert not isinstance(caught.value, OfflineError)


def test_a_hub_that_cannot_be_reached_is_said(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="cannot be reached|Connection|connect"):
        public.resolve("hf://org/toy")


def test_what_the_hub_refuses_is_told_apart(hub):
    hub.answers = {"org/gated": (403, "GatedRepo"), "org/private": (401, "RepoNotFound")}
    with pytest.raises(HubError, match="is gated") as caught:
        public.resolve("hf://org/gated")
    assert "HF_TOKEN" in caught.value.hint
    for name in ("org/private", "org/nothing"):
        with pytest.raises(HubError, match="does not exist, or is private"):
            public.resolve(f"hf://{name}")
    hub.repositories["org/clip"] = CLIP
    with pytest.raises(HubError, match="no revision 'v9'"):
        public.checkpoint("hf://org/clip@v9")


def test_a_repository_of_something_else_is_an_error(hub):
    hub.repositories["org/data"] = {"README.md": CARD, "data.csv": b"1"}
    with pytest.raises(CheckpointError, match="hf://org/data holds no checkpoint"):
        snapshot(Repository("org/data"))
    assert hub.fetched("org/data") == []


def test_an_incomplete_artifact_is_noticed(hub, artifact_files):
    del artifact_files["text/tower.bin"]
    hub.repositories["org/toy"] = artifact_files
    with pytest.raises(HubError, match=r"text/tower\.bin"):
        public.resolve("hf://org/toy", ["text"])


def test_a_checkpoint_has_to_be_split_before_it_is_loaded(hub):
    hub.repositories["org/clip"] = CLIP
    with pytest.raises(UsageError) as caught:
        public.resolve("hf://org/clip")
    assert "slimbind split hf://org/clip" in caught.value.hint
    assert "open_clip_model.safetensors" not in hub.fetched("org/clip"), "the weights are not fetched to find that out"


def test_the_hub_learns_nothing_about_the_user(hub):
    hub.repositories["org/clip"] = CLIP
    public.checkpoint("hf://org/clip")
    assert hub.agents
    for agent in hub.agents:
        assert agent.startswith("slimbind/")
        assert "torch" not in agent
        assert "agent/" not in agent
    assert all(path.startswith(("/api/models/org/clip", "/org/clip/resolve/")) for _, path in hub.requests)
