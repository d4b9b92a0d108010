"""`nightloom check`: what a night needs, tried one by one."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flows.prefect_api import configured_api
from nightloom.corpus import Corpus, load_corpus
from nightloom.embedding import Embedder
from nightloom.engines import NO_ACCESS, Access
from nightloom.errors import NightloomError
from nightloom.evaluation import judge
from nightloom.golden import load_golden
from nightloom.index import open_index
from nightloom.sources import document_names, list_source, one_listing, reach, unknown_before_a_night
from nightloom.splitting import Splitter
from tasks.secrets import find_secret


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and whether it stands in the way of a night."""

    says: str
    is_error: bool = False


async def checks(file: Path) -> list[tuple[str, Finding]]:
    """Try everything that a night needs.

    Returns:
        Name and finding of each check; after an invalid file there is nothing else to try.
    """
    try:
        corpus = load_corpus(file)
    except NightloomError as error:
        return [("file", Finding(str(error), is_error=True))]
    found = [("file", Finding(f"{file} is valid; its index is {corpus.name!r}"))]
    parts = (
        ("sources", _sources),
        ("embedder", _embedder),
        ("queries", _queries),
        ("milvus", _milvus),
        ("prefect", _prefect),
    )
    for name, part in (*parts, ("answers", _answers)) if corpus.answers else parts:
        try:
            found.append((name, Finding(await part(corpus))))
        except NightloomError as error:
            found.append((name, Finding(str(error), is_error=True)))
    return found


async def _sources(corpus: Corpus) -> str:
    with tempfile.TemporaryDirectory(prefix="nightloom-") as folder:
        on_disk = [
            await asyncio.to_thread(list_source, source, Path(folder)) for source in corpus.sources if source.file
        ]
    found = [f"{len(one_listing(on_disk, corpus.sources).documents)} documents on disk"] if on_disk else []
    return ", ".join(found + [await reach(source) for source in corpus.sources if not source.file])


async def _embedder(corpus: Corpus) -> str:
    settings = corpus.embedder
    access = Access(await find_secret(settings.secret)) if settings.is_remote else NO_ACCESS
    embedder = await asyncio.to_thread(Embedder, settings, access)
    Splitter(corpus.splitting, embedder)
    says = f"{settings.model} reads {embedder.max_tokens} tokens; nodes hold {corpus.splitting.max_tokens}"
    if not settings.is_remote:
        return says
    vectors = await embedder.embed_queries(["Is anybody there?"])
    return f"{says}; {settings.base_url} answers, with vectors of {vectors.shape[1]} dimensions"


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
        generations = await index.generations()
        live = next((generation.name for generation in generations if generation.live), "none")
        version = await index.connection.version()
        return f"{corpus.milvus.uri}: version {version}, {len(generations)} generations, live: {live}"


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


async def _prefect(_corpus: Corpus) -> str:
    url = await asyncio.to_thread(configured_api)
    return f"{url} answers" if url else "no PREFECT_API_URL: `nightloom run` starts a temporary server by itself"
