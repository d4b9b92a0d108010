"""The index: the generations behind one alias, their rows, and which of them readers see."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from nightloom.corpus import MilvusSettings
from nightloom.embedding import Vectors
from nightloom.errors import IndexInconsistent, IndexInputError, IndexRefused, IndexUnavailable
from nightloom.generations import PROPERTY, Generation, new_name, parse_name
from nightloom.milvus import Connection, open_connection, translated
from nightloom.planning import Head
from nightloom.rows import Hit, Row, checked_id, hit_of, requests, text_node
from nightloom.splitting import Node

WRITES_IN_FLIGHT = 3
PROOFS = 20
PROOF_PAUSE_SECONDS = 0.25
NAMED_DOCUMENTS = 10
"""How many documents a message names before it only counts them."""

HEAD_FIELDS = ("document_id", "version", "total", "uri", "item", "validator")
HEADS = "position == 0"


class Index:
    """An open index: the generations behind one alias.

    Methods that write or read rows name the physical collection, never the alias: a night writes beside what readers
    see. Every write is an upsert or a delete by key, and may be made again.
    """

    def __init__(self, connection: Connection, alias: str) -> None:
        """An index in an open Milvus."""
        self.connection = connection
        self.alias = alias
        # Milvus Lite is not safe under concurrent writers; a server is.
        self._writers_count = 1 if connection.settings.is_lite else WRITES_IN_FLIGHT
        self._writers = asyncio.Semaphore(self._writers_count)

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
        if target is not None and not any(generation.live for generation in found):
            raise IndexInputError(
                f"{self.connection.settings.uri}: the alias {self.alias!r} names {target!r}, which is not Nightloom's;"
                " choose another name in the corpus file"
            )
        return sorted(found, key=lambda generation: generation.created)

    def _alias_target(self) -> str | None:
        if self.alias not in self.connection.client.list_aliases()["aliases"]:
            return None
        return str(self.connection.client.describe_alias(self.alias)["collection_name"])

    def _describe(self, name: str) -> Generation | None:
        parsed = parse_name(name)
        if parsed is None or parsed[0] != self.alias:
            return None
        properties = self.connection.client.describe_collection(name).get("properties", {})
        if properties.get(f"{PROPERTY}alias") != self.alias:
            return None
        scores = json.loads(properties.get(f"{PROPERTY}scores", "{}"))
        return Generation(
            name,
            self.alias,
            properties[f"{PROPERTY}fingerprint"],
            parsed[1],
            promoted=f"{PROPERTY}promoted" in properties,
            evaluation=properties.get(f"{PROPERTY}evaluation", ""),
            scores=tuple(scores.items()),
        )

    async def create(self, fingerprint: str, dim: int, existing: Collection[Generation], now: datetime) -> Generation:
        """Create an empty generation of vectors of `dim` dimensions, loaded, beside the existing ones."""
        name, created = new_name(self.alias, fingerprint, existing, now)
        generation = Generation(name, self.alias, fingerprint, created)
        properties = {f"{PROPERTY}alias": self.alias, f"{PROPERTY}fingerprint": fingerprint}
        await self.connection.create(name, dim=dim, properties=properties)
        return generation

    async def set_scores(self, collection: str, evaluation: str, scores: Mapping[str, float]) -> None:
        """Keep with a generation what it scored, and the hash of what it was asked."""
        properties = {f"{PROPERTY}evaluation": evaluation, f"{PROPERTY}scores": json.dumps(dict(scores))}
        await self.connection.call(lambda: self.connection.client.alter_collection_properties(collection, properties))

    async def mark_promoted(self, collection: str) -> None:
        """Keep with a generation that readers have seen it."""
        properties = {f"{PROPERTY}promoted": "yes"}
        await self.connection.call(lambda: self.connection.client.alter_collection_properties(collection, properties))

    async def dim(self, collection: str) -> int:
        """Dimensions of a generation's embeddings."""

        def dim() -> int:
            fields = self.connection.client.describe_collection(collection)["fields"]
            return next(int(field["params"]["dim"]) for field in fields if field["name"] == "embedding")

        return await self.connection.call(dim)

    async def heads(self, collection: str) -> dict[str, Head]:
        """The head of every indexed document, by document id: what the index holds."""
        await self.connection.count(collection)
        return await self.connection.call(lambda: self._heads(collection))

    def _heads(self, collection: str) -> dict[str, Head]:
        rows: Iterator[Row] = (row for batch in self.connection.scan(collection, HEADS, HEAD_FIELDS) for row in batch)
        return {
            row["document_id"]: Head(
                row["document_id"],
                row["version"],
                row["total"],
                row["uri"],
                str(row.get("item") or row["uri"]),
                str(row.get("validator") or ""),
            )
            for row in rows
        }

    async def upsert(self, collection: str, nodes: Sequence[Node], vectors: Vectors) -> int:
        """Write the nodes of whole documents, heads last; writing them again changes nothing.

        Args:
            collection: Physical name, never the alias.
            nodes: n nodes; every node of each of their documents is among them.
            vectors: float32, shape (n, dim), in the order of the nodes.

        Returns:
            Rows acknowledged, always n.
        """
        pairs = list(zip(nodes, vectors, strict=True))
        for part in ([pair for pair in pairs if pair[0].position], [pair for pair in pairs if not pair[0].position]):
            if part:
                await self._add(collection, [text_node(node, vector) for node, vector in part])
        return len(pairs)

    async def _add(self, collection: str, text_nodes: list[Any]) -> None:
        store = await self.connection.store(collection)
        async with self._writers, translated(self.connection.timeout_seconds):
            await store.async_add(text_nodes)

    async def copy(self, source: str, target: str, versions: Mapping[str, str]) -> int:
        """Copy documents, vectors and all, from one generation to another; heads after all other rows.

        Args:
            source: Physical name of the generation to read.
            target: Physical name of the generation to write.
            versions: Version to copy by document id; rows of other documents or versions stay behind.

        Returns:
            Rows acknowledged.
        """
        if not versions:
            return 0
        await self.connection.count(source)
        others = await self.connection.call(lambda: self._copy(source, target, "position > 0", versions))
        return others + await self.connection.call(lambda: self._copy(source, target, HEADS, versions))

    def _copy(self, source: str, target: str, part: str, versions: Mapping[str, str]) -> int:
        """Read in this thread while others write: memory is bounded by the batches in flight."""
        rows, writing = 0, set[Future[Any]]()
        writers = self._writers_count
        with ThreadPoolExecutor(writers) as pool:
            for batch in self.connection.scan(source, part, ("*",)):
                wanted = [row for row in batch if versions.get(row["document_id"]) == row["version"]]
                for request in requests(wanted):
                    if len(writing) == writers:
                        done, writing = wait(writing, return_when=FIRST_COMPLETED)
                        for future in done:
                            future.result()
                    writing.add(
                        pool.submit(
                            self.connection.client.upsert, target, request, timeout=self.connection.timeout_seconds
                        )
                    )
                rows += len(wanted)
            for future in writing:
                future.result()
        return rows

    async def keep_only(self, collection: str, versions: Mapping[str, str]) -> int:
        """Delete every row that is not of one of these documents in this version.

        Args:
            collection: Physical name of a generation that readers do not see.
            versions: Version by document id.

        Returns:
            Rows deleted.
        """
        await self.connection.count(collection)
        return await self.connection.call(lambda: self._keep_only(collection, versions))

    def _keep_only(self, collection: str, versions: Mapping[str, str]) -> int:
        stray = [
            (row["document_id"], row["version"], row["id"])
            for batch in self.connection.scan(collection, "position >= 0", ("document_id", "version"))
            for row in batch
            if versions.get(row["document_id"]) != row["version"]
        ]
        pairs = sorted({(document, version) for document, version, _ in stray})
        for document, version in pairs:
            condition = f'document_id == "{checked_id(document)}" and version == "{checked_id(version)}"'
            self.connection.client.delete(collection, filter=condition, timeout=self.connection.timeout_seconds)
        return len(stray)

    async def verify(self, collection: str, expected: Mapping[str, str]) -> int:
        """Check that a generation holds these documents in these versions, each with all its rows, and nothing else.

        Returns:
            Rows.

        Raises:
            IndexInconsistent: Names the documents.
        """
        rows = await self.connection.count(collection)
        heads = await self.heads(collection)
        versions = {key: head.version for key, head in heads.items()}
        total = sum(head.total for head in heads.values())
        if versions == dict(expected) and rows == total:
            return rows
        wrong = [key for key in sorted({*versions, *expected}) if versions.get(key) != expected.get(key)]
        if rows != total:
            wrong += await self.connection.call(lambda: self._miscounted(collection, heads))
        names = [heads[key].uri if key in heads else key for key in dict.fromkeys(wrong)]
        more = f" and {len(names) - NAMED_DOCUMENTS} more" if len(names) > NAMED_DOCUMENTS else ""
        raise IndexInconsistent(
            f"{collection} holds {rows} rows where its heads count {total}; wrong documents:"
            f" {', '.join(names[:NAMED_DOCUMENTS]) or 'none that a scan can name'}{more}; run again to mend them"
        )

    def _miscounted(self, collection: str, heads: Mapping[str, Head]) -> list[str]:
        found: dict[str, int] = {}
        for batch in self.connection.scan(collection, "position >= 0", ("document_id",)):
            for row in batch:
                found[row["document_id"]] = found.get(row["document_id"], 0) + 1
        wanted = {key: head.total for key, head in heads.items()}
        return [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)]

    async def flush(self, collection: str) -> None:
        """Seal what was written, where it pays: on Milvus Lite a search over unsealed rows takes 200 ms."""
        if self.connection.settings.is_lite:
            await self.connection.call(
                lambda: self.connection.client.flush(collection, timeout=self.connection.timeout_seconds)
            )

    async def promote(self, collection: str, proof: Mapping[str, str | None]) -> None:
        """Let the alias name a generation, and prove by reads through the alias that it does.

        An alter_alias can stick: the server goes on answering from the old collection, and the same call made again
        heals it. So this switches and reads until the reads agree.

        Args:
            collection: Physical name; it is loaded first.
            proof: By document id, its version in the new generation (None: not there), for a few documents in which
                it differs from the live one.

        Raises:
            IndexInconsistent: The reads never agreed.
        """
        for _ in range(PROOFS):
            await self.connection.call(lambda: self._switch(collection))
            with suppress(IndexUnavailable, IndexRefused):
                if await self.connection.call(lambda: self._reads_as(proof)):
                    return
            await asyncio.sleep(PROOF_PAUSE_SECONDS)
        raise IndexInconsistent(
            f"the alias {self.alias!r} was switched to {collection} {PROOFS} times, and reads through it still answer"
            " from another generation; look at the server, then run again"
        )

    def _switch(self, collection: str) -> None:
        # Whatever loaded it, somebody may have released it since, and readers of an unloaded collection only fail.
        self.connection.client.load_collection(collection, timeout=self.connection.timeout_seconds)
        if self._alias_target() is None:
            self.connection.client.create_alias(collection, self.alias, timeout=self.connection.timeout_seconds)
        else:
            self.connection.client.alter_alias(collection, self.alias, timeout=self.connection.timeout_seconds)

    def _reads_as(self, proof: Mapping[str, str | None]) -> bool:
        ids = ", ".join(f'"{checked_id(key)}"' for key in proof)
        rows = self.connection.client.query(
            self.alias,
            filter=f"{HEADS} and document_id in [{ids}]" if ids else HEADS,
            output_fields=["document_id", "version"],
            limit=max(len(proof), 1),
            consistency_level="Strong",
            timeout=self.connection.timeout_seconds,
        )
        found = {row["document_id"]: row["version"] for row in rows}
        return all(found.get(key) == version for key, version in proof.items())

    async def drop(self, generation: Generation) -> None:
        """Drop a generation, unless any alias names it."""

        def drop() -> None:
            if not self.connection.client.list_aliases(generation.name)["aliases"]:
                self.connection.client.drop_collection(generation.name, timeout=self.connection.timeout_seconds)

        await self.connection.call(drop)

    async def search(self, collection: str, vector: Vectors, limit: int) -> list[Hit]:
        """The nearest nodes of a generation, best first.

        Args:
            collection: Physical name.
            vector: float32, shape (dim,).
            limit: Nodes at most, up to 16,384.
        """
        from llama_index.core.vector_stores.types import VectorStoreQuery  # noqa: PLC0415  seconds to import

        store = await self.connection.store(collection)
        query = VectorStoreQuery(
            query_embedding=vector.tolist(),
            similarity_top_k=limit,
            output_fields=["text", "_node_content", "_node_type"],
        )
        async with translated(self.connection.timeout_seconds):
            found = await store.aquery(query)
        return [hit_of(node, score) for node, score in zip(found.nodes or [], found.similarities or [], strict=True)]


@asynccontextmanager
async def open_index(settings: MilvusSettings, alias: str, token: SecretStr | None = None) -> AsyncIterator[Index]:
    """Open an index for the running event loop.

    Raises:
        IndexInputError: Milvus cannot be reached within seconds, refuses the token, or its file is open elsewhere.
    """
    async with open_connection(settings, token) as connection:
        yield Index(connection, alias)
