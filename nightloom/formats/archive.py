"""Formats that are zip files: what is checked before any of their parts is opened."""

import errno
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from nightloom.errors import DocumentError

MAX_MEMBERS = 10_000
MAX_MEMBER_BYTES = 256 << 20
MAX_TOTAL_BYTES = 512 << 20
MAX_RATIO = 200
"""Of unpacked to packed bytes, over the whole file: text packs 3 to 20 times, a bomb of one layer about 1,000."""
RATIO_FROM_BYTES = 16 << 20
"""What unpacks to less than this is harmless, whatever its ratio."""
ENCRYPTED = 0x1
"""Bit of a member's flags. Source: PKWARE, APPNOTE 4.4.4."""
DAMAGED = "a damaged zip file; store it again"
PROLOG_BYTES = 1 << 12
SYMBOLIC_LINK_SYSTEM = 3
"""Unix: members made there carry the mode of the file in the upper half of their attributes."""


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file whose members are not to be trusted yet.

    Raises:
        DocumentError: It is damaged, as far as it is read.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError):
        raise DocumentError(DAMAGED) from None
    except OSError as error:
        # An offset in it that leads nowhere.
        if error.errno != errno.EINVAL:
            raise
        raise DocumentError(DAMAGED) from None


@contextmanager
def checked_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file that is no bomb and whose members have harmless names.

    Raises:
        DocumentError: It is damaged, or its members are too many, too large, too dense, ill-named, linked or locked.
    """
    with open_zip(path) as opened:
        _check_size(opened.infolist(), path.stat().st_size)
        for member in opened.infolist():
            _check_member(member)
        yield opened


def check_xml(opened: zipfile.ZipFile) -> None:
    """Refuse a document type in any XML part: it could declare entities, and no office file has one.

    Source: ECMA-376 part 2 (Open Packaging Conventions), "XML usage".

    Raises:
        DocumentError: A part declares a document type, or is no XML where it begins as XML.
    """
    for member in opened.infolist():
        with opened.open(member) as part:
            if _begins_as_xml(part):
                part.seek(0)
                _check_prolog(part)


def _check_size(members: list[zipfile.ZipInfo], packed_bytes: int) -> None:
    total = sum(member.file_size for member in members)
    largest = max((member.file_size for member in members), default=0)
    if len(members) > MAX_MEMBERS:
        raise DocumentError(f"a zip file of {len(members):,} members, where {MAX_MEMBERS:,} are the limit")
    if largest > MAX_MEMBER_BYTES:
        raise DocumentError(f"a zip file with a member of {largest:,} bytes, where {MAX_MEMBER_BYTES:,} are the limit")
    if total > MAX_TOTAL_BYTES:
        raise DocumentError(f"a zip file that unpacks to {total:,} bytes, where {MAX_TOTAL_BYTES:,} are the limit")
    if total > RATIO_FROM_BYTES and total > MAX_RATIO * packed_bytes:
        raise DocumentError(f"a zip file that unpacks to more than {MAX_RATIO} times its size, as bombs do")


def _check_member(member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or member.filename[1:2] == ":":
        raise DocumentError("a zip file with a member whose name leads out of it")
    if member.create_system == SYMBOLIC_LINK_SYSTEM and stat.S_ISLNK(member.external_attr >> 16):
        raise DocumentError("a zip file with a symbolic link in it")
    if member.flag_bits & ENCRYPTED:
        raise DocumentError("encrypted; store it without a password")


def _begins_as_xml(part: IO[bytes]) -> bool:
    return part.read(PROLOG_BYTES).replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xfe\xff \t\r\n").startswith(b"<")


class _RootElement(Exception):
    """The prolog is over."""


class _Prolog:
    """What a parser tells of a part: nothing matters but where its root begins."""

    def start(self, _tag: str, _attributes: dict[str, str]) -> None:
        raise _RootElement


def _check_prolog(part: IO[bytes]) -> None:
    """Read a part up to its root element, which is where a document type must stand if there is one."""
    from xml.etree.ElementTree import ParseError  # noqa: PLC0415  the error, not a parser

    from defusedxml import DefusedXmlException  # type: ignore[import-untyped]  # noqa: PLC0415
    from defusedxml.ElementTree import DefusedXMLParser  # type: ignore[import-untyped]  # noqa: PLC0415

    parser = DefusedXMLParser(target=_Prolog(), forbid_dtd=True)
    try:
        while chunk := part.read(PROLOG_BYTES):
            parser.feed(chunk)
        # From 2.6 on, expat puts off what it has read of a long comment, and all that stands behind it.
        parser.close()
    except _RootElement:
        return
    except DefusedXmlException:
        raise DocumentError("one of its parts declares a document type or entities") from None
    except (ParseError, ValueError, LookupError):
        raise DocumentError("one of its parts is damaged XML") from None
