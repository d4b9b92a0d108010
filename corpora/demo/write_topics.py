#!/usr/bin/env python3
"""Write the demo corpus of Nightloom: the topics of Python's language reference.

Every CPython carries this text (`pydoc_data.topics`, what `help("with")` prints), so
the demo downloads nothing, and its documents change only when your Python does.

    python corpora/demo/write_topics.py [FOLDER]

Run it as often as you like: a file is written only if its content differs, so the
times of the others remain. FOLDER is the script's own: any other *.txt in it is
taken for a topic that this Python no longer has, and removed.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def file_name(topic: str) -> str:
    """Return the file name of a topic, such as `with.txt`.

    Raises:
        ValueError: The name could leave the folder or upset a file system. No known
            Python has such a topic; trying again cannot help.
    """
    if not SAFE_NAME.fullmatch(topic):
        message = f"topic {topic!r} of this Python is not safe as a file name"
        raise ValueError(message)
    return f"{topic}.txt"


def write_topics(folder: Path | str) -> int:
    """Make the *.txt files of a folder exactly the topics of this Python.

    The deployment `demo` calls this before its flow: see prefect.yaml.

    Returns:
        Topics in the folder, whether or not they had to be written.
    """
    files = {file_name(topic): text for topic, text in topics.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path, content = folder / name, f"{text.rstrip()}\n".encode()
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)
    for path in folder.glob("*.txt"):
        if path.name not in files:
            path.unlink()
    return len(files)


def main() -> None:
    """Write the topics to the folder named on the command line and say so."""
    parser = argparse.ArgumentParser(description="Write the demo corpus of Nightloom.")
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(__file__).resolve().with_name("topics"),
        help="where to write; its other *.txt are removed (default: topics/ beside me)",
    )
    folder: Path = parser.parse_args().folder.resolve()
    count, here = write_topics(folder), Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    python = platform.python_version()
    sys.stdout.write(f"{count} topics of Python {python} in {shown}\n")


if __name__ == "__main__":
    main()
