"""The command line in this process: ``cli("search", "red")`` gives exit code, output and messages."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass

import pytest

from slimbind.cli import app


@dataclass
class Result:
    code: int
    out: bytes
    err: str

    @property
    def lines(self):
        return self.out.decode("utf-8").splitlines()

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def rows(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def cli(toy_artifact, tmp_path, monkeypatch, capsysbinary):
    """Runs with the toy model and an index of this test's own."""
    for name in ("SLIMBIND_MODALITY", "SLIMBIND_OUTPUT", "SLIMBIND_PROGRESS", "SLIMBIND_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLIMBIND_MODEL", str(toy_artifact))
    monkeypatch.setenv("SLIMBIND_INDEX", str(tmp_path / "index"))
    monkeypatch.setenv("SLIMBIND_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*args, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        code = app.run([str(arg) for arg in args])
        captured = capsysbinary.readouterr()
        return Result(code, captured.out, captured.err.decode("utf-8"))

    return call
