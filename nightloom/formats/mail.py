"""Mail messages: who, when, about what, and the text; attachments are named only."""

import re
from email import policy
from email.errors import HeaderParseError
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

from nightloom.errors import DocumentError
from nightloom.formats.assembly import Assembly
from nightloom.formats.html import decode_html, read_body
from nightloom.formats.text import decode

MULTIPART = re.compile(rb"^content-type:\s*multipart/", re.IGNORECASE | re.MULTILINE)
MAX_MULTIPARTS = 100
"""One inside the other, they cost Python's parser the square of their number."""
HEADERS = ("From", "To", "Cc", "Date")


def read_mail(path: Path, out: Assembly) -> str:
    """Take the subject, sender, receivers, date and the body as text, or else the text of its HTML.

    Returns:
        The subject, or ""; the text begins with it.

    Raises:
        DocumentError: It has too many parts within parts.
    """
    data = path.read_bytes()
    if len(MULTIPART.findall(data)) > MAX_MULTIPARTS:
        raise DocumentError(f"a mail message of more than {MAX_MULTIPARTS} nested parts; store them one by one")
    message = BytesParser(policy=policy.default).parsebytes(data)
    subject = _header(message, "Subject")
    out.block(subject)
    out.block("\n".join(f"{name}: {value}" for name in HEADERS if (value := _header(message, name))))
    body = message.get_body(("plain", "html"))
    if isinstance(body, EmailMessage):
        _add_body(body, out)
    names = [name for part in message.iter_attachments() if (name := part.get_filename())]
    if names:
        out.block(_clean("Attachments: " + ", ".join(names)))
    return subject


def _header(message: EmailMessage, name: str) -> str:
    try:
        return _clean(str(message.get(name, "")))
    except (HeaderParseError, ValueError, IndexError):
        return ""


def _clean(text: str) -> str:
    """On one line; bytes that no encoding explains are replaced."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _add_body(body: EmailMessage, out: Assembly) -> None:
    data = body.get_payload(decode=True)
    charset = body.get_content_charset("")
    if not isinstance(data, bytes) or not data.strip():
        return
    if body.get_content_subtype() == "html":
        read_body(decode_html(data, charset), out)
    else:
        out.block(decode(data, charset).replace("\r\n", "\n"))
