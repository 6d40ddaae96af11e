"""Builds HTML and SVG as a tree, so that no text, whatever it holds, can become markup.

Class names, paths and error messages come from other people's files. They only ever enter as the text or the attribute
of an element, and the standard library's serialiser escapes both.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, tostring

Node = Element | str | None
Attribute = str | int | float | bool | None

# What HTML does not allow as a character, and the marks that turn the direction of all that follows.
_LAST = "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
_UNFIT = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef{_LAST}]")
_BLOCKS = {"head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section", "figure", "div", "p"}
_BLOCKS |= {"h1", "h2", "h3", "table", "caption", "thead", "tbody", "tr", "ul", "li", "dl", "dt", "dd", "svg", "g"}
_EMBEDDED = re.compile(r"data:image/(?:png|jpeg|webp);base64,[A-Za-z0-9+/]+={0,2}")


def tag(name: str, /, *children: Node, **attributes: Attribute) -> Element:
    """An element with ``children``; None among them is left out.

    Attributes are written with underscores for hyphens, ``class_`` and ``for_`` with one behind. None and False leave
    an attribute out, True gives one without a value.
    """
    made = Element(name)
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        made.set(key.rstrip("_").replace("_", "-"), "" if value is True else _text(value))
    add(made, *children)
    return made


def add(parent: Element, *children: Node) -> None:
    """Put ``children`` behind those that are there."""
    for child in children:
        if isinstance(child, Element):
            parent.append(child)
        elif child is not None and len(parent):
            parent[-1].tail = (parent[-1].tail or "") + fit(child)
        elif child is not None:
            parent.text = (parent.text or "") + fit(child)


def fit(text: str) -> str:
    """Text without characters that no page may hold; a mark stands in their places."""
    return _UNFIT.sub("\ufffd", text)


def is_embedded_image(text: object) -> bool:
    """Whether this is a picture as a data URI, and nothing that a browser would fetch or run."""
    return isinstance(text, str) and _EMBEDDED.fullmatch(text) is not None


def document(root: Element) -> str:
    """The whole page, with a line for each block."""
    for element in root.iter():
        if element.tag in _BLOCKS and not element.tail:
            element.tail = "\n"
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html").rstrip("\n") + "\n"


def _text(value: str | int | float) -> str:
    return fit(value) if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else str(value)
