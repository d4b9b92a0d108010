"""Sources that are a store of objects: whatever fsspec has an address for, such as s3://bucket/prefix."""

import asyncio
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from nightloom.concurrency import each
from nightloom.corpus import SourceSettings
from nightloom.documents import DocumentRef, Listing, Quarantined, document_id
from nightloom.errors import DocumentError, SourceError, SourceUnavailable
from nightloom.left_out import LeftOut
from nightloom.sources.http import LIMITS, DownloadLimits
from nightloom.sources.listing import LINKS, MEND, Selection, listing_of, metadata_of, not_text

Result = TypeVar("Result")

BLOCK_BYTES = 4 << 20
"""Asked of a store at once: stores' own blocks are up to 50 MiB, for each of the objects that are read at once."""

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
"""Which of the package's extras brings the class for an address."""

VERSIONS = ("ETag", "etag", "generation", "md5Hash", "sha", "CRC")
TIMES = ("LastModified", "last_modified", "updated", "modified", "mtime", "created", "date_time")
"""What the classes of fsspec call the version of an object, and when it was last modified; the best comes first."""


@dataclass(frozen=True, slots=True)
class Object:
    """An object of a store.

    Attributes:
        path: As the store knows it.
        name: Relative to the source.
        size_bytes: None where the store does not say.
        validator: Changes with its content; "" where the store has nothing that does.
    """

    path: str
    name: str
    size_bytes: int | None
    validator: str
    modified: date | None


async def take_store(
    source: SourceSettings, folder: Path, validators: Mapping[str, str], limits: DownloadLimits = LIMITS
) -> Listing:
    """List a store, and fetch what is not as the index has it.

    Raises:
        SourceUnavailable: It cannot be listed now.
        SourceError: It cannot be listed as the corpus file describes it.
    """
    store = await asyncio.to_thread(Store, source, os.environ, limits)

    def taken(found: Object) -> DocumentRef | Quarantined:
        uri = f"{source.name or (source.store or '').rstrip('/')}/{found.name}"
        try:
            return _taken(store, found, uri, folder, validators.get(document_id(uri), ""))
        except (DocumentError, SourceUnavailable) as error:
            return Quarantined(uri, found.name, str(error), source.label)

    objects = await asyncio.to_thread(store.objects)
    bad = [name for found in objects if (name := not_text(found.name))]
    good = [found for found in objects if not not_text(found.name)]
    entries = await each(good, lambda found: asyncio.to_thread(taken, found), at_once=source.concurrency)
    refused = [Quarantined(name, name, "its name is not valid Unicode; rename it", source.label) for name in bad]
    return listing_of([*entries, *refused], store.chosen.left_out)


def count_objects(source: SourceSettings, limits: DownloadLimits = LIMITS) -> tuple[int, tuple[LeftOut, ...]]:
    """How many objects a store has for this source, and what is left out; none is fetched.

    Raises:
        SourceUnavailable: As `take_store`.
        SourceError: As `take_store`.
    """
    store = Store(source, os.environ, limits)
    return len(store.objects()), store.chosen.left_out.found


def _taken(store: "Store", found: Object, uri: str, folder: Path, validator: str) -> DocumentRef:
    label, metadata = store.source.label, metadata_of(store.source, modified=found.modified)
    if validator and validator == found.validator:
        return DocumentRef(uri, found.name, label, None, None, 0, validator=validator, metadata=metadata)
    if ".." in found.name.split("/"):
        raise DocumentError("its name leads out of the store; rename it")
    file = folder / document_id(uri)
    content, size_bytes = store.fetch(found, file)
    return DocumentRef(uri, found.name, label, content, file, size_bytes, validator=found.validator, metadata=metadata)


class Store:
    """An open store. Its methods wait for the network: call them in threads."""

    def __init__(self, source: SourceSettings, environ: Mapping[str, str], limits: DownloadLimits) -> None:
        """Open it.

        Raises:
            SourceError: Its package is not installed, an option is wrong, or a variable of `options_env` is not set.
            SourceUnavailable: It does not answer.
        """
        self.source = source
        self.chosen = Selection(source)
        self._limits = limits
        self._secrets = {option: self._secret(option, environ) for option in source.options_env}
        address = source.store or ""
        try:
            # A cached one would know yesterday's objects.
            options = source.options | self._secrets | {"skip_instance_cache": True}
            self._files, root = url_to_fs(address, **options)
            self._root = str(root)
        except ImportError as error:
            extra = EXTRAS.get(address.partition("://")[0])
            cure = f"pip install 'nightloom[{extra}]'" if extra else f"install its package ({error})"
            raise SourceError(f"source {source.label!r}: the package for this store is missing: {cure}") from None
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise self._error(error, "store or options") from None
        except Exception as error:  # noqa: BLE001  every class of fsspec has errors of its own
            raise self._unavailable(address, error) from None

    def _secret(self, option: str, environ: Mapping[str, str]) -> str:
        variable = self.source.options_env[option]
        if variable not in environ:
            raise SourceError(
                f"source {self.source.label!r}: options_env: {option}: the environment variable {variable} is not set;"
                " set it where the night runs"
            )
        return environ[variable]

    def objects(self) -> list[Object]:
        """Every object that `include` and `exclude` leave, in order of their names; the others are counted.

        Raises:
            SourceUnavailable: The store does not answer.
            SourceError: There is no such place in it, or it may not be listed.
        """
        address = self.source.store or ""
        try:
            found: dict[str, dict[str, Any]] = self._files.find(self._root, detail=True)
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            raise self._error(error, "store") from None
        except Exception as error:  # noqa: BLE001  every class of fsspec has errors of its own
            raise self._unavailable(address, error) from None
        if not found:
            raise SourceError(f"source {self.source.label!r}: there is nothing; {MEND} store")
        objects = [self._object(path, info) for path, info in sorted(found.items()) if not _is_link(info)]
        if len(found) > len(objects):
            self.chosen.left_out.add(LINKS, "links", count=len(found) - len(objects))
        return [entry for entry in objects if self.chosen.takes(entry.name)]

    def _object(self, path: str, info: Mapping[str, Any]) -> Object:
        root = self._root.strip("/")
        name = path.strip("/").removeprefix(root).strip("/") or path.rpartition("/")[2]
        time = next((info[key] for key in TIMES if info.get(key) is not None), None)
        size_bytes = info.get("size")
        version = next((f"{key}={info[key]}" for key in VERSIONS if info.get(key) is not None), "")
        if not version and time is not None:
            # Listings give some times as a datetime, and a look at one object as a number.
            version = f"time={time.timestamp() if isinstance(time, datetime) else time}"
        validator = f"{version} size={size_bytes}" if version and size_bytes is not None else version
        return Object(path, name, size_bytes, validator, _day(time))

    def fetch(self, found: Object, file: Path) -> tuple[str, int]:
        """Read an object into a file that bears its name only once it is complete, in a few attempts.

        Returns:
            sha256, hex, and size.

        Raises:
            SourceUnavailable: The store does not give it now.
            DocumentError: It is gone, too large, or not what was listed any more.
            OSError: The file cannot be written.
        """
        if (found.size_bytes or 0) > self._limits.size_bytes:
            raise DocumentError(f"larger than {self._limits.size_bytes} bytes")
        attempts = Retrying(
            stop=stop_after_attempt(self._limits.attempts),
            wait=wait_random_exponential(multiplier=self._limits.pause_seconds, max=16 * self._limits.pause_seconds),
            retry=retry_if_exception_type(SourceUnavailable),
            reraise=True,
        )
        content, size_bytes = attempts(self._copy, found, file)
        if found.size_bytes not in {None, size_bytes} or not self._is_as_listed(found, size_bytes):
            file.unlink()
            raise DocumentError("changed while the night ran; the next night takes it")
        return content, size_bytes

    def _copy(self, found: Object, file: Path) -> tuple[str, int]:
        digest, size_bytes = hashlib.sha256(), 0
        unfinished = file.with_suffix(".part")
        try:
            with unfinished.open("wb") as stream:
                remote = self._asked(lambda: self._files.open(found.path, "rb", block_size=BLOCK_BYTES))
                with remote:
                    while piece := self._asked(lambda: remote.read(BLOCK_BYTES)):
                        size_bytes += len(piece)
                        if size_bytes > self._limits.size_bytes:
                            raise DocumentError(f"larger than {self._limits.size_bytes} bytes")
                        digest.update(piece)
                        stream.write(piece)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
        return digest.hexdigest(), size_bytes

    def _is_as_listed(self, found: Object, size_bytes: int) -> bool:
        """Whether an object that came in several pieces is still the one that was listed."""
        if size_bytes <= BLOCK_BYTES:
            return True
        self._files.invalidate_cache()
        info = self._asked(lambda: self._files.info(found.path))
        return self._object(found.path, info).validator == found.validator

    def _asked(self, do: Callable[[], Result]) -> Result:
        try:
            return do()
        except FileNotFoundError:
            raise DocumentError("gone since it was listed") from None
        except PermissionError as error:
            raise DocumentError(f"may not be read: {self._says(error)}") from None
        except Exception as error:  # noqa: BLE001  every class of fsspec has errors of its own
            raise SourceUnavailable(f"cannot be read: {self._says(error)}") from None

    def _says(self, error: Exception) -> str:
        """What an error says, without the secrets that the store was opened with."""
        says = f"{type(error).__name__}: {error}"
        for secret in self._secrets.values():
            says = says.replace(secret, "***") if secret else says
        return says

    def _error(self, error: Exception, key: str) -> SourceError:
        return SourceError(f"source {self.source.label!r}: {self._says(error)}; {MEND} {key}")

    def _unavailable(self, address: str, error: Exception) -> SourceUnavailable:
        return SourceUnavailable(f"{address}: cannot be listed: {self._says(error)}")


def _is_link(info: Mapping[str, Any]) -> bool:
    """Whether an entry of a zip file or of a folder is a symbolic link."""
    attributes = info.get("external_attr") or 0
    return bool(info.get("islink")) or stat.S_ISLNK(attributes >> 16)


def _day(time: object) -> date | None:
    match time:
        case datetime():
            return time.astimezone(UTC).date() if time.tzinfo else time.date()
        case int() | float():
            return datetime.fromtimestamp(time, UTC).date()
        case str():
            try:
                return date.fromisoformat(time[:10])
            except ValueError:
                return None
        case (int(year), int(month), int(day), *_):
            return date(year, month, day)
    return None
