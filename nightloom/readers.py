"""Reading documents in processes of their own: one that hangs, explodes or crashes takes no other along."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakSet

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from nightloom.corpus import ReadingSettings
from nightloom.documents import Document, DocumentRef
from nightloom.errors import DocumentError
from nightloom.reading import read_document

PRELOADED = "nightloom.reading"
"""Imported once, by the process that the others are forked from."""
DOCUMENTS_A_PROCESS = 1_000
"""A process is replaced after so many: parsers leak."""
ERROR_CHARACTERS = 200
"""Of what a parser says of a document."""
CPU_SECONDS_MORE = 5
"""Beyond the time that a document has: then the system ends a reader whose night was killed."""


class Readers:
    """A few processes that read documents, started with the first one."""

    def __init__(self, settings: ReadingSettings) -> None:
        """Start nothing yet."""
        self._settings = settings
        self._pool: ProcessPool | None = None
        self._starting = threading.Lock()
        self._futures: WeakSet[ProcessFuture[Document]] = WeakSet()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes, whatever they are reading."""
        if self._pool:
            self._pool.stop()
            self._pool.join()
        # The pool may forget a document that it was about to begin, and who waits for it would wait for ever.
        _cancel(list(self._futures))

    def start(self) -> None:
        """Have the processes ready; shards that begin at the same time share them."""
        with self._starting:
            if self._pool is not None:
                return
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([PRELOADED])
            self._pool = ProcessPool(
                max_workers=self._settings.processes or max(1, (os.cpu_count() or 1) // 2),
                max_tasks=DOCUMENTS_A_PROCESS,
                initializer=_limit,
                initargs=(self._settings.max_memory_bytes,),
                context=context,
            )

    def read(self, refs: Sequence[DocumentRef]) -> Iterator[Document | DocumentError]:
        """Documents in the order of their refs, or why one cannot be taken.

        Files have been read when this returns. Rows of a file are read in this process, each when it is asked for:
        their text is there as it is, and the listing has parsed them once.
        """
        futures = [None if ref.span else self._schedule(ref) for ref in refs]
        try:
            found = [self._taken(future.result) if future else None for future in futures]
        finally:
            _cancel(future for future in futures if future)
        return (self.read_here(ref) if read is None else read for ref, read in zip(refs, found, strict=True))

    def _schedule(self, ref: DocumentRef) -> "ProcessFuture[Document]":
        self.start()
        assert self._pool is not None  # noqa: S101  started
        future = self._pool.schedule(_read, args=(ref, self._settings), timeout=self._settings.parse_timeout_seconds)
        self._futures.add(future)
        if not self._pool.active:
            future.cancel()
        return future

    def read_here(self, ref: DocumentRef) -> Document | DocumentError:
        """A document read in this process, or why it cannot be taken."""
        return self._taken(lambda: read_document(ref, self._settings))

    def _taken(self, read: Callable[[], Document]) -> Document | DocumentError:
        try:
            return read()
        except DocumentError as error:
            return error
        except TimeoutError:
            return DocumentError(
                f"not read within reading.parse_timeout_seconds = {self._settings.parse_timeout_seconds:g}"
            )
        except MemoryError:
            return DocumentError(
                f"takes more than reading.max_memory_bytes = {self._settings.max_memory_bytes} to read"
            )
        except ProcessExpired as error:
            return DocumentError(
                f"ended the process that read it (exit code {error.exitcode}): too much memory, or a fault"
            )
        except Exception as error:  # noqa: BLE001  a parser may raise anything, and no document ends a night
            return DocumentError(f"cannot be read: {type(error).__name__}: {str(error)[:ERROR_CHARACTERS]}")


def _cancel(futures: Iterable["ProcessFuture[Document]"]) -> None:
    for future in futures:
        future.cancel()


def _limit(memory_bytes: int) -> None:
    """Ctrl+C is for the night; and what is too large for memory is an error in here, not the end of the machine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(ImportError, ValueError, OSError):  # not every system has it
        import resource  # noqa: PLC0415

        most = _address_space() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _address_space() -> int:
    """Bytes that this process begins with: much, where the program that uses us has had its own modules preloaded."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not every system has it
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _read(ref: DocumentRef, settings: ReadingSettings) -> Document:
    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415

        used = resource.getrusage(resource.RUSAGE_SELF)
        ends = int(used.ru_utime + used.ru_stime + settings.parse_timeout_seconds) + CPU_SECONDS_MORE
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (ends, most))
    return read_document(ref, settings)
