"""A folder for downloads and what is noted of them: gone with its process, or soon after where that was killed."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "nightloom-work-"
FRESH_SECONDS = 60.0
"""So old must a folder be before anyone looks whether its process still holds it: a new one is not yet held."""


@contextmanager
def working_folder() -> Iterator[Path]:
    """A new folder, deleted when the block ends; before that, those that killed processes of this user have left.

    It lies in the folder for temporary files, and nobody else can read it.
    """
    _delete_abandoned()
    temporary = tempfile.TemporaryDirectory(prefix=PREFIX)
    with _held(Path(temporary.name), wait=True), temporary:
        yield Path(temporary.name)


def _delete_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), _held(folder) as is_held:
            if is_held and time.time() - folder.stat().st_mtime > FRESH_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a folder for this process; the system lets go of it when the process ends, however that ends.

    Args:
        folder: A folder.
        wait: Until another process lets go of it.

    Yields:
        Whether it is held: it is this user's, and no other process has it.
    """
    if sys.platform == "win32":
        yield False
        return
    import fcntl  # noqa: PLC0415  not on every platform

    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        is_held = os.fstat(opened).st_uid == os.getuid()
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:  # another process has it, or the file system knows no locks
            is_held = False
        yield is_held
    finally:
        os.close(opened)
