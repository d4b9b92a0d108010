"""Jupyter notebooks: their words and their code, without results but short ones."""

import json
from typing import Any

from nightloom.errors import DocumentError
from nightloom.formats.assembly import Assembly
from nightloom.formats.markup import markdown_marks

MAX_OUTPUT_CHARACTERS = 1000
"""A longer output is data or a log."""


def read_notebook(text: str, out: Assembly) -> str:
    """Take the Markdown, the code and the short text outputs of a notebook (format 3 or 4).

    Returns:
        The title of its metadata, or its first heading of level 1, or "".

    Raises:
        DocumentError: It is no notebook.
    """
    try:
        notebook = json.loads(text)
    except ValueError:
        raise DocumentError("called a notebook, and is no JSON") from None
    cells = _cells(notebook)
    title = (notebook.get("metadata") or {}).get("title")
    for cell in cells:
        source = _joined(cell.get("source", cell.get("input")))
        match cell.get("cell_type"):
            case "markdown":
                marks = markdown_marks(source)
                title = title or next((heading.title for heading in marks.headings if heading.level == 1), "")
                if source.strip():
                    out.piece(source, headings=marks.headings, wholes=marks.wholes)
            case "code":
                out.block(source, whole=True)
                for output in cell.get("outputs") or []:
                    out.block(_output(output))
            case _:
                out.block(source)
    return title if isinstance(title, str) else ""


def _cells(notebook: Any) -> list[dict[str, Any]]:
    holders = notebook.get("worksheets", [notebook]) if isinstance(notebook, dict) else []
    cells = [cell for holder in holders for cell in holder.get("cells", ())]
    if not holders or "cells" not in holders[0] or not all(isinstance(cell, dict) for cell in cells):
        raise DocumentError("called a notebook, and is none: it has no cells")
    return cells


def _joined(source: Any) -> str:
    """Text is kept as one string or as a list of lines."""
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def _output(output: Any) -> str:
    data = output.get("data") or {}
    text = _joined(output.get("text") or data.get("text/plain"))
    return text if len(text) <= MAX_OUTPUT_CHARACTERS else ""
