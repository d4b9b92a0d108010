"""Documents that hang, crash or explode while they are read, and their neighbours."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from pebble import ProcessPool

from nightloom import readers as readers_module
from nightloom.corpus import ReadingSettings, SourceSettings
from nightloom.documents import Document, DocumentRef
from nightloom.errors import DocumentError
from nightloom.readers import Readers
from nightloom.sources import list_source
from tests.builders import listed, write_jsonl

SLOW_OPERATORS = 3_000_000
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


@pytest.fixture
def calm(tmp_path: Path) -> DocumentRef:
    (tmp_path / "calm.txt").write_text("A few words.")
    return listed(tmp_path / "calm.txt")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> DocumentRef:
    """A PDF of one page that takes many seconds to read."""
    content = b"BT /F1 12 Tf " + b"(a) Tj " * SLOW_OPERATORS + b"ET"
    file = tmp_path_factory.mktemp("slow") / "slow.pdf"
    file.write_bytes(pdf(content))
    return listed(file)


def pdf(content: bytes) -> bytes:
    """A PDF of one page."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 %s >> >> >>"
        % FONT,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    body, offsets = b"%PDF-1.4\n", []
    for number, part in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return body + b"xref\n0 5\n0000000000 65535 f \n%strailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(body),
    )


@pytest.fixture
def readers() -> Iterator[Readers]:
    with Readers(ReadingSettings(parse_timeout_seconds=0.7, processes=2)) as readers:
        yield readers


def texts(found: Iterator[Document | DocumentError]) -> list[str]:
    """Text or reason of each document."""
    return [one.text if isinstance(one, Document) else str(one) for one in found]


def test_a_document_that_hangs_is_given_up_and_its_neighbours_go_on(
    readers: Readers, calm: DocumentRef, slow: DocumentRef
) -> None:
    began = time.monotonic()
    found = texts(readers.read([calm, slow, calm, slow, calm]))
    assert [text == "A few words." for text in found] == [True, False, True, False, True]
    assert "reading.parse_timeout_seconds = 0.7" in found[1]
    assert time.monotonic() - began < 30


def test_a_reader_that_is_killed_takes_one_document_with_it(calm: DocumentRef, slow: DocumentRef) -> None:
    with Readers(ReadingSettings(parse_timeout_seconds=60, processes=1)) as readers:
        assert texts(readers.read([calm])) == ["A few words."]
        killer = threading.Timer(0.5, lambda: os.kill(reader(), signal.SIGKILL))
        killer.start()
        found = texts(readers.read([slow, calm]))
    assert "ended the process that read it" in found[0]
    assert found[1] == "A few words."


def reader() -> int:
    """The process that uses most of a processor: of those that this one's own fork server has begun."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # one that ends meanwhile
            _, parent, *more = stat.read_text().rpartition(")")[2].split()
            if int(parent) == forkserver._forkserver._forkserver_pid:  # type: ignore[attr-defined]
                found[int(stat.parent.name)] = int(more[9])
    return max(found, key=lambda pid: found[pid])


def test_a_document_that_takes_too_much_memory_is_refused_by_the_limit(tmp_path: Path, calm: DocumentRef) -> None:
    (tmp_path / "large.txt").write_text("😀" * 24_000_000, encoding="utf-8")
    with Readers(ReadingSettings(max_memory_bytes=500_000_000, max_text_bytes=100_000_000, processes=1)) as readers:
        found = texts(readers.read([listed(tmp_path / "large.txt"), calm]))
    assert "reading.max_memory_bytes = 500000000" in found[0]
    assert found[1] == "A few words."


def test_shards_that_begin_at_once_share_the_processes(monkeypatch: pytest.MonkeyPatch, calm: DocumentRef) -> None:
    made: list[ProcessPool] = []

    def slowly(**options: Any) -> ProcessPool:
        time.sleep(0.2)
        made.append(ProcessPool(**options))
        return made[-1]

    monkeypatch.setattr(readers_module, "ProcessPool", slowly)
    with Readers(ReadingSettings()) as readers, ThreadPoolExecutor(3) as shards:
        found = shards.map(lambda _: texts(readers.read([calm])), range(3))
        assert list(found) == [["A few words."]] * 3
    assert len(made) == 1, "the others are never stopped"


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.5])
def test_the_end_of_a_night_waits_for_no_document(slow: DocumentRef, seconds: float) -> None:
    """Neither for one that is read, nor for one that was about to be: the pool may forget that one."""
    began = time.monotonic()
    with Readers(ReadingSettings()) as readers:
        readers.start()
        reading = threading.Thread(target=lambda: texts(readers.read([slow])), daemon=True)
        reading.start()
        time.sleep(seconds)
    reading.join(20)
    assert not reading.is_alive()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (ReadingSettings(max_document_bytes=5), "12 bytes are more than reading.max_document_bytes = 5"),
        (ReadingSettings(max_text_bytes=5), "more than 5 bytes of text"),
    ],
)
def test_what_is_too_large_is_not_read(calm: DocumentRef, limits: ReadingSettings, says: str) -> None:
    with Readers(limits) as readers:
        (found,) = texts(readers.read([calm]))
    assert says in found


def test_rows_of_a_file_are_read_without_another_process(tmp_path: Path, readers: Readers) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"_id": "1", "text": "One."}, {"_id": "2", "text": " "}])
    found = readers.read(list_source(SourceSettings(name="rows", jsonl=file)).documents)
    assert texts(found) == ["One.", "empty: it has no text"]
    assert readers._pool is None
