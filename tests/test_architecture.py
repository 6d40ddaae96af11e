"""The import rule: modules import downward only, and the run plane never imports PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "slimbind"

# Each package, and what of slimbind it may import (itself included). `slimbind` itself is the version, nothing more.
BASE = {"slimbind", "errors", "modalities", "sizes", "scores", "whole"}
STORE = BASE | {"artifact", "hub", "media"}
BUILD = STORE | {"towers", "quantize", "slim", "export", "runtime"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": {"errors"},
    "modalities": {"errors", "modalities"},
    "sizes": {"errors"},
    "whole": set(),
    "scores": {"errors", "modalities", "whole"},
    "media": BASE | {"media"},
    "artifact": BASE | {"artifact", "media"},
    "hub": STORE,
    "runtime": STORE | {"runtime", "towers", "quantize"},  # the last two only in the torch adapter
    "towers": STORE | {"towers"},
    "export": BUILD,
    "quantize": BUILD | {"evaluate"},  # evaluate only in the job, which ends with the report of what was lost
    "datasets": BASE | {"media", "datasets"},
    "evaluate": STORE | {"runtime", "datasets", "codecs", "evaluate"},
    "codecs": BASE | {"codecs"},
    "collection": BASE | {"codecs", "collection"},
    "bulk": STORE | {"runtime", "collection", "codecs", "bulk"},
    "cli": BUILD | {"collection", "codecs", "bulk", "datasets", "evaluate", "cli"},
    "__main__": BASE | {"cli"},
    "models": set(),
    "__init__": BUILD | {"collection"},  # lazily, or for type checkers only
}
TORCH_ALLOWED = {"towers", "quantize", "export", "runtime/torch.py"}


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """Absolute names of all modules a file imports, function bodies included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
            if node.module == "slimbind":
                found |= {f"slimbind.{alias.name}" for alias in node.names if not alias.name.startswith("__")}
    return found


def _package(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_downward_only(path: Path) -> None:
    allowed = MAY_IMPORT[_package(path)]
    for name in _imports(path):
        if name.split(".")[0] == "slimbind":
            target = (name.split(".") + ["slimbind"])[1] if "." in name else "slimbind"
            assert target in allowed, f"{path.relative_to(SOURCE)} imports {name}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_the_build_plane_imports_torch(path: Path) -> None:
    if any(name.split(".")[0] == "torch" for name in _imports(path)):
        relative = path.relative_to(SOURCE).as_posix()
        assert _package(path) in TORCH_ALLOWED or relative in TORCH_ALLOWED, relative


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert path.stem not in {"utils", "helpers", "misc", "common"}


def test_the_run_plane_imports_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import slimbind, slimbind.runtime.model, slimbind.collection, slimbind.bulk, slimbind.hub, slimbind.cli.app\n"
        "slimbind.cli.app.build(); slimbind.load"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_slimbind_loads_nothing_heavy() -> None:
    code = "import sys, slimbind; print(sorted({'numpy', 'openvino', 'pydantic', 'typer'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from slimbind.cli.app import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'numpy', 'openvino', 'pydantic', 'PIL', 'tokenizers', 'huggingface_hub'}\n"
        "sys.exit(f'loaded: {found}' if (found := sorted(heavy & set(sys.modules))) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_sorted_and_exist() -> None:
    import slimbind

    assert slimbind.__all__ == sorted(slimbind.__all__)
    for name in slimbind.__all__:
        assert getattr(slimbind, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = slimbind.nothing
