"""Memory of a tower: measured in a process of its own, beside what its numbers alone would take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import slimbind
from slimbind.errors import SlimbindError, UsageError
from slimbind.evaluate import memory

from ..conftest import write_picture

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
MIB = 1 << 20


@pytest.fixture(scope="module")
def record(toy_artifact):
    return memory.record(toy_artifact, "text", threads=1, repeats=2)


def test_what_is_computed_is_what_the_files_and_parameters_say(record, toy_artifact):
    entry = slimbind.Artifact.open(toy_artifact).tower("text")
    assert record.measures["computed_bytes"].value == max(file.bytes for file in entry.files)
    assert record.measures["computed_fp32_bytes"].value == 4 * entry.parameters
    assert record.settings["parameters"] == entry.parameters


def test_what_is_measured_is_the_growth_of_fresh_processes(record):
    rows = record.details["rows"]
    assert [row["run"] for row in rows] == [1, 2]
    for row in rows:
        assert row["before_bytes"] > 20 * MIB  # Python, numpy, the engine
        assert -MIB < row["opened_bytes"] < 100 * MIB
        assert row["peak_bytes"] >= row["steady_bytes"] - MIB
        # Counts of the kernel's that are not read at one moment.
        assert row["anonymous_bytes"] + row["mapped_bytes"] == pytest.approx(row["steady_bytes"], abs=2 * MIB)
        assert row["first_embedding_seconds"] > 0
    steady = sorted(row["steady_bytes"] for row in rows)
    assert steady[0] <= record.measures["steady_bytes"].value <= steady[1]
    assert type(record).from_json(record.to_json()) == record


def test_held_weights_are_counted(toy_artifact):
    """A process that takes 64 MiB when its tower opens is said to have grown by them."""
    code = (
        "import sys, slimbind, numpy as np\n"
        "from slimbind.evaluate import memory\n"
        "class Session:\n"
        "    rank = 2\n"
        "    def __init__(self): self.weights = np.ones(8 << 20)\n"
        "    def run(self, inputs): return np.ones((len(inputs['input']), 8), np.float32)\n"
        "    def settle(self): pass\n"
        "    def close(self): del self.weights\n"
        "model = slimbind.load(sys.argv[1], threads=1)\n"
        "model._pool._opener = lambda modality: Session()\n"
        "used = memory.measure(model, ['text'], lambda modality, count: ['red'] * count)\n"
        "print(used.opened, used.steady, used.peak, used.closed)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(toy_artifact)], capture_output=True, text=True, check=True)
    opened, steady, peak, closed = (int(number) / MIB for number in done.stdout.split())
    assert 60 < opened < 80 and 60 < steady < 80 and peak > 60
    assert closed < 16


def test_items_of_ones_own_are_used_and_missing_ones_told(toy_artifact, tmp_path):
    write_picture(tmp_path / "red.png", (200, 0, 0))
    used = memory.in_fresh_process(toy_artifact, ["vision"], threads=1, data=tmp_path)
    assert used.modalities == ("vision",) and used.seconds["vision"] > 0 and used.failed == ()
    (tmp_path / "a.png").write_bytes(b"no picture")
    used = memory.in_fresh_process(toy_artifact, ["vision"], threads=1, data=tmp_path)
    assert [name.rsplit("/", 1)[-1] for name, _ in used.failed] == ["a.png"]
    (tmp_path / "red.png").unlink()
    with pytest.raises(UsageError, match="none of 1 vision items"):
        memory.in_fresh_process(toy_artifact, ["vision"], threads=1, data=tmp_path)
    with pytest.raises(UsageError, match="holds no audio"):
        memory.record(toy_artifact, "audio", data=tmp_path)


def test_an_error_in_the_fresh_process_is_told_as_its_own(toy_artifact):
    with pytest.raises(UsageError, match="imu"):
        memory.in_fresh_process(toy_artifact, ["imu"], threads=1)


def test_a_fresh_process_that_dies_is_no_riddle(toy_artifact, monkeypatch):
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    with pytest.raises(SlimbindError, match="exit code 1"):
        memory.in_fresh_process(toy_artifact, ["text"], threads=1)


def test_elsewhere_than_on_linux_it_is_refused(toy_artifact, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(UsageError, match="Linux"):
        memory.record(toy_artifact, "text")


@pytest.mark.parametrize("repeats", [0, -1, True, 1.5])
def test_repeats_that_make_no_sense(toy_artifact, repeats):
    with pytest.raises(UsageError, match="repeats"):
        memory.record(toy_artifact, "text", repeats=repeats)


def test_the_command_shows_all_towers_asked_for(toy_artifact, tmp_path, capsys, monkeypatch):
    from slimbind.cli import app

    monkeypatch.setenv("SLIMBIND_THREADS", "1")
    page = tmp_path / "memory.html"
    asked = ["eval", "memory", str(toy_artifact), "--modalities", "text", "--repeats", "1", "--html", str(page)]
    assert app.run(asked) == 0
    out = capsys.readouterr().out
    assert "memory, text" in out and "steady bytes" in out and "computed fp32 bytes" in out
    assert "steady ratio" in page.read_text(encoding="utf-8")
    assert app.run(["eval", "memory", str(toy_artifact), "--data", str(tmp_path / "nowhere")]) == 2
    assert app.run(["eval", "memory", str(toy_artifact), "--modalities", "imu"]) == 2
