"""Fetch the pinned packages that the samples come from, and read files inside them.

Debian packages are fetched with apt-get, from the mirror that this machine already uses, in a private apt state so
that another suite's list does not touch the machine's own; Python packages with pip. A package whose sha256 is not the
pinned one is refused. Nothing of a package is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import qt_resources


class RecipeError(Exception):
    """A package or a file in it is not what the catalogue says."""


@dataclass(frozen=True)
class Package:
    """One pinned package: `registry` is debian or pypi; `suite` is the Debian release that has this version."""

    registry: str
    name: str
    version: str
    sha256: str
    suite: str = ""


def fetch(package: Package, cache: Path) -> Path:
    """Return the package file in `cache`, downloading it first if it is not there."""
    folder = cache / package.sha256
    if not any(folder.glob("*.deb")) and not any(folder.glob("*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        (_apt if package.registry == "debian" else _pip)(package, folder, cache)
    (file,) = [path for path in folder.iterdir() if path.suffix in {".deb", ".whl"}]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise RecipeError(f"{file.name}: sha256 is {digest}, the catalogue has {package.sha256}")
    return file


def _run(command: list[str], *, folder: Path | None = None, apt_config: Path | None = None) -> str:
    environment = os.environ | ({"APT_CONFIG": str(apt_config)} if apt_config else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    if done.returncode:
        raise RecipeError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _pip(package: Package, folder: Path, _cache: Path) -> None:
    # The pinned sha256 is of this one wheel, so the platform is named whatever machine the recipe runs on.
    _run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        + ["--platform", "manylinux_2_28_x86_64", "--python-version", "311", "--dest", str(folder)]
        + [f"{package.name}=={package.version}"]
    )


def _apt(package: Package, folder: Path, cache: Path) -> None:
    command = ["apt-get", "download", f"{package.name}={package.version}"]
    _run(command, folder=folder, apt_config=_apt_state(package.suite, cache))


def _apt_state(suite: str, cache: Path) -> Path:
    """Make (once) an apt state for `suite` alone, and return its configuration file."""
    state = (cache / f"apt-{suite}").resolve()
    configuration = state / "apt.conf"
    if configuration.exists():
        return configuration
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    targets = _run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"])
    # The security archive has a layout of its own; the plain archive is the one that holds every suite.
    mirrors = [line.split()[0] for line in targets.splitlines() if not line.rstrip().endswith("-security")]
    if not mirrors:
        raise RecipeError("apt has no package source on this machine: set one up, then run this again")
    (state / "sources.list").write_text(f"deb {mirrors[0]} {suite} main\n")
    text = (
        f'Dir::Etc::SourceList "{state}/sources.list";\nDir::Etc::SourceParts "-";\n'
        f'Dir::State::Lists "{state}/lists";\nDir::Cache "{state}/cache";\n'
        'Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";\nAPT::Sandbox::User "root";\n'
    )
    pending = state / "apt.conf.new"
    pending.write_text(text)
    _run(["apt-get", "update"], apt_config=pending)
    return pending.rename(configuration)


class Unpacked:
    """The files of one package; a path may name a member of a Qt resource file after a `!`."""

    def __init__(self, package: Package, cache: Path) -> None:
        self._name = package.name
        self._folder = cache / package.sha256 / "unpacked"
        self._resources: dict[str, dict[str, bytes]] = {}
        file = fetch(package, cache)
        if not self._folder.exists():
            pending = self._folder.with_name("unpacking")
            pending.mkdir(exist_ok=True)
            if file.suffix == ".deb":
                _run(["dpkg-deb", "--extract", str(file), str(pending)])
            else:
                zipfile.ZipFile(file).extractall(pending)
            pending.rename(self._folder)

    def read(self, path: str) -> bytes:
        """Return the bytes of `path`; RecipeError when the package has no such file."""
        outer, _, inner = path.partition("!")
        try:
            content = (self._folder / outer).read_bytes()
            if not inner:
                return content
            if outer not in self._resources:
                self._resources[outer] = dict(qt_resources.members(content))
            return self._resources[outer][inner]
        except (OSError, KeyError) as error:
            raise RecipeError(f"{self._name} has no {path}") from error
