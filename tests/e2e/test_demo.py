"""The demo runs from its first line to its last."""

from __future__ import annotations

import sys
from pathlib import Path

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
SAMPLES = DEMO.parents[1] / "samples" / "photos"


def test_the_demo_answers_every_question(slimbind):
    shown = slimbind(SAMPLES, program=[sys.executable, str(DEMO)]).stdout.decode()
    answers = [line for line in shown.splitlines() if line.count(".jpg (") == 3]
    assert len(answers) >= 6
    assert any(line.startswith("a dog") for line in answers)
    assert "after unload" in shown and "open towers: none" in shown
