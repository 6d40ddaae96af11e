"""The program as people run it: a process of its own, with a home of its own and no network."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = [sys.executable, "-c", "from slimbind.cli import main; main()"]


@pytest.fixture
def environment(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLIMBIND_", "HF_", "PYTHONUNB"))}
    return kept | {
        "HOME": str(tmp_path / "home"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "HF_HUB_OFFLINE": "1",
        "SLIMBIND_THREADS": "1",
        "COLUMNS": "200",
    }


@pytest.fixture
def slimbind(environment, tmp_path):
    """``slimbind("search", "red", check=0)`` runs it to its end; ``start=True`` gives the running process."""

    def run(*args, check=0, start=False, program=PROGRAM, **options):
        command = [*program, *map(str, args)]
        if start:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            return subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes, **options)
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=120, **options)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert done.returncode == check, done.stderr.decode()
        return done

    return run
