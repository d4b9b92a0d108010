"""The index: the generations behind one alias, and which of them readers see."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from heapq import nsmallest
from typing import Any
from uuid import uuid4

from pydantic import SecretStr

from nightloom.contents import Contents
from nightloom.corpus import IndexSettings, MilvusSettings, RetrievalSettings
from nightloom.errors import IndexInconsistent, IndexInputError, IndexRefused, IndexTaken, IndexUnavailable
from nightloom.generations import (
    EMBEDDER,
    EVALUATION,
    FINISHED,
    HELD,
    HISTORY,
    MADE_OF,
    NONCE,
    OVERRULED,
    PROMOTED,
    PROOF,
    PROPERTY,
    SCHEMA,
    SCORES,
    WHOLE,
    WRITER,
    Generation,
    new_name,
    parse_name,
)
from nightloom.heads import Head, versions_of
from nightloom.keywords import Keywords
from nightloom.milvus import Connection, open_connection
from nightloom.reranking import Reranker
from nightloom.rows import HEADS, SCHEMA_VERSION, among
from nightloom.versions import Versions, differing

PROOFS = 20
PROOF_PAUSE_SECONDS = 0.2
PROOF_READS = 3
"""That agree, one after the other, before a switch on a server counts as proven: a read that was under way while the
alias moved can bring the old answer back."""
PROOF_DOCUMENTS = 8
"""Documents that are read through the alias to prove a promotion."""
PROPERTY_CHARACTERS = 4_000
"""Of a reason that is kept with a generation."""
PROOF_ROWS = 1_000
"""Many more than the heads of those documents: a limit counts physical duplicates too."""


class Index:
    """An open index: the generations behind one alias.

    Attributes:
        contents: Their rows.
    """

    def __init__(self, connection: Connection, alias: str, retrieval: RetrievalSettings | None = None) -> None:
        """An index in an open Milvus, and how it is asked."""
        asked = retrieval or RetrievalSettings()
        keywords = Keywords(asked.language) if asked.mode == "hybrid" else None
        reranker = Reranker(asked.reranker, asked.rerank_candidates) if asked.reranker else None
        self.connection = connection
        self.alias = alias
        self.contents = Contents(connection, keywords, reranker)

    async def generations(self) -> list[Generation]:
        """The generations of this index, oldest first.

        Raises:
            IndexInputError: The alias's name belongs to a collection that is not ours, which is never touched.
        """
        if self.connection.is_absent:
            return []
        return await self.connection.call(self._generations)

    def _generations(self) -> list[Generation]:
        names = self.connection.client.list_collections()
        if self.alias in names:
            raise IndexInputError(
                f"{self.connection.settings.uri}: a collection named {self.alias!r} exists and is not Nightloom's;"
                " choose another name in the corpus file, or rename that collection"
            )
        target = self._alias_target()
        found = [
            replace(generation, live=generation.name == target)
            for name in names
            if (generation := self._describe(name)) is not None
        ]
        if target in names and not any(generation.live for generation in found):
            raise IndexInputError(
                f"{self.connection.settings.uri}: the alias {self.alias!r} names {target!r}, which is not Nightloom's;"
                " choose another name in the corpus file"
            )
        return sorted(found, key=lambda generation: generation.created)

    async def live(self) -> Generation | None:
        """The generation that readers see now; None where they see none, or what is not ours."""
        if self.connection.is_absent:
            return None

        def live() -> Generation | None:
            target = self._alias_target()
            found = self._describe(target) if target else None
            return replace(found, live=True) if found else None

        return await self.connection.call(live)

    async def is_live(self, collection: str) -> bool:
        """Whether the alias names a collection: one request."""
        return await self.connection.call(lambda: self.alias in self.connection.aliases(collection))

    def _alias_target(self) -> str | None:
        """The collection that the alias names; its collections are asked, as DescribeAlias knows no database in 2.3."""
        if self.alias not in self.connection.aliases():
            return None
        ours_first = sorted(self.connection.client.list_collections(), key=lambda name: not name.startswith(self.alias))
        return next((name for name in ours_first if self.alias in self.connection.aliases(name)), None)

    def _describe(self, name: str) -> Generation | None:
        parsed = parse_name(name)
        if parsed is None or parsed[0] != self.alias:
            return None
        properties = self.connection.properties(name)
        if properties.get(f"{PROPERTY}alias") != self.alias:
            return None
        scores = json.loads(properties.get(SCORES, "{}"))
        return Generation(
            name,
            self.alias,
            properties[f"{PROPERTY}fingerprint"],
            parsed[1],
            schema=int(properties.get(SCHEMA, "0")),
            promoted=PROMOTED in properties,
            whole=properties.get(WHOLE, "") != "",
            held=properties.get(HELD, ""),
            overruled=properties.get(OVERRULED, ""),
            embedder=properties.get(EMBEDDER, ""),
            made_of=properties.get(MADE_OF, ""),
            writer=properties.get(WRITER, ""),
            proof=tuple(json.loads(properties.get(PROOF, "[]"))),
            evaluation=properties.get(EVALUATION, ""),
            scores=tuple(scores.items()),
            history=properties.get(HISTORY, ""),
            finished=int(properties.get(FINISHED, "0")),
        )

    async def create(
        self,
        fingerprint: str,
        dim: int,
        existing: Collection[Generation],
        now: datetime,
        embedder: str = "",
        made_of: str = "",
    ) -> Generation:
        """Create an empty generation of vectors of `dim` dimensions, loaded and claimed, beside the existing ones."""
        name, created = new_name(self.alias, fingerprint, existing, now)
        writer = self.contents.writer
        generation = Generation(
            name, self.alias, fingerprint, created, SCHEMA_VERSION, writer=writer, embedder=embedder, made_of=made_of
        )
        properties = {
            f"{PROPERTY}alias": self.alias,
            f"{PROPERTY}fingerprint": fingerprint,
            SCHEMA: str(SCHEMA_VERSION),
            EMBEDDER: embedder,
            MADE_OF: made_of,
            WRITER: writer,
        }
        hybrid = self.contents.keywords is not None
        await self.connection.create(name, dim=dim, properties=properties, hybrid=hybrid)
        return generation

    async def set_scores(self, collection: str, evaluation: str, scores: Mapping[str, float]) -> None:
        """Keep with a generation what it scored, and the hash of what it was asked."""
        await self._keep(collection, {EVALUATION: evaluation, SCORES: json.dumps(dict(scores))})

    async def set_whole(self, collection: str) -> None:
        """Keep with a generation that it holds every document of the night: an operator may promote it."""
        await self._keep(collection, {WHOLE: "yes"})

    async def hold(self, collection: str, reason: str) -> None:
        """Keep with a generation why the gate did not let it pass."""
        await self._keep(collection, {HELD: reason[:PROPERTY_CHARACTERS]})

    async def set_history(self, collection: str, history: str) -> None:
        """Keep with a generation the nights up to this one."""
        await self._keep(collection, {HISTORY: history})

    async def finish(self, collection: str, *, overruled: str = "") -> None:
        """Keep with a generation that readers see it, and that every row is as a whole night left it.

        Args:
            collection: Physical name.
            overruled: Why the gate held it, where an operator has promoted it nevertheless.
        """
        finished = await self.connection.call(self.connection.time)
        kept = {PROMOTED: "yes", WRITER: "", HELD: "", OVERRULED: overruled, FINISHED: str(finished)}
        await self._keep(collection, kept)

    async def _keep(self, collection: str, properties: Mapping[str, str]) -> None:
        await self.connection.call(lambda: self.connection.set_properties(collection, properties))

    async def promote(self, collection: str, proof: Mapping[str, str | None], *, instead_of: str | None) -> None:
        """Let the alias name a generation, and prove by reads through the alias that it does.

        An alter_alias can stick: the server goes on answering from the old collection, until the alias changes again.
        So this switches and reads until the reads agree, and keeps with the generation what was read. To change it
        again it leads through another generation that readers have seen, as a server from 2.6.6 on does nothing where
        the alias names the collection already; both are whole, so that no reader sees anything wrong in between.

        Args:
            collection: Physical name, whose rows were counted after the last write; it is loaded first.
            proof: By document id, its version in the new generation (None: not there), for a few documents in which
                it differs from the live one: see `proof_of`.
            instead_of: The generation that readers see now; None where they see none.

        Raises:
            IndexTaken: Readers see yet another one: a later night or a rollback came first, and stays.
            IndexInconsistent: The reads never agreed.
        """
        for attempt in range(PROOFS):
            detour = await self._detour(collection, instead_of) if attempt else None
            for name in filter(None, (collection, detour)):
                await self.connection.load(name, again=True)  # of one that is not loaded, readers get errors
            is_new = await self.connection.call(partial(self._switch, collection, instead_of, detour))
            times = PROOF_READS if self.connection.capabilities.switches_stick and not is_new else 1
            if await self.reads_as(proof, times=times, after=collection):
                break
            await asyncio.sleep(PROOF_PAUSE_SECONDS)
        else:
            raise IndexInconsistent(
                f"the alias {self.alias!r} was switched to {collection} {PROOFS} times, and reads through it still"
                " answer from another generation; look at the server, then run again"
            )
        await self._keep(collection, {PROOF: json.dumps(list(proof))})

    async def _detour(self, collection: str, instead_of: str | None) -> str | None:
        """Another generation that readers may see for a moment; None where there is none.

        It is the one that they see now, or an earlier one that they have seen: whole, and of the same fingerprint.
        """
        generations = {one.name: one for one in await self.generations()}
        if instead_of in generations and instead_of != collection:
            return instead_of
        mine = generations[collection]
        seen = [
            one
            for one in generations.values()
            if one.promoted and one.fingerprint == mine.fingerprint and one.created < mine.created
        ]
        return max(seen, key=lambda one: one.created).name if seen else None

    def _switch(self, collection: str, instead_of: str | None, detour: str | None) -> bool:
        """Let the alias name a collection, in this thread.

        Returns:
            Whether there was no alias yet, and so no other collection that the server could go on answering from.
        """
        target = self._alias_target()
        if target not in {collection, instead_of} and target in self.connection.client.list_collections():
            raise IndexTaken(
                f"readers were switched to {target} meanwhile, by another night or a rollback; {collection} stays"
                " beside it"
            )
        if target is None:
            self.connection.client.create_alias(collection, self.alias, timeout=self.connection.timeout_seconds)
            return True
        if target == collection and detour:
            self.connection.client.alter_alias(detour, self.alias, timeout=self.connection.timeout_seconds)
        elif target == collection:
            self.connection.set_properties(collection, {NONCE: uuid4().hex})  # caches forget its aliases then
        self.connection.client.alter_alias(collection, self.alias, timeout=self.connection.timeout_seconds)
        return False

    async def reads_as(self, proof: Mapping[str, str | None], *, times: int = 1, after: str = "") -> bool:
        """Whether reads through the alias agree with a proof, so many times one after the other; `after` as `seen`."""
        for at in range(times):
            await asyncio.sleep(PROOF_PAUSE_SECONDS if at else 0)
            if not agrees(await self.seen(proof, after=after), proof):
                return False
        return True

    async def seen(self, documents: Collection[str], *, after: str = "", by: int = 0) -> Mapping[str, str] | None:
        """Versions of a few documents as readers find them through the alias.

        Args:
            documents: Their ids.
            after: The collection whose last strong read is all that must be seen; "" to see every write before.
            by: As `Connection.count`, for a strong read.

        Returns:
            Version by document id; None where readers cannot read.
        """
        try:
            return await self.connection.call(
                lambda: self._seen(
                    documents,
                    self.connection.after_count(after) if after else self.connection.strong(by),
                )
            )
        except (IndexUnavailable, IndexRefused):
            return None

    def _seen(self, documents: Collection[str], consistency: Mapping[str, Any]) -> Mapping[str, str]:
        rows = self.connection.client.query(
            self.alias,
            filter=f"{HEADS} and {among(documents)}" if documents else HEADS,
            output_fields=["document_id", "version"],
            limit=PROOF_ROWS if documents else 1,
            timeout=self.connection.timeout_seconds,
            **consistency,
        )
        return {row["document_id"]: row["version"] for row in rows}

    async def drop(self, generation: Generation) -> bool:
        """Drop a generation, unless any alias names it.

        Returns:
            Whether it is gone.
        """

        def drop() -> bool:
            if self.connection.aliases(generation.name):
                return False
            self.connection.client.drop_collection(generation.name, timeout=self.connection.timeout_seconds)
            return True

        return await self.connection.call(drop)


def proof_of(before: Mapping[str, Head], after: Mapping[str, str]) -> dict[str, str | None]:
    """A few documents by which two generations can be told apart.

    Args:
        before: Heads by document id, as readers see them.
        after: Version by document id in the generation that they shall see.

    Returns:
        Version in the latter by document id, None where it does not hold the document.
    """
    differ = differing(versions_of(before), after if isinstance(after, Versions) else Versions(after))
    return {key: after.get(key) for key in nsmallest(PROOF_DOCUMENTS, differ)}


def agrees(seen: Mapping[str, str] | None, proof: Mapping[str, str | None]) -> bool:
    """Whether what readers see of documents is what a proof asks for."""
    return seen is not None and all(seen.get(key) == version for key, version in proof.items())


def proof_in(keys: Collection[str], heads: Mapping[str, Head]) -> dict[str, str | None]:
    """What reads through the alias must find of the documents that a promotion was proven with, as its rows are now."""
    return {key: heads[key].version if key in heads else None for key in keys}


@asynccontextmanager
async def open_index(
    settings: MilvusSettings,
    alias: str,
    token: SecretStr | None = None,
    *,
    retrieval: RetrievalSettings | None = None,
    vectors: IndexSettings | None = None,
) -> AsyncIterator[Index]:
    """Open an index for the running event loop.

    Args:
        settings: Where Milvus is.
        alias: Of the index.
        token: Of Milvus.
        retrieval: How it is asked; only who writes or asks need say.
        vectors: How its vectors are searched, likewise.

    Raises:
        IndexInputError: Milvus cannot be reached within seconds, refuses the token, its file is open elsewhere, or it
            is too old for hybrid retrieval.
    """
    async with open_connection(settings, token) as connection:
        connection.search_given = vectors.search if vectors else {}
        if retrieval and retrieval.mode == "hybrid":
            connection.check_bm25()
        yield Index(connection, alias, retrieval)
