"""Pages read back: ``page(records)`` gives the tree of a page that follows the rules of HTML to the letter."""

from __future__ import annotations

import pytest
from tinyhtml5.parser import HTMLParser

from slimbind.evaluate.report import html


@pytest.fixture(scope="session")
def read_page():
    """``read_page(text)`` -> the root element, without namespaces; refuses any mistake in the markup."""

    def read(text):
        parser = HTMLParser(namespace_html_elements=False)
        root = parser.parse(text)
        assert parser.errors == []
        for element in root.iter():
            if isinstance(element.tag, str):
                element.tag = element.tag.rpartition("}")[2]
        return root

    return read


@pytest.fixture(scope="session")
def page(read_page):
    return lambda records, **options: read_page(html(records, **options))


@pytest.fixture(scope="session")
def said():
    """``said(element)``: all its text, in one line."""
    return lambda element: " ".join("".join(element.itertext()).split())
