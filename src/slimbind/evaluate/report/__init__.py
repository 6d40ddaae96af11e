"""Reports of evaluations for people: one HTML page that needs nothing but itself, and Markdown tables."""

from slimbind.evaluate.report.markdown import markdown
from slimbind.evaluate.report.page import html, write_html

__all__ = ["html", "markdown", "write_html"]
