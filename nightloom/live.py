"""What readers of the live index ask: passages, scores, status."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import SecretStr

from nightloom.corpus import Corpus, EvaluationSettings, FilterValue
from nightloom.embedding import Embedder
from nightloom.engines import NO_ACCESS, Access
from nightloom.errors import IndexInputError, InputError, NothingFound, SourceError
from nightloom.evaluation import Judged, Scores, judge, score_run
from nightloom.filters import condition
from nightloom.fingerprint import fingerprint, made_of, what_changed
from nightloom.gate import below_floor
from nightloom.generations import Generation
from nightloom.golden import load_golden
from nightloom.history import NIGHTS, NightRecord, read_history
from nightloom.index import Index, open_index
from nightloom.report import MetricEntry, QueryCounts, RunReport
from nightloom.retrieval import Question
from nightloom.rows import Hit
from nightloom.sources import document_names
from nightloom.trial import ask_golden, questions_of
from nightloom.unmatched import why_nothing

MAX_QUESTION_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class Status:
    """The live index.

    Attributes:
        matches: Whether the corpus file would give the same fingerprint today; None where the model cannot be had.
        changed: Which parts of the fingerprint would differ today, in words; "" where none would, or it is not known.
    """

    alias: str
    generation: str
    documents: int
    nodes: int
    fingerprint: str
    matches: bool | None
    created: datetime
    scores: dict[str, float]
    changed: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """Golden queries, and what a generation or a TREC run scored.

    Attributes:
        generation: That was asked; None for a run.
    """

    judged: Judged
    scores: Scores
    generation: Generation | None = None

    def missed(self, corpus: Corpus) -> list[str]:
        """The floors of a corpus's gate that the scores do not reach, in words."""
        return list(below_floor(self.scores.means, self._by_metric(corpus, corpus.gate.floors)))

    def report(self, corpus: Corpus, started: datetime) -> RunReport:
        """The scores as the report of a night that changed nothing: each metric with its floor, and the last nights.

        Args:
            corpus: That was asked.
            started: UTC.
        """
        means, floors = self.scores.means, self._by_metric(corpus, corpus.gate.floors)
        tolerances = self._by_metric(corpus, corpus.gate.tolerances)
        name = self.generation.name if self.generation else None
        nights = read_history(self.generation.history) if self.generation else []
        now = NightRecord(started=started, outcome="unchanged", generation=name, scores=dict(means))
        return RunReport(
            corpus=corpus.name,
            outcome="unchanged",
            reason=f"{len(self.scores.rankings)} golden queries were asked",
            generation=name,
            started=started,
            scores=dict(means),
            comparison=[
                MetricEntry.of(metric, mean, None, floors.get(metric), tolerances[metric])
                for metric, mean in means.items()
            ],
            queries=QueryCounts(
                asked=len(self.scores.rankings),
                set_aside=len(self.scores.set_aside),
                unjudged=self.judged.golden.unjudged,
            ),
            history=[*nights, now][-NIGHTS:],
        )

    def _by_metric(self, corpus: Corpus, limits: Callable[[Iterable[str]], dict[str, float]]) -> dict[str, float]:
        """What the gate asks of metrics, by their names in the scores."""
        wanted = corpus.evaluation.metrics if corpus.evaluation else ()
        names = dict(zip(wanted, map(str, self.judged.golden.metrics), strict=True))
        return {names[metric]: limit for metric, limit in limits(wanted).items()}


@asynccontextmanager
async def open_live(corpus: Corpus, token: SecretStr | None) -> AsyncIterator[tuple[Index, Generation]]:
    """The index of a corpus and its live generation.

    Raises:
        IndexInputError: Milvus cannot be reached, or nothing is live yet.
    """
    async with open_index(corpus.milvus, corpus.name, token, retrieval=corpus.retrieval, vectors=corpus.index) as index:
        live = next((generation for generation in await index.generations() if generation.live), None)
        if live is None:
            raise IndexInputError(
                f"{corpus.milvus.place}: no index named {corpus.name!r} yet; build it with `nightloom run`"
            )
        yield index, live


async def ask(
    corpus: Corpus,
    token: SecretStr | None,
    question: str,
    top_k: int | None = None,
    filters: Mapping[str, FilterValue] | None = None,
    *,
    access: Access = NO_ACCESS,
) -> list[Hit]:
    """The passages that answer a question best, best first.

    Args:
        corpus: The corpus.
        token: Of Milvus.
        question: It.
        top_k: Passages at most; default the corpus's.
        filters: Metadata that they must have; over the corpus's own, key by key.
        access: To the embedder's endpoint, where it is behind one.

    Raises:
        InputError: The question is empty or far too long, a filter is none, or there is no index.
        IndexInputError: The live generation was made with another embedder than the corpus file now names.
        NothingFound: No passage has the metadata; says which there are.
    """
    if not question.strip():
        raise InputError("the question is empty")
    if len(question.encode("utf-8", "replace")) > MAX_QUESTION_BYTES:
        raise InputError(f"the question is longer than {MAX_QUESTION_BYTES} bytes; ask it in fewer words")
    together = {**corpus.retrieval.filter, **(filters or {})}
    wanted = condition(together, corpus.sources)
    async with open_live(corpus, token) as (index, live):
        embedder = _same_embedder(corpus, live, access)
        vectors = await embedder.embed_queries([question])
        limit = top_k or corpus.retrieval.top_k
        hits = await index.contents.search(live.name, Question(question, vectors[0]), limit, wanted)
        if not hits and wanted:
            raise NothingFound(await why_nothing(index, live.name, together, corpus.sources))
        return hits


async def evaluate_live(
    corpus: Corpus,
    token: SecretStr | None,
    settings: EvaluationSettings | None,
    run: Path | None = None,
    *,
    access: Access = NO_ACCESS,
) -> Asked:
    """Ask golden queries of the live generation.

    Args:
        corpus: The corpus.
        token: Of Milvus.
        settings: Queries and judgements instead of the corpus file's.
        run: Rankings of another system in TREC's format: these are scored, and the index is not asked.
        access: To the embedder's endpoint, where it is behind one.

    Raises:
        EvaluationInputError: Queries, judgements or run are wrong, or name a document that is not in the index.
    """
    settings = settings or corpus.evaluation
    if settings is None:
        raise InputError("no golden queries: give [evaluation] in the corpus file, or --queries and --qrels")
    golden = load_golden(settings)
    if run:
        return Asked(*score_run(golden, run))
    async with open_live(corpus, token) as (index, live):
        embedder = _same_embedder(corpus, live, access)
        _, heads = await index.contents.read(live.name)
        items = {(head.uri, head.item) for head in heads.values()} | await asyncio.to_thread(_listed_now, corpus)
        # Judgements that a night has accepted may name documents that have left since.
        judged = judge(golden, items, gone_is_error=golden.content != live.evaluation)
        questions = await questions_of(embedder, judged.texts)
        scores = await ask_golden(index.contents, live.name, questions, judged, settings.concurrency)
        return Asked(judged, scores, live)


async def status(corpus: Corpus, token: SecretStr | None) -> Status:
    """What is live."""
    async with open_live(corpus, token) as (index, live):
        rows, heads = await index.contents.read(live.name)
    try:
        embedder = embedder_of(corpus, live)
        matches = fingerprint(corpus, embedder) == live.fingerprint
        changed = "" if matches else what_changed(live.made_of, made_of(corpus, embedder))
    except InputError:
        matches, changed = None, ""
    scores = dict(live.scores)
    return Status(corpus.name, live.name, len(heads), rows, live.fingerprint, matches, live.created, scores, changed)


def _listed_now(corpus: Corpus) -> set[tuple[str, str]]:
    """What judgements may name beside what is indexed: quarantined documents. Nothing where the corpus is not here."""
    try:
        return set(document_names(corpus))
    except SourceError:
        return set()


def embedder_of(corpus: Corpus, live: Generation, access: Access = NO_ACCESS) -> Embedder:
    """The embedder of a corpus file, with the precision of the live generation where the file leaves it open."""
    embedder = Embedder(corpus.embedder, access)
    embedder.follow([live.embedder])
    return embedder


def _same_embedder(corpus: Corpus, live: Generation, access: Access) -> Embedder:
    embedder = embedder_of(corpus, live, access)
    if fingerprint(corpus, embedder) != live.fingerprint:
        changed = what_changed(live.made_of, made_of(corpus, embedder))
        raise IndexInputError(
            f"{live.name} was made with another model, splitter or metric than the corpus file now says"
            f"{f' ({changed})' if changed else ''}, and its vectors cannot be compared with a question's; run"
            " `nightloom run`, or put the corpus file back"
        )
    return embedder
