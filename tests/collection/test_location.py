"""Where the index lives by default, on each platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimbind.collection import default_location

HOME = Path.home()


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({}, "linux", HOME / ".local/share/slimbind/index"),
        ({"XDG_DATA_HOME": "/data"}, "linux", Path("/data/slimbind/index")),
        ({"XDG_DATA_HOME": "relative"}, "linux", HOME / ".local/share/slimbind/index"),
        ({}, "darwin", HOME / "Library/Application Support/slimbind/index"),
        ({"LOCALAPPDATA": "/Users/a/AppData/Local"}, "win32", Path("/Users/a/AppData/Local/slimbind/index")),
        ({}, "win32", HOME / "AppData/Local/slimbind/index"),
        ({"SLIMBIND_INDEX": "/mine", "XDG_DATA_HOME": "/data"}, "linux", Path("/mine")),
        ({"SLIMBIND_INDEX": "~/mine"}, "darwin", HOME / "mine"),
    ],
)
def test_each_platform_has_its_place(environ, platform, expected):
    assert default_location(environ, platform) == expected
