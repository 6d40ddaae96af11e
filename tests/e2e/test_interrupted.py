"""Ctrl-C, closed pipes and full disks: nothing half-done is left, and nobody sees a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from slimbind.collection import FlatIndex

from .conftest import PROGRAM

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")

# The program, with a Ctrl-C that comes exactly when the third file is done.
AT_THE_THIRD_FILE = """
import os, signal
from slimbind.bulk import indexing
real, seen = indexing._apply, []
def apply(*args):
    real(*args)
    seen.append(args)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGINT)
indexing._apply = apply
from slimbind.cli import main
main()
"""


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".jsonl"])
def test_ctrl_c_leaves_no_half_output(slimbind, toy_artifact, toy_folder, tmp_path, suffix):
    output = tmp_path / f"v{suffix}"
    process = slimbind("embed", toy_folder, "-", "-m", toy_artifact, "-o", output, "--progress", start=True)
    # Standard input stays open, so the job waits for more texts; the temporary file tells that it has begun.
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob(f".{output.name}.*")):
        assert process.poll() is None, process.stderr.read()
    process.stdin.write(b"red\n" * 300)
    process.stdin.flush()
    time.sleep(0.3)  # into the work, most likely; wherever it is, the result is to be the same
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert err.decode().strip().endswith("stopped")
    assert list(tmp_path.glob("*v.*")) == [] == list(tmp_path.glob(".v*"))


def test_an_interrupted_index_goes_on_where_it_stopped(slimbind, toy_artifact, toy_folder, tmp_path):
    index = tmp_path / "index"
    args = "index", toy_folder, "-m", toy_artifact, "--index", index
    stopped = slimbind(*args, check=130, program=[sys.executable, "-c", AT_THE_THIRD_FILE])
    assert b"3 files are in the index; run the same command again to go on" in stopped.stderr
    with FlatIndex.open(index) as shelf:
        assert len(shelf) == 3
    assert b"2 added, 0 changed, 3 unchanged, 0 removed, 0 failed" in slimbind(*args).stderr


def test_a_reader_that_goes_away_is_no_error(slimbind, toy_artifact):
    process = slimbind("embed", "-", "-m", toy_artifact, start=True)
    process.stdin.write(b"red\n" * 2000)
    process.stdin.flush()
    assert process.stdout.readline().startswith(b'{"id": "-:1"')
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    err = process.stderr.read()
    assert process.wait(60) == 0
    assert err == b""
    process.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["embed", "search", "info"])
def test_a_full_disk_behind_standard_output_is_an_error(slimbind, toy_artifact, toy_folder, environment, command):
    slimbind("index", toy_folder, "-m", toy_artifact)
    args = {"embed": ["--text", "red", "-m", toy_artifact], "search": ["red"], "info": [toy_artifact]}
    with open("/dev/full", "wb") as full:
        line = [*PROGRAM, command, *map(str, args[command])]
        done = subprocess.run(line, env=environment, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
