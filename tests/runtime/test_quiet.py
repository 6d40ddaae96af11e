"""No telemetry: whatever slimbind does with OpenVINO, nothing leaves the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib.metadata import distributions

import pytest

# Reports every attempt to use the network, by any library, and fails it.
GUARD = """
import sys
tried = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        tried.append([event, repr(arguments[1:])])
        raise OSError("no network here")
sys.addaudithook(watch)
"""

needs_telemetry = pytest.mark.skipif(
    not any(one.metadata["Name"] == "openvino-telemetry" for one in distributions()), reason="OpenVINO came without it"
)


def run(code, home):
    """Run ``code`` under the guard in a fresh process with its own home; what it stores in ``result`` comes back."""
    program = GUARD + textwrap.dedent(code)
    program += "\nimport json, time\ntime.sleep(0.3)\nprint(json.dumps({'tried': tried, 'result': result}))"
    # Continuous integration is one of the places where OpenVINO keeps quiet by itself; this must not help here.
    quiet_places = {"CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "SLIMBIND_THREADS"}
    env = {name: value for name, value in os.environ.items() if name not in quiet_places}
    env["HOME"] = str(home)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_telemetry
def test_the_guard_sees_the_telemetry_of_a_plain_import(tmp_path):
    """If this fails, OpenVINO has changed, and the tests below prove nothing any more."""
    told = run("import openvino; result = 'openvino_telemetry' in sys.modules", tmp_path)
    assert told["result"] is True
    assert list(tmp_path.rglob("*")), "it used to leave an id in the home folder"


def test_embedding_sends_nothing_and_leaves_nothing_behind(toy_artifact, tmp_path):
    told = run(
        f"""
        import slimbind
        with slimbind.load({str(toy_artifact)!r}) as model:
            model.embed(["red"], "text")
        result = [sys.modules.get("openvino_telemetry"), "openvino.tools.ovc" in sys.modules, "torch" in sys.modules]
        """,
        tmp_path,
    )
    assert told == {"tried": [], "result": [None, False, False]}
    assert not list(tmp_path.rglob("*"))


@needs_telemetry
def test_a_telemetry_that_is_there_already_is_muted(tmp_path):
    told = run(
        """
        from openvino_telemetry.utils.sender import TelemetrySender
        import openvino_telemetry
        from slimbind.runtime import quiet
        quiet.openvino()
        openvino_telemetry.Telemetry("x", "1", "tid", "ga4", enable_opt_in_dialog=False).send_event("a", "b", "c")
        result = TelemetrySender.send.__module__
        """,
        tmp_path,
    )
    assert told == {"tried": [], "result": "slimbind.runtime.quiet"}


def test_openvino_still_has_its_converter_for_others_in_the_process(tmp_path):
    told = run(
        """
        from slimbind.runtime import quiet
        ov = quiet.openvino()
        assert quiet.openvino() is ov
        before = "openvino.tools.ovc" in sys.modules
        try:
            ov.convert_model("/nowhere.onnx")
        except Exception as error:
            reason = type(error).__name__
        import openvino.tools.ovc
        result = [before, reason, sys.modules["openvino_telemetry"]]
        """,
        tmp_path,
    )
    assert told["tried"] == []
    assert told["result"][0] is False and told["result"][1] != "AttributeError" and told["result"][2] is None


def test_in_this_process_too_nothing_can_be_sent():
    from slimbind.runtime import quiet

    quiet.openvino()
    sender = sys.modules.get("openvino_telemetry")
    assert sender is None or "slimbind" in sender.utils.sender.TelemetrySender.send.__module__
    assert sender is not None or "openvino_telemetry" in sys.modules, "None in sys.modules forbids the import"
