"""Sources that are a file, or a folder with all below it."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

from nightloom.corpus import SourceSettings
from nightloom.documents import DocumentRef, Listing, Quarantined
from nightloom.errors import SourceError
from nightloom.left_out import LeftOutCounter
from nightloom.sources.listing import LINKS, MEND, Selection, listing_of, metadata_of, not_text

READ_BYTES = 1 << 20


def list_path(source: SourceSettings, path: Path) -> Listing:
    """List a file or folder, reading every byte once to hash it.

    Raises:
        SourceError: It is not there, is neither, or a folder in it cannot be listed.
    """
    if path.is_dir():
        return _list_folder(source, path)
    if not path.exists():
        raise SourceError(f"source {source.label!r}: {path}: there is no such file or folder; {MEND} path")
    if not path.is_file():
        raise SourceError(f"source {source.label!r}: {path}: is neither a file nor a folder; {MEND} path")
    return listing_of([_hashed(source, path, source.name or path.name, path.name)])


def hash_file(file: Path) -> tuple[str, int]:
    """sha256 of a file, hex, and its size in bytes, read in pieces of 1 MiB."""
    digest, size_bytes = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
    return digest.hexdigest(), size_bytes


def _list_folder(source: SourceSettings, folder: Path) -> Listing:
    chosen = Selection(source)
    return listing_of(
        (
            _hashed(source, file, f"{source.name}/{relative}" if source.name else relative, relative)
            for file, relative in _walk(folder, chosen.left_out, heed_gitignore=source.gitignore)
            if chosen.takes(relative)
        ),
        chosen.left_out,
    )


def _walk(folder: Path, left_out: LeftOutCounter, *, heed_gitignore: bool) -> Iterator[tuple[Path, str]]:
    """Every regular file below a folder with its POSIX path relative to it; symbolic links are not followed.

    What .gitignore names, and links, are counted; .git itself is nobody's document.
    """

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    ignored = _Gitignore(folder)
    for parent, folders, files in os.walk(folder, onerror=refuse):
        here = Path(parent)
        if heed_gitignore:
            ignored.enter(here)
            folders[:] = ignored.folders(here, folders, left_out)
        folders.sort()
        for name in sorted(files):
            file = here / name
            if ignored.leaves_out(file):
                left_out.file(".gitignore", name)
            elif file.is_file() and not file.is_symlink():
                yield file, file.relative_to(folder).as_posix()
        if links := sum((here / name).is_symlink() for name in (*folders, *files)):
            left_out.add(LINKS, "links", count=links)


class _Gitignore:
    """The .gitignore files of a folder and of the folders in it, as git heeds them: the deepest that knows decides."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._specs: dict[Path, GitIgnoreSpec] = {}

    def enter(self, folder: Path) -> None:
        """Read the .gitignore of a folder before anything in it is asked about."""
        file = folder / ".gitignore"
        if not file.is_file():
            return
        try:
            self._specs[folder] = GitIgnoreSpec.from_lines(file.read_text("utf-8", "surrogateescape").splitlines())
        except (OSError, ValueError) as error:
            raise SourceError(f"{file}: cannot be read: {error}; mend it, or set gitignore = false") from None

    def folders(self, parent: Path, names: list[str], left_out: LeftOutCounter) -> list[str]:
        """The folders in a folder that are not ignored; the others are counted, but for .git."""
        present = [name for name in names if name != ".git"]
        kept = [name for name in present if not self.leaves_out(parent / name, "/")]
        if len(present) > len(kept):
            left_out.add(".gitignore", "folders", count=len(present) - len(kept))
        return kept

    def leaves_out(self, path: Path, ending: str = "") -> bool:
        """Whether a file is ignored; a folder with the ending "/"."""
        for folder in path.parents if self._specs else ():
            if folder in self._specs:
                name = path.relative_to(folder).as_posix().replace("\n", "?")
                verdict = self._specs[folder].check_file(name + ending).include
                if verdict is not None:
                    return verdict
            if folder == self._root:
                break
        return False


def _hashed(source: SourceSettings, file: Path, uri: str, item: str) -> DocumentRef | Quarantined:
    shown = not_text(uri)
    if shown:
        return Quarantined(shown, shown, "its name is not valid UTF-8; rename the file", source.label)
    try:
        content, size_bytes = hash_file(file)
    except OSError as error:
        return Quarantined(uri, item, f"cannot be read: {error.strerror}", source.label)
    # No time of the file: it is another one on every machine.
    return DocumentRef(uri, item, source.label, content, file, size_bytes, metadata=metadata_of(source))
