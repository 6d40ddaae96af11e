"""Imports OpenVINO without its telemetry and without what it would load for nothing.

``import openvino`` brings in the model converter (three quarters of its import time), and the converter reports every
import and every conversion to Google Analytics through the package ``openvino_telemetry``. slimbind sends nothing to
anyone: that package is kept from being imported, and where someone else has imported it already, it is muted.
"""

from __future__ import annotations

import sys
from importlib import import_module
from threading import Lock
from typing import Any

_TELEMETRY = "openvino_telemetry"
_CONVERTER = "openvino.tools.ovc"
_lock = Lock()


def openvino() -> Any:  # noqa: ANN401  (a module without types)
    """The module ``openvino``, imported without converter and telemetry."""
    with _lock:
        mute()
        if "openvino" in sys.modules:
            return sys.modules["openvino"]
        # None in sys.modules makes `import` raise ImportError, which openvino's own __init__ expects and survives.
        blocked = _CONVERTER not in sys.modules
        if blocked:
            sys.modules[_CONVERTER] = None  # type: ignore[assignment]
        try:
            module: Any = import_module("openvino")
        finally:
            if blocked:
                del sys.modules[_CONVERTER]
        if not hasattr(module, "convert_model"):
            module.convert_model = convert_model  # others in this process may expect to find it there
        return module


def convert_model(*args: Any, **options: Any) -> Any:  # noqa: ANN401  (openvino's own function)
    """``openvino.convert_model``, loaded on first use."""
    openvino()
    mute()
    return import_module(_CONVERTER).convert_model(*args, **options)


def mute() -> None:
    """Keep OpenVINO's (and NNCF's) telemetry from sending anything for the rest of this process."""
    if sys.modules.get(_TELEMETRY) is None:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        return
    sender = import_module(f"{_TELEMETRY}.utils.sender")
    sender.TelemetrySender.send = _send_nothing


def _send_nothing(*_: object, **__: object) -> None:
    return None
