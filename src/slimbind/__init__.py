"""slimbind takes a multimodal embedding model apart, makes each part small and fast, and the embeddings searchable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimbind.artifact import Artifact, Manifest
    from slimbind.collection import Collection
    from slimbind.errors import SlimbindError
    from slimbind.media.limits import Limits
    from slimbind.runtime.model import Model, load

__version__ = "0.1.0"

# Public names load on first use, so that `import slimbind` costs nothing: no numpy, no engine, no torch.
_WHERE = {
    "Artifact": "slimbind.artifact",
    "Collection": "slimbind.collection",
    "Limits": "slimbind.media.limits",
    "Manifest": "slimbind.artifact",
    "Model": "slimbind.runtime.model",
    "SlimbindError": "slimbind.errors",
    "load": "slimbind.runtime.model",
}

__all__ = ["Artifact", "Collection", "Limits", "Manifest", "Model", "SlimbindError", "__version__", "load"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module hands out anything)
    if name not in _WHERE:
        raise AttributeError(f"module 'slimbind' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
