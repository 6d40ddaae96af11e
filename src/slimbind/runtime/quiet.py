"""Imports the engines without their telemetry, and OpenVINO without what it would load for nothing.

slimbind sends nothing to anyone. ``import openvino`` brings in the model converter (three quarters of its import time),
and the converter reports every import and every conversion to Google Analytics through the package
``openvino_telemetry``: that package is kept from being imported, and where someone else has imported it already, it is
muted. ``import onnxruntime`` (from 1.29 on, outside of Windows too) writes an identifier of the machine and a queue of
events into the home folder and uploads them from native code, which no hook of Python sees. Its function
``disable_telemetry_events`` comes too late for the identifier and the first event; an environment variable that is set
before the import is the documented way to have none of it.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from threading import Lock
from typing import Any

_TELEMETRY = "openvino_telemetry"
_CONVERTER = "openvino.tools.ovc"
# The second name is the one that some versions in between went by.
_ONNX_SWITCHES = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED")
_lock = Lock()


def openvino() -> Any:  # noqa: ANN401  (a module without types)
    """The module ``openvino``, imported without converter and telemetry."""
    with _lock:
        mute()
        if "openvino" in sys.modules:
            return _warmed(sys.modules["openvino"])
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
        return _warmed(module)


def _warmed(module: Any) -> Any:  # noqa: ANN401
    """The module, after its first conversion of a type: two threads that made the first one at once would hang.

    The table of types is a static variable in C++. Who makes it lets go of Python's lock meanwhile, and who waits for
    it does not, so neither gets on. OpenVINO converts types whenever it is given an array.
    """
    module.Type.f32.to_dtype()
    return module


def convert_model(*args: Any, **options: Any) -> Any:  # noqa: ANN401  (openvino's own function)
    """``openvino.convert_model``, loaded on first use."""
    openvino()
    mute()
    return import_module(_CONVERTER).convert_model(*args, **options)


def onnxruntime() -> Any:  # noqa: ANN401  (a module without types)
    """The module ``onnxruntime``, imported with its telemetry off; raises ``ImportError`` where it is not installed."""
    mute_onnxruntime()
    module: Any = import_module("onnxruntime")
    module.disable_telemetry_events()  # on Windows, and where someone else imported it first
    return module


def mute_onnxruntime() -> None:
    """Turn ONNX Runtime's telemetry off for this process; to be called before anything imports it."""
    for name in _ONNX_SWITCHES:
        os.environ[name] = "1"


def mute() -> None:
    """Keep OpenVINO's (and NNCF's) telemetry from sending anything for the rest of this process."""
    if sys.modules.get(_TELEMETRY) is None:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        return
    sender = import_module(f"{_TELEMETRY}.utils.sender")
    sender.TelemetrySender.send = _send_nothing


def _send_nothing(*_: object, **__: object) -> None:
    return None
