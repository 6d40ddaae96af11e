"""Ctrl-C, closed pipes and full disks: nothing half-done is left, and nobody sees a traceback."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from slimbind.collection import Collection

from .conftest import PROGRAM

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")

# The program, with a Ctrl-C that comes exactly when something was done for the third time.
AT_THE_THIRD = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
from {module} import {owner} as owner
real, seen = owner.{function}, []
def wrapped(*args):
    real(*args)
    seen.append(args)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.{signal})
owner.{function} = wrapped
from slimbind.cli import main
main()
"""


def at_the_third(module, owner, function, signal="SIGINT"):
    return [sys.executable, "-c", AT_THE_THIRD.format(module=module, owner=owner, function=function, signal=signal)]


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".jsonl"])
def test_being_stopped_leaves_no_half_output(slimbind, toy_artifact, toy_folder, tmp_path, suffix, signal):
    program = at_the_third("slimbind.bulk.writer", "Writer", "write", signal)
    args = "embed", toy_folder, "-m", toy_artifact, "-o", tmp_path / f"v{suffix}"
    stopped = slimbind(*args, check=130, program=program)
    assert stopped.stderr.decode().strip() == "stopped"
    assert not list(tmp_path.glob("*v.*")) and not list(tmp_path.glob(".v.*"))


def test_an_interrupted_index_goes_on_where_it_stopped(slimbind, toy_artifact, toy_folder, tmp_path):
    index = tmp_path / "index"
    args = "index", toy_folder, "-m", toy_artifact, "--index", index
    stopped = slimbind(*args, check=130, program=at_the_third("slimbind.bulk", "indexing", "_apply"))
    assert b"3 files are in the index; run the same command again to go on" in stopped.stderr
    with Collection.open(index) as shelf:
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


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_are_no_traceback_and_nothing_is_written_into_other_files(
    slimbind, toy_artifact, toy_folder, tmp_path, closed
):
    """Some job runners start programs so; the next file opened would get the number of the closed stream."""

    def close():
        for number in closed:
            os.close(number)

    (toy_folder / "bad.png").write_text("no picture, so that there is something to say")
    for folder in ("index", "again"):
        slimbind("index", toy_folder, "-m", toy_artifact, "--index", tmp_path / folder, preexec_fn=close, check=4)
    with Collection.open(tmp_path / "again") as index:
        assert len(index) > 0
    lost = slimbind("search", "red", "--index", tmp_path / "index", preexec_fn=close, check=int(1 in closed))
    assert bool(lost.stdout) == (1 not in closed)
    if 2 not in closed and 1 in closed:
        assert b"standard output" in lost.stderr


def test_a_terminal_that_cannot_say_a_character_is_shown_another(slimbind, toy_artifact, environment, tmp_path):
    path = tmp_path / "named"
    environment["PYTHONIOENCODING"] = "ascii:strict"
    for command in ("embed", "index", "search", "split", "export"):
        assert b"Usage" in slimbind(command, "--help").stdout
    manifest = (toy_artifact / "manifest.json").read_text(encoding="utf-8")
    path.mkdir()
    (path / "manifest.json").write_text(manifest.replace("CC0-1.0", "日本"), encoding="utf-8")
    assert b"\\u65e5\\u672c" in slimbind("info", path).stdout
