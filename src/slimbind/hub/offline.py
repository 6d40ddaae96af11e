"""Whether the network may be used, and the settings that keep Hugging Face's library quiet about its user."""

from __future__ import annotations

import os

_YES = {"1", "ON", "YES", "TRUE"}


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` (or ``TRANSFORMERS_OFFLINE``) forbids the network; read anew on every call."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _YES


def silence_telemetry() -> None:
    """Turn off what Hugging Face's library would send about its user; to be called before it is imported."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_UPDATE_CHECK", "1")
