"""What an operator does with an index: look at its generations, verify the live one, roll back, promote, drop."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pydantic import SecretStr

from nightloom.audit import Audit, named
from nightloom.corpus import Corpus
from nightloom.errors import IndexInconsistent, IndexInputError, InputError, NightloomError
from nightloom.generations import Generation, disposable, state_of
from nightloom.heads import versions_of
from nightloom.index import Index, open_index, proof_of
from nightloom.live import open_live
from nightloom.report import DocumentCounts, NodeCounts, RunReport
from nightloom.report_files import keep_report


@dataclass(frozen=True, slots=True)
class Contained:
    """A generation, and what it holds.

    Attributes:
        state: "live", "earlier" (readers saw it once), "held" (by the gate), or "half-built".
        held: Why the gate held it, also where an operator has promoted it since; else "".
    """

    name: str
    state: str
    documents: int
    nodes: int
    fingerprint: str
    created: datetime
    scores: dict[str, float]
    held: str = ""


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch of readers from one generation to another.

    Attributes:
        before: "" where they saw none.
    """

    alias: str
    before: str
    after: str
    documents: int
    nodes: int


async def all_generations(corpus: Corpus, token: SecretStr | None) -> list[Generation]:
    """Every generation of an index, oldest first, as its own properties describe it: no row is read."""
    async with open_index(corpus.milvus, corpus.name, token) as index:
        return await index.generations()


async def list_generations(corpus: Corpus, token: SecretStr | None) -> list[Contained]:
    """Every generation of an index, newest first."""
    async with open_index(corpus.milvus, corpus.name, token) as index:
        return [await _contained(index, one) for one in reversed(await index.generations())]


async def _contained(index: Index, generation: Generation) -> Contained:
    rows, heads = await index.contents.read(generation.name)
    return Contained(
        generation.name,
        state_of(generation),
        len(heads),
        rows,
        generation.fingerprint,
        generation.created,
        dict(generation.scores),
        generation.held or generation.overruled,
    )


async def verify_live(corpus: Corpus, token: SecretStr | None) -> tuple[Generation, Audit]:
    """Look at every row of the live generation, and count under Strong consistency.

    Returns:
        The live generation, and the documents whose rows are missing, surplus or there twice.
    """
    async with open_live(corpus, token) as (index, live):
        return live, await index.contents.audit(live.name)


async def roll_back(corpus: Corpus, token: SecretStr | None, to: str | None = None, seen: str | None = None) -> Switch:
    """Let readers see an earlier generation again, proven by reads through the alias.

    The next night compares the corpus with what is live then. A night that is under way meanwhile does not switch.

    Args:
        corpus: The corpus.
        token: Of Milvus.
        to: The generation, as `find_generation` takes it; default the one that readers saw before the live one.
        seen: Name of what readers saw when this was decided; default what they see now. A second try after one that
            was cut off goes to the same generation with it, and never one further back.

    Raises:
        IndexInputError: There is no such generation, or readers never saw it.
        IndexInconsistent: Rows of it are not whole: nothing is switched.
        IndexTaken: Readers were switched to another one since.
    """
    async with open_live(corpus, token) as (index, now):
        generations = _as_seen(await index.generations(), seen)
        live = next((one for one in generations if one.live), now)
        return await _switch(index, live, _earlier(generations, live, to))


async def plan_rollback(corpus: Corpus, token: SecretStr | None, to: str | None = None) -> tuple[Contained, Contained]:
    """What readers see, and what they would see after `roll_back`; nothing is switched.

    Raises:
        IndexInputError: As `roll_back`.
    """
    async with open_live(corpus, token) as (index, live):
        target = _earlier(await index.generations(), live, to)
        return await _contained(index, live), await _contained(index, target)


async def find_promotable(corpus: Corpus, token: SecretStr | None, name: str) -> Generation:
    """The generation that `promote_held` would let readers see; nothing is switched.

    Raises:
        IndexInputError: As `promote_held`.
    """
    async with open_index(corpus.milvus, corpus.name, token) as index:
        return _promotable(await index.generations(), corpus, name)


REASON_CHARACTERS = 1000
"""Most characters of the reason for which the gate is overruled."""


async def promote_held(
    corpus: Corpus, token: SecretStr | None, name: str, reason: str = "", seen: str | None = None
) -> tuple[Switch, RunReport]:
    """Let readers see a generation that the gate has held: an operator who knows better overrules it.

    Args:
        corpus: The corpus.
        token: Of Milvus.
        name: The generation, as `find_generation` takes it.
        reason: Why the operator knows better; kept with the generation, and said wherever it is said that the gate was
            overruled.
        seen: As for `roll_back`; "" where readers saw none.

    Returns:
        The switch, and its report, which says what was overruled and is saved like that of a night.

    Raises:
        InputError: The reason is too long.
        IndexInputError: There is no such generation, readers saw it already, or no night found it to be whole.
        IndexInconsistent: Rows of it are not whole: nothing is switched.
        IndexTaken: Readers were switched to another one since.
    """
    started, reason = datetime.now(UTC), reason.strip()
    if len(reason) > REASON_CHARACTERS:
        raise InputError(f"the reason has {len(reason)} characters; shorten it to {REASON_CHARACTERS}")
    async with open_index(corpus.milvus, corpus.name, token) as index:
        generations = _as_seen(await index.generations(), seen)
        target = _promotable(generations, corpus, name)
        live = next((generation for generation in generations if generation.live), None)
        why = f"; the operator's reason: {reason}" if reason else ""
        held = f"{target.held or 'it was never evaluated'}{why}"
        made = await _switch(index, live, target, overruled=held if target.held or why else "")
    report = RunReport(
        corpus=corpus.name,
        outcome="promoted",
        reason=f"an operator promoted it over the gate, which had held it: {held}",
        generation=target.name,
        fingerprint=target.fingerprint,
        started=started,
        nodes=NodeCounts(total=made.nodes),
        documents=DocumentCounts(listed=made.documents),
        scores=dict(target.scores) or None,
    )
    keep_report(report, corpus)
    return made, report


def _as_seen(generations: list[Generation], seen: str | None) -> list[Generation]:
    """The generations as they were when readers saw the one of this name."""
    return generations if seen is None else [replace(one, live=one.name == seen) for one in generations]


def _promotable(generations: list[Generation], corpus: Corpus, name: str) -> Generation:
    found = find_generation(generations, corpus.name, name)
    if found.live:
        raise IndexInputError(f"{found.name} is live already")
    if found.promoted:
        raise IndexInputError(
            f"{found.name} was live once: `nightloom rollback --to {found.name}` lets readers see it again"
        )
    if not found.whole:
        raise IndexInputError(f"{found.name} is half-built; `nightloom run` goes on with it")
    return found


async def _switch(index: Index, live: Generation | None, target: Generation, overruled: str = "") -> Switch:
    """Let readers see another generation, if it is whole; proven through the alias."""
    before = (await index.contents.read(live.name))[1] if live else {}
    found = await index.contents.audit(target.name)
    if found.findings or not found.heads:
        stays = f", and {live.name} stays live" if live else ""
        raise IndexInconsistent(f"{target.name} is not whole{stays}; wrong documents: {named(found.findings)}")
    proof = proof_of(before, versions_of(found.heads))
    await index.promote(target.name, proof, instead_of=live.name if live else None)
    if not target.promoted:
        await index.set_history(target.name, live.history if live else target.history)
        await index.finish(target.name, overruled=overruled)
    return Switch(index.alias, live.name if live else "", target.name, len(found.heads), found.rows)


def _earlier(generations: list[Generation], live: Generation, to: str | None) -> Generation:
    if to in {None, "previous"} and not _fitting(generations, "previous"):
        raise IndexInputError(
            f"{live.name} is the oldest generation of {live.alias!r} that readers saw; nothing to roll back to."
            " `nightloom generations` shows all; --to names one"
        )
    found = find_generation(generations, live.alias, "previous" if to is None else to)
    if found.live:
        raise IndexInputError(f"{found.name} is live already; nothing to roll back")
    if not found.promoted:
        raise IndexInputError(
            f"{found.name} was never live: it is half-built, or the gate held it (`nightloom promote`)"
        )
    return found


async def find_droppable(corpus: Corpus, token: SecretStr | None, name: str) -> Contained:
    """A generation that may be dropped.

    Raises:
        IndexInputError: There is no such generation, as `find_generation` takes it, or it is live.
    """
    async with open_index(corpus.milvus, corpus.name, token) as index:
        return await _contained(index, _droppable(await index.generations(), corpus, name))


async def drop_generation(corpus: Corpus, token: SecretStr | None, name: str) -> str:
    """Drop a generation for good.

    Returns:
        Its whole name.

    Raises:
        IndexInputError: There is no such generation, it is live, or another alias names it.
    """
    async with open_index(corpus.milvus, corpus.name, token) as index:
        found = _droppable(await index.generations(), corpus, name)
        if not await index.drop(found):
            raise IndexInputError(f"{found.name}: an alias names it; readers use it, and it stays")
        return found.name


async def prune(corpus: Corpus, token: SecretStr | None, *, unseen: bool = False, dry_run: bool = False) -> list[str]:
    """Drop the generations that readers saw once, but for the newest index.keep; never one that an alias names.

    Args:
        corpus: The corpus.
        token: Of Milvus.
        unseen: Drop those that readers never saw, too: held by the gate or half-built. No night may be under way.
        dry_run: Drop nothing.

    Returns:
        Names of what is gone, or would be.

    Raises:
        IndexInputError: There is no such index, or nothing is live.
    """
    async with open_live(corpus, token) as (index, _):
        found = disposable(await index.generations(), corpus.index.keep)
        wanted = [one for one in found if unseen or one.promoted]
        return [one.name for one in wanted if dry_run or await index.drop(one)]


NOT_ASKED = "What readers see now could not be asked."
ASKING_SECONDS = 15
"""For what readers see, where a run has ended because Milvus does not answer."""


async def what_readers_see(index: Index) -> str:
    """What the alias leads to at this moment, counted by a read, in a sentence."""
    try:
        async with asyncio.timeout(ASKING_SECONDS):
            live = await index.live()
            return (
                seen_by_readers(live, await index.connection.count(live.name)) if live else "Readers see nothing yet."
            )
    except (NightloomError, TimeoutError):
        return NOT_ASKED


async def readers_of(corpus: Corpus, token: SecretStr | None) -> str:
    """What readers of an index see at this moment, as `what_readers_see`, over a connection of its own."""
    try:
        async with asyncio.timeout(ASKING_SECONDS), open_index(corpus.milvus, corpus.name, token) as index:
            return await what_readers_see(index)
    except (NightloomError, TimeoutError):
        return NOT_ASKED


def seen_by_readers(live: Generation, nodes: int) -> str:
    """The sentence that tells which generation readers see."""
    return f"Readers see {live.name} of {live.created:%Y-%m-%d %H:%M} UTC, {nodes} nodes."


def _droppable(generations: list[Generation], corpus: Corpus, name: str) -> Generation:
    found = find_generation(generations, corpus.name, name)
    if found.live:
        raise IndexInputError(f"{found.name} is live, and is never dropped; roll back first")
    return found


WORDS = ("previous", "live", "held")
"""What stands for a generation by its state; `previous` is the newest that readers saw of those before the live one."""


def find_generation(generations: Iterable[Generation], alias: str, given: str) -> Generation:
    """The one generation that an operator means.

    Args:
        generations: Of one index.
        alias: Of the index, for the message.
        given: A whole name, the beginning of one alone, or one of `WORDS`.

    Raises:
        IndexInputError: None fits, or several do.
    """
    newest_first = sorted(generations, key=lambda one: one.created, reverse=True)
    given = given.strip()
    found = _fitting(newest_first, given)
    if len(found) == 1:
        return found[0]
    if found:
        more = "name one of them" if given in WORDS else "give more of the name"
        raise IndexInputError(
            f"{given or 'an empty name'}: several generations of {alias!r} fit, so {more}: {_list(found)}"
        )
    raise IndexInputError(f"{given or 'an empty name'}: no generation of {alias!r}; there are: {_list(newest_first)}")


def _fitting(generations: Iterable[Generation], given: str) -> list[Generation]:
    newest_first = sorted(generations, key=lambda one: one.created, reverse=True)
    if given == "previous":
        live = next((one for one in newest_first if one.live), None)
        return [one for one in newest_first if live and one.promoted and one.created < live.created][:1]
    if given in WORDS:
        return [one for one in newest_first if state_of(one) == given]
    exact = [one for one in newest_first if one.name == given]
    return exact or [one for one in newest_first if given and one.name.startswith(given)]


def _list(generations: Iterable[Generation]) -> str:
    return ", ".join(f"{one.name} ({state_of(one)})" for one in generations) or "none"
