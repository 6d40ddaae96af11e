"""The pages that are generated say what the program says, and links between pages lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the typer that lays out the page needs Python 3.11")
def test_the_command_line_reference_is_what_the_program_says() -> None:
    code = "import sys; sys.path.insert(0, 'docs'); import generate; sys.stdout.write(generate.render())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, check=True)
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == done.stdout.decode(), "run `make docs`"


def test_every_number_in_a_table_comes_from_a_result() -> None:
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import tables\n"
        "wrong = [page.name for page in tables.pages() if page.read_text() != tables.render(page.read_text())]\n"
        "sys.exit(f'run `make docs`: {wrong}' if wrong else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            leads_to = page.parent / target if target else page
            assert leads_to.exists(), f"{page.name} links to {target}"
            if anchor:
                assert anchor in anchors(leads_to), f"{page.name} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
