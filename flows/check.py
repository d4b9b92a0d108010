"""`nightloom check`: what a night needs, tried one by one."""

import asyncio
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from nightloom.corpus import Corpus
from nightloom.corpus_file import load_corpus
from nightloom.embedding import Embedder
from nightloom.engines import NO_ACCESS, Access
from nightloom.errors import InputError, NightloomError, SourceUnavailable
from nightloom.evaluation import judge
from nightloom.flows.prefect_checks import prefect_checks
from nightloom.generations import Generation
from nightloom.golden import load_golden
from nightloom.heads import rows_of
from nightloom.index import Index, open_index, proof_in
from nightloom.models import is_of_hub
from nightloom.sources import document_names, list_source, one_listing, reach, unknown_before_a_night
from nightloom.splitting import Splitter
from nightloom.tasks.secrets import find_secret
from nightloom.working_folder import working_folder

PACKAGES = ("nightloom", "prefect", "llama-index-core", "pymilvus", "milvus-lite", "torch", "onnxruntime", "openvino")
FREE_BYTES = 1_000_000_000
"""On every disk that a night writes to, at least."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and whether it stands in the way of a night."""

    says: str
    is_error: bool = False


async def checks(file: Path, *, test_alert: bool = False) -> list[tuple[str, Finding]]:
    """Try everything that a night needs; with `test_alert`, also send a message to whoever is called when one fails.

    Returns:
        Name and finding of each check; after an invalid file there is nothing else to try.
    """
    try:
        corpus = load_corpus(file)
    except NightloomError as error:
        return [("file", Finding(str(error), is_error=True))]
    found = [("file", Finding(f"{file} is valid; its index is {corpus.name!r}")), ("versions", Finding(_versions()))]
    parts = (
        ("disk", _disk),
        ("sources", _sources),
        ("embedder", _embedder),
        ("queries", _queries),
        ("milvus", _milvus),
    )
    for name, part in (*parts, ("answers", _answers)) if corpus.answers else parts:
        try:
            found.append((name, Finding(await part(corpus))))
        except NightloomError as error:
            found.append((name, Finding(str(error), is_error=True)))
    told = await prefect_checks(corpus, file, test_alert=test_alert)
    return found + [(name, Finding(says, is_error=is_error)) for name, says, is_error in told]


def _versions() -> str:
    return ", ".join([f"Python {platform.python_version()}", *map(_installed, PACKAGES)])


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:  # openvino has no build for Macs with Intel's processors
        return f"no {name}"


async def _disk(corpus: Corpus) -> str:
    free = {folder: shutil.disk_usage(folder).free for folder in _folders(corpus)}
    short = [f"{folder} has {_gigabytes(left)}" for folder, left in free.items() if left < FREE_BYTES]
    if short:
        raise InputError(
            f"{', '.join(short)} left, and a night may need more; make room, or set TMPDIR, reports or milvus.uri"
        )
    _check_writable(corpus.reports)
    return ", ".join(f"{_gigabytes(left)} free in {folder}" for folder, left in free.items())


def _check_writable(reports: Path) -> None:
    """Write a file where the reports go, and delete it again: whatever the permissions say, that is what a night does.

    Raises:
        InputError: It cannot be written.
    """
    there = _nearest(reports)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"reports = {reports}: {there} cannot be written: {error.strerror}; mend that, or name another folder"
        ) from None


def _folders(corpus: Corpus) -> Iterator[Path]:
    """Where a night writes, or where the folder will be made: downloads, reports, the index of a Milvus Lite file."""
    wanted = [Path(tempfile.gettempdir()), corpus.reports]
    if corpus.milvus.file:
        wanted.append(corpus.milvus.file.parent)
    for folder in wanted:
        yield _nearest(folder)


def _nearest(folder: Path) -> Path:
    """A folder, or the nearest above it that is there: it is made in that one."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


async def _sources(corpus: Corpus) -> str:
    with working_folder() as folder:
        on_disk = [await asyncio.to_thread(list_source, source, folder) for source in corpus.sources if source.file]
    found = []
    if on_disk:
        listing = one_listing(on_disk, corpus.sources)
        found = ["; ".join([f"{len(listing.documents)} documents on disk", *map(str, listing.left_out)])]
    try:
        return ", ".join(found + [await reach(source) for source in corpus.sources if not source.file])
    except SourceUnavailable as error:
        raise InputError(f"{error}; see whether the address is right, and whether this machine reaches it") from None


async def _embedder(corpus: Corpus) -> str:
    settings = corpus.embedder
    access = Access(await find_secret(settings.secret)) if settings.is_remote else NO_ACCESS
    embedder = await asyncio.to_thread(Embedder, settings, access)
    Splitter(corpus.splitting, embedder)
    says = f"{settings.model} reads {embedder.max_tokens} tokens; nodes hold {corpus.splitting.max_tokens}"
    if settings.is_remote:
        vectors = await embedder.embed_queries(["Is anybody there?"])
        return f"{says}; {settings.base_url} answers, with vectors of {vectors.shape[1]} dimensions"
    if settings.revision is None and is_of_hub(settings.model):
        says += "; pin its revision in embedder.revision: another commit would embed every document again"
    return says


async def _queries(corpus: Corpus) -> str:
    if corpus.evaluation is None:
        return "no [evaluation]: the index will not be scored"
    golden = load_golden(corpus.evaluation)
    items = await asyncio.to_thread(document_names, corpus)
    unknown = unknown_before_a_night(corpus)
    judge(golden, items, gone_is_error=not unknown)
    says = f"{len(golden.texts)} golden queries, {len(golden.judgements)} judgements"
    return f"{says}; only a night can tell whether they name documents of {', '.join(unknown)}" if unknown else says


async def _milvus(corpus: Corpus) -> str:
    token = await find_secret(corpus.milvus.secret)
    async with open_index(corpus.milvus, corpus.name, token, retrieval=corpus.retrieval) as index:
        if index.connection.is_absent:
            return f"{corpus.milvus.uri} does not exist yet; the first night creates it"
        does = index.connection.capabilities
        generations = await index.generations()
        live = next((generation for generation in generations if generation.live), None)
        says = f"{corpus.milvus.place}: {does.says}, {len(generations)} generations"
        says += f", live: {live.name if live else 'none'}"
        if live:
            says += f", {await _health(index, live)}"
        says += "".join(f"; {problem}" for problem in [*does.problems, *await _room(index)])
    if token and urlsplit(corpus.milvus.uri).scheme == "http" and urlsplit(corpus.milvus.uri).hostname not in LOOPBACK:
        says += "; the token crosses the network in the clear: switch TLS on there, and write https://"
    return says


async def _room(index: Index) -> list[str]:
    """Whether the plan of a cluster takes the collections that a night has at once, in words."""
    plans = index.connection.capabilities.collections_of_plans
    if not plans:
        return []
    client = index.connection.client
    present = len(await index.connection.call(client.list_collections))
    takes = ", ".join(f"{plan} {count}" for plan, count in plans.items())
    return [f"it holds {present} collections, and a night needs one more; plans take so many: {takes}"]


async def _health(index: Index, live: Generation) -> str:
    """Whether readers see the whole of the live generation."""
    rows, heads = await index.contents.read(live.name)
    if rows != rows_of(heads):
        raise InputError(
            f"{live.name} has {rows} rows, and its documents say {rows_of(heads)}; `nightloom verify --repair`"
        )
    if live.promoted and live.writer:
        raise InputError(f"a night that wrote to {live.name} has died or is under way; the next one makes it whole")
    proof = proof_in(live.proof, heads)
    if proof and not await index.reads_as(proof):
        raise InputError(
            f"the alias {live.alias!r} names {live.name}, but reads through it come from another generation; the next"
            " night switches again: `nightloom run`"
        )
    return f"{len(heads)} documents in {rows} rows, and reads through the alias agree"


async def _answers(corpus: Corpus) -> str:
    from nightloom.llm import open_endpoint  # noqa: PLC0415  only those who want answers need a client

    settings = corpus.answers
    if settings is None:
        return "no [answers]: `nightloom ask` shows passages"
    async with open_endpoint(settings, await find_secret(settings.secret)) as endpoint:
        models = await endpoint.models()
    if settings.model in models:
        return f"{settings.base_url} answers, and lists {settings.model}"
    others = f"not {settings.model}, but {', '.join(sorted(models)[:5])}" if models else "no models"
    return f"{settings.base_url} answers, and lists {others}; only a question can tell whether it knows the model"
