"""``slimbind split`` as it is typed: its table, its words about the licence, its exit codes."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbind.artifact import Artifact, sha256_of
from slimbind.cli import app
from slimbind.media.spec import ImageSpec

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = GOLDEN / "imagebind_tiny_config.json"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """``run("split", ...)`` gives exit code, output and messages; it works in an empty folder of its own."""
    monkeypatch.delenv("SLIMBIND_TRACEBACK", raising=False)
    monkeypatch.setenv("SLIMBIND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*args):
        capsys.readouterr()
        code = app.run(["split", *map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def clip_state(scale: float = 0.02) -> dict[str, torch.Tensor]:
    """A CLIP of two small transformers in OpenCLIP's key format, with random weights."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(3.0)}

    def add(name: str, *shape: int) -> None:
        state[name] = torch.randn(shape) * scale

    def block(prefix: str, width: int) -> None:
        add(f"{prefix}.attn.in_proj_weight", 3 * width, width)
        add(f"{prefix}.attn.in_proj_bias", 3 * width)
        for layer, out, into in (
            ("attn.out_proj", width, width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            add(f"{prefix}.{layer}.weight", out, into)
            add(f"{prefix}.{layer}.bias", out)
        for norm in ("ln_1", "ln_2"):
            add(f"{prefix}.{norm}.weight", width)
            add(f"{prefix}.{norm}.bias", width)

    add("visual.class_embedding", 64)
    add("visual.conv1.weight", 64, 3, 16, 16)
    add("visual.positional_embedding", 5, 64)
    add("visual.proj", 64, 48)
    add("text_projection", 64, 48)
    add("token_embedding.weight", 49408, 64)
    add("positional_embedding", 20, 64)
    for norm in ("visual.ln_pre", "visual.ln_post", "ln_final"):
        add(f"{norm}.weight", 64)
        add(f"{norm}.bias", 64)
    for number in range(2):
        block(f"visual.transformer.resblocks.{number}", 64)
        block(f"transformer.resblocks.{number}", 64)
    return state


def test_a_checkpoint_is_split_and_the_licence_said_once(run, tiny_path):
    code, out, err = run(tiny_path, "-o", "ib", "--config", CONFIG)
    assert code == 0
    assert err.count("CC-BY-NC-4.0") == 1
    assert "not for commercial use" in err
    assert out.splitlines()[-1] == "written to ib"
    assert "paper" not in out, "Table I is about ImageBind-Huge"
    rows = {line.split()[0]: line.split() for line in out.splitlines()[1:-1]}
    assert list(rows) == ["vision", "text", "audio", "depth", "thermal", "imu", "all"]
    info = Artifact.open("ib").manifest.model
    assert (info.id, info.family, info.license) == ("imagebind_tiny", "imagebind", "CC-BY-NC-4.0")
    assert info.source == "imagebind_tiny.pth", "no path of this machine"
    assert "Meta" in info.attribution


def test_a_split_folder_embeds(run, tiny_path):
    import slimbind

    run(tiny_path, "-o", "ib", "--config", CONFIG, "--modalities", "text,imu")
    with slimbind.load("ib") as model:
        assert model.modalities == ("text", "imu")
        vectors = model.embed(["a dog", "a cat"], modality="text")
    assert vectors.shape == (2, 48)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_json_is_all_that_is_printed(run, tiny_path):
    code, out, _ = run(tiny_path, "-o", "ib", "--config", CONFIG, "--modalities", "imu, depth", "--json")
    told = json.loads(out)
    assert code == 0
    assert list(told["towers"]) == ["depth", "imu"]
    assert told["model"]["license"] == "CC-BY-NC-4.0"
    file = told["towers"]["imu"]["files"][0]
    assert file["sha256"] == hashlib.sha256((Path("ib") / file["path"]).read_bytes()).hexdigest()


def test_the_stated_licence_wins(run, tiny_path):
    _, _, err = run(tiny_path, "-o", "ib", "--config", CONFIG, "--license", "CC0-1.0")
    assert "CC0-1.0" in err
    assert "commercial" not in err
    assert Artifact.open("ib").manifest.model.license == "CC0-1.0"


def test_a_clip_folder_brings_its_own_settings(run, save, tmp_path):
    save(clip_state(), "open_clip_model.safetensors")
    published = {
        "model_cfg": {"embed_dim": 48, "vision_cfg": {}, "text_cfg": {}},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(published))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    code, _, err = run(tmp_path, "-o", "clip")
    assert code == 0, err
    assert "MIT" in err
    artifact = Artifact.open("clip")
    assert artifact.modalities == ("vision", "text")
    assert artifact.tower("vision").preprocess == ImageSpec(size=32, resize=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert artifact.tower("text").logit_scale == pytest.approx(np.exp(3.0))
    assert artifact.tower("text").config["activation"] == "gelu"


def test_an_unknown_licence_is_said_plainly(run, save, tmp_path):
    path = save(clip_state())
    (tmp_path / "quick.json").write_text('{"quick_gelu": true}')
    code, _, err = run(path, "-o", "clip", "--config", tmp_path / "quick.json")
    assert code == 0
    assert "nothing states the licence" in err
    assert "--license" in err
    assert Artifact.open("clip").manifest.model.license == "unknown"


def test_an_old_file_gets_a_word_about_its_memory(run, save, part):
    code, _, err = run(save(part, "old.legacy"), "-o", "ib", "--config", CONFIG)
    assert code == 0
    assert "old format" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing.pth", "-o", "out"], 2, "unknown model 'nothing.pth'"),
        (["./nothing.pth", "-o", "out"], 1, "does not exist"),
        (["mini", "-o", "out"], 2, "packaged"),
        (["TINY", "-o", "out", "--modalities", "smell"], 2, "'smell'"),
        (["TINY", "-o", "out"], 1, "vision_num_heads"),
        (["TINY", "-o", "out", "--config", "no.json"], 1, "no.json"),
        (["TINY", "-o", "out", "--sha256", "00"], 1, "sha256"),
        (["TINY", "-o", "TINY"], 1, "is a file"),
        (["http://example.com/model.pth", "-o", "out"], 2, "not encrypted"),
        (["TINY"], 2, "--output"),
    ],
)
def test_what_goes_wrong_is_said_without_a_traceback(arguments, code, said, run, tiny_path):
    got, out, err = run(*[str(tiny_path) if argument == "TINY" else argument for argument in arguments])
    assert got == code, err
    assert said in err
    assert "Traceback" not in err
    assert out == ""
    assert list(Path.cwd().iterdir()) == []


def test_nothing_is_fetched_for_a_destination_that_is_taken(run, tmp_path):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("x")
    code, _, err = run("http://127.0.0.1:9/model.pth", "-o", "mine")
    assert code == 1
    assert "not empty" in err


def test_an_address_is_fetched_and_split(run, tiny_path):
    """From a server on this machine; that only such a one may be without encryption is tested with the downloads."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tiny_path.parent))

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/{tiny_path.name}"
            code, _, err = run(url, "-o", "ib", "--config", CONFIG, "--progress", "--sha256", sha256_of(tiny_path))
        finally:
            server.shutdown()
            thread.join()
    assert code == 0, err
    assert "fetching" in err
    assert Artifact.open("ib").manifest.model.source == url


def test_ctrl_c_ends_it_with_130_and_leaves_nothing(run, tiny_path, monkeypatch):
    from slimbind.towers import weightfile

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(weightfile, "_chunks", stop)
    code, out, err = run(tiny_path, "-o", "ib", "--config", CONFIG)
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert list(Path.cwd().iterdir()) == []


def test_progress_is_for_people_only(run, tiny_path, monkeypatch):
    code, _, err = run(tiny_path, "-o", "ib", "--config", CONFIG, "--progress")
    assert code == 0
    assert "splitting" in err
    _, _, err = run(tiny_path, "-o", "ib", "--config", CONFIG, "--overwrite", "--no-progress")
    assert "splitting" not in err


def test_the_table_of_imagebind_huge_stands_beside_the_papers(capsys, monkeypatch):
    """The full-size checkpoint is too large for a test; its plan and its table are not."""
    from slimbind.artifact import FileEntry, TowerEntry
    from slimbind.cli import split as module
    from slimbind.media.spec import ImuSpec

    monkeypatch.setenv("COLUMNS", "120")
    sizes = {
        "vision": 2531357800,
        "text": 1416130648,
        "audio": 344943220,
        "depth": 87487620,
        "thermal": 344845052,
        "imu": 78401664,
    }
    towers = {
        modality: TowerEntry(
            engine="torch",
            scheme="f32",
            weights="0" * 64,
            files=(FileEntry(path=f"{modality}/tower.safetensors", bytes=size, sha256="0" * 64),),
            parameters=size // 4,
            preprocess=ImuSpec(),
        )
        for modality, size in sizes.items()
    }
    module._print_table(Path("ib"), towers, type("Plan", (), {"is_huge": True})())
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[-2:] for line in out.splitlines()[1:-1]}
    assert set(rows) == {*sizes, "all"}
    for ours, papers in rows.values():
        assert float(ours) == pytest.approx(float(papers), abs=0.2)


def test_without_pytorch_the_missing_extra_is_named(run, tiny_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("slimbind.towers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, err = run(tiny_path, "-o", "ib")
    assert code == 1
    assert 'pip install "slimbind[build]"' in err


def test_stdin_is_not_needed(run, tiny_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(tiny_path, "-o", "ib", "--config", CONFIG)[0] == 0
