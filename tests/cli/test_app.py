"""How the program ends: each kind of error has its exit code, its message, and no traceback."""

from __future__ import annotations

import pytest

from slimbind.cli import app, console
from slimbind.errors import CollectionError, DriftError, UsageError


@pytest.fixture
def failing(cli, monkeypatch):
    """The program, with an ``info`` that fails as asked."""

    def call(error, *args):
        def info() -> None:
            raise error

        monkeypatch.setattr("slimbind.cli.info.info", info)
        return cli("info", *args)

    return call


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("bad value", hint="try 3"), 2, "error: bad value\nhint: try 3\n"),
        (CollectionError("no index"), 1, "error: no index\n"),
        (DriftError("too far"), 3, "error: too far\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
        (OSError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied\n"),
        (BrokenPipeError(32, "Broken pipe"), 0, ""),
    ],
)
def test_each_error_has_its_code_and_its_words(failing, error, code, message):
    result = failing(error)
    assert (result.code, result.out, result.err) == (code, b"", message)


def test_a_bug_is_not_hidden(failing):
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


@pytest.mark.parametrize("error", [CollectionError("no index"), OSError(28, "No space left")])
def test_a_traceback_may_be_asked_for(failing, monkeypatch, error):
    monkeypatch.setenv("SLIMBIND_TRACEBACK", "1")
    with pytest.raises(type(error)):
        failing(error)


def test_the_version_is_told(cli):
    from slimbind import __version__

    result = cli("--version")
    assert (result.code, result.out.decode().strip()) == (0, f"slimbind {__version__}")


@pytest.mark.parametrize("args", [["no-such-command"], ["info", "--no-such-option"]])
def test_wrong_words_are_refused(cli, args):
    result = cli(*args)
    assert result.code == 2
    assert "no-such" in result.err


def test_every_command_can_explain_itself(cli):
    for name in app.COMMANDS:
        result = cli(name, "--help")
        assert result.code == 0
        assert b"Usage" in result.out


def test_progress_in_a_log_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(console, "_EVERY", 0.0)
    with console.progress("working", total=2, show=True) as advance:
        advance()
        advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[0] for line in lines] == [
        "working: 1/2 items",
        "working: 2/2 items",
        "working: 2/2 items",
    ]
    assert all(line.endswith(" items/s") for line in lines)


@pytest.mark.parametrize("show", [None, False])
def test_progress_is_silent_where_it_is_not_wanted(capsys, show):
    with console.progress("working", show=show) as advance:
        advance()
    assert capsys.readouterr().err == ""
    assert console.shows_progress(show) is False


def test_messages_are_safe_for_terminals():
    assert console.printable("a\tb é 日") == "a\tb é 日"
    assert console.printable("\x1b[31m\n\udcff") == "\\x1b[31m\\n\\udcff"
