"""From a file on disk to its text, whatever its format."""

from collections.abc import Callable
from pathlib import Path

from nightloom.errors import DocumentError
from nightloom.formats.assembly import Assembly
from nightloom.formats.data import read_json
from nightloom.formats.epub import read_epub
from nightloom.formats.html import decode_html, read_html
from nightloom.formats.kind import CALLED, Kind, kind_of
from nightloom.formats.mail import read_mail
from nightloom.formats.markup import read_markdown, read_rst
from nightloom.formats.notebook import read_notebook
from nightloom.formats.office import read_docx, read_pptx, read_xlsx
from nightloom.formats.parsed import Parsed
from nightloom.formats.pdf import read_pdf
from nightloom.formats.text import check_not_binary, decode, read_text

__all__ = ["MAX_TEXT_BYTES", "Parsed", "parse"]

MAX_TEXT_BYTES = 64 << 20
BYTES_A_CHARACTER = 4
"""The widest encoding, UTF-32, takes so many where UTF-8 takes one."""

TEXT_READERS: dict[Kind, Callable[[str, Assembly], str]] = {
    "text": read_text,
    "markdown": read_markdown,
    "rst": read_rst,
    "html": read_html,
    "json": read_json,
    "notebook": read_notebook,
}
FILE_READERS: dict[Kind, Callable[[Path, Assembly], str]] = {
    "pdf": read_pdf,
    "docx": read_docx,
    "pptx": read_pptx,
    "xlsx": read_xlsx,
    "epub": read_epub,
    "mail": read_mail,
}
"""They add a document's text to the assembly and return its title."""


def parse(path: Path, name: str, declared: str = "", max_text_bytes: int = MAX_TEXT_BYTES) -> Parsed:
    """Read a file of any format. Nothing in it is run, loaded or fetched.

    Args:
        path: The file.
        name: The last part of its URI: a hint, as its content decides.
        declared: Media type that its source gave, with or without parameters, or "".
        max_text_bytes: Limit for the text, in bytes of UTF-8.

    Raises:
        DocumentError: It cannot be taken; the reason holds none of its text.
        MemoryError: This process may not have the memory that it needs.
        ImportError: The library that reads its format is not installed.
    """
    media_type, charset = _declared(declared)
    kind: Kind | None = None
    try:
        kind = kind_of(path, name, media_type)
        out = Assembly(max_text_bytes)
        if kind in FILE_READERS:
            title = FILE_READERS[kind](path, out)
        else:
            title = TEXT_READERS[kind](_text(path, kind, charset, max_text_bytes), out)
        return out.parsed(title)
    except (DocumentError, MemoryError, ImportError, NameError):
        # The last two are no fault of the document's.
        raise
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror or type(error).__name__}") from error
    except RecursionError:
        raise DocumentError(f"{CALLED[kind or 'text']} cannot be read: nested too deeply") from None
    except Exception as error:
        # The libraries below raise whatever a damaged file leads them to; their messages may quote it.
        raise DocumentError(
            f"{CALLED[kind or 'text']} cannot be read: {type(error).__name__}; open it, and save it again"
        ) from error


def _text(path: Path, kind: Kind, charset: str, max_text_bytes: int) -> str:
    size = path.stat().st_size
    if size > max_text_bytes * BYTES_A_CHARACTER:
        raise DocumentError(
            f"{size:,} bytes, where a text may have {max_text_bytes:,}; divide it at the source, or raise"
            " reading.max_text_bytes"
        )
    data = path.read_bytes()
    return check_not_binary(decode_html(data, charset) if kind == "html" else decode(data, charset))


def _declared(declared: str) -> tuple[str, str]:
    """Media type and charset of what a source declares."""
    media_type, *parameters = (part.strip().lower() for part in declared.split(";"))
    charset = next((part.removeprefix("charset=") for part in parameters if part.startswith("charset=")), "")
    return media_type, charset.strip("\"'")
