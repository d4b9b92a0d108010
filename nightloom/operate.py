"""What an operator does with an index: look at its generations, verify the live one, roll back, drop."""

from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr

from nightloom.audit import Audit, named
from nightloom.corpus import Corpus
from nightloom.errors import IndexInconsistent, IndexInputError
from nightloom.generations import Generation
from nightloom.index import Index, open_index, proof_of
from nightloom.live import open_live
from nightloom.planning import versions_of


@dataclass(frozen=True, slots=True)
class Contained:
    """A generation, and what it holds.

    Attributes:
        state: "live", "earlier" (readers saw it once), or "not promoted" (half-built, or held by the gate).
    """

    name: str
    state: str
    documents: int
    nodes: int
    fingerprint: str
    created: datetime
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Switch:
    """A rollback that was made: from one generation to another."""

    alias: str
    before: str
    after: str
    documents: int
    nodes: int


async def list_generations(corpus: Corpus, token: SecretStr | None) -> list[Contained]:
    """Every generation of an index, newest first."""
    async with open_index(corpus.milvus, corpus.name, token) as index:
        return [await _contained(index, one) for one in reversed(await index.generations())]


async def _contained(index: Index, generation: Generation) -> Contained:
    rows, heads = await index.contents.read(generation.name)
    state = "live" if generation.live else "earlier" if generation.promoted else "not promoted"
    scores = dict(generation.scores)
    return Contained(generation.name, state, len(heads), rows, generation.fingerprint, generation.created, scores)


async def verify_live(corpus: Corpus, token: SecretStr | None) -> tuple[Generation, Audit]:
    """Look at every row of the live generation, and count under Strong consistency.

    Returns:
        The live generation, and the documents whose rows are missing, surplus or there twice.
    """
    async with open_live(corpus, token) as (index, live):
        return live, await index.contents.audit(live.name)


async def roll_back(corpus: Corpus, token: SecretStr | None, to: str | None = None) -> Switch:
    """Let readers see an earlier generation again, proven by reads through the alias.

    The next night compares the corpus with what is live then. A night that is under way meanwhile does not switch.

    Args:
        corpus: The corpus.
        token: Of Milvus.
        to: Name of the generation; default the one that readers saw before the live one.

    Raises:
        IndexInputError: There is no such generation, or readers never saw it.
        IndexInconsistent: Rows of it are not whole: nothing is switched.
    """
    async with open_live(corpus, token) as (index, live):
        target = _earlier(await index.generations(), live, to)
        _, before = await index.contents.read(live.name)
        found = await index.contents.audit(target.name)
        if found.findings or not found.heads:
            raise IndexInconsistent(
                f"{target.name} is not whole, and {live.name} stays live; wrong documents: {named(found.findings)}"
            )
        proof = proof_of(before, versions_of(found.heads))
        await index.promote(target.name, proof, instead_of=live.name)
        return Switch(index.alias, live.name, target.name, len(found.heads), found.rows)


def _earlier(generations: list[Generation], live: Generation, to: str | None) -> Generation:
    names = {generation.name: generation for generation in generations}
    if to is not None:
        if to not in names:
            raise IndexInputError(f"{to}: no generation of {live.alias!r}; there are: {', '.join(names)}")
        if to == live.name:
            raise IndexInputError(f"{to} is live already; nothing to roll back")
        if not names[to].promoted:
            raise IndexInputError(f"{to} was never live: it is half-built, or the gate held it")
        return names[to]
    earlier = [one for one in generations if one.promoted and not one.live and one.created < live.created]
    if not earlier:
        raise IndexInputError(
            f"{live.name} is the oldest generation of {live.alias!r} that readers saw; nothing to roll back to."
            " `nightloom generations` shows all; --to names one"
        )
    return max(earlier, key=lambda one: one.created)


async def find_droppable(corpus: Corpus, token: SecretStr | None, name: str) -> Contained:
    """A generation that may be dropped.

    Raises:
        IndexInputError: There is no such generation, or it is live.
    """
    async with open_index(corpus.milvus, corpus.name, token) as index:
        return await _contained(index, _droppable(await index.generations(), corpus, name))


async def drop_generation(corpus: Corpus, token: SecretStr | None, name: str) -> None:
    """Drop a generation for good.

    Raises:
        IndexInputError: There is no such generation, it is live, or another alias names it.
    """
    async with open_index(corpus.milvus, corpus.name, token) as index:
        if not await index.drop(_droppable(await index.generations(), corpus, name)):
            raise IndexInputError(f"{name}: an alias names it; readers use it, and it stays")


def _droppable(generations: list[Generation], corpus: Corpus, name: str) -> Generation:
    found = next((generation for generation in generations if generation.name == name), None)
    if found is None:
        others = ", ".join(generation.name for generation in generations) or "none"
        raise IndexInputError(f"{name}: no generation of {corpus.name!r}; there are: {others}")
    if found.live:
        raise IndexInputError(f"{name} is live, and is never dropped; roll back first")
    return found
