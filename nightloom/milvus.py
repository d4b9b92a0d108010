"""The index in Milvus: its schema, its state, its writes and its alias. The only module that imports pymilvus."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import grpc
from pydantic import SecretStr
from pymilvus import DataType, MilvusClient, MilvusException
from pymilvus import exceptions as milvus_errors

from nightloom.corpus import MilvusSettings
from nightloom.documents import ID_HEX_DIGITS
from nightloom.embedding import Vectors
from nightloom.errors import IndexInconsistent, IndexInputError, IndexRefused, IndexUnavailable
from nightloom.generations import PROPERTY, Generation, new_name, parse_name
from nightloom.planning import Head
from nightloom.splitting import Node

if TYPE_CHECKING:
    from llama_index.vector_stores.milvus import MilvusVectorStore

Result = TypeVar("Result")
Row = dict[str, Any]

MAX_VARCHAR_BYTES = 65_535
READ_ROWS = 2_000
WRITE_ROWS = 500
WRITE_BYTES = 8_000_000
COPIES_IN_FLIGHT = 3
CONNECT_SECONDS = 5
PROOFS = 20
PROOF_PAUSE_SECONDS = 0.25
NAMED_DOCUMENTS = 10
"""How many documents a message names before it only counts them."""

HEAD_FIELDS = ("document_id", "version", "total", "uri", "item", "validator")
HEADS = "position == 0"

_DOCUMENT_ID = re.compile(rf"[0-9a-f]{{{ID_HEX_DIGITS}}}")
_PERMANENT_ERRORS = (
    milvus_errors.ParamError,
    milvus_errors.DataNotMatchException,
    milvus_errors.DataTypeNotMatchException,
    milvus_errors.DataTypeNotSupportException,
    milvus_errors.SchemaNotReadyException,
    milvus_errors.PrimaryKeyException,
    milvus_errors.CollectionNotExistException,
    milvus_errors.ConnectionConfigException,
)
_PERMANENT_CODES = frozenset({100, 1100, 1101, 1600, 1601, 1602, 1700})
"""Codes of errors that no retry mends: of collection, parameter, alias and field (Milvus, pkg/merr/errors.go)."""

# Its error log repeats, with a traceback, what it raises anyway.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Hit:
    """A node that a query found.

    Attributes:
        score: As Milvus gives it: for COSINE and IP higher is better, for L2 lower.
    """

    node: str
    uri: str
    item: str
    title: str
    position: int
    score: float
    text: str


class Index:
    """An open index: the generations behind one alias.

    Methods that write or read rows name the physical collection, never the alias: a night writes beside what readers
    see. Calls that time out or are refused for now raise `IndexUnavailable` and may be made again: every write is an
    upsert or a delete by key. What no retry mends raises `IndexRefused`.
    """

    def __init__(self, settings: MilvusSettings, alias: str, token: SecretStr | None) -> None:
        """Only remember where the index is; `open_index` opens it."""
        self.settings = settings
        self.alias = alias
        self._token = token.get_secret_value() if token else ""
        self._opened: MilvusClient | None = None
        self._stores: dict[str, MilvusVectorStore] = {}
        self._loaded: set[str] = set()
        # Milvus Lite is not safe under concurrent writers (a server is).
        self._writers = asyncio.Semaphore(1 if settings.is_lite else COPIES_IN_FLIGHT)

    @property
    def is_absent(self) -> bool:
        """Whether nothing was ever written: a Milvus Lite file that does not exist, and is not created by looking."""
        return self.settings.is_lite and not Path(self.settings.uri).exists()

    async def generations(self) -> list[Generation]:
        """The generations of this index, oldest first.

        Raises:
            IndexInputError: The alias's name belongs to a collection that is not ours, which is never touched.
        """
        if self.is_absent:
            return []
        return await self._call(self._generations)

    def _generations(self) -> list[Generation]:
        names = self._client.list_collections()
        if self.alias in names:
            raise IndexInputError(
                f"{self.settings.uri}: a collection named {self.alias!r} exists and is not Nightloom's; choose another"
                " name in the corpus file, or rename that collection"
            )
        target = self._alias_target()
        found = [
            replace(generation, live=generation.name == target)
            for name in names
            if (generation := self._describe(name)) is not None
        ]
        if target is not None and not any(generation.live for generation in found):
            raise IndexInputError(
                f"{self.settings.uri}: the alias {self.alias!r} names {target!r}, which is not Nightloom's; choose"
                " another name in the corpus file"
            )
        return sorted(found, key=lambda generation: generation.created)

    def _alias_target(self) -> str | None:
        if self.alias not in self._client.list_aliases()["aliases"]:
            return None
        return str(self._client.describe_alias(self.alias)["collection_name"])

    def _describe(self, name: str) -> Generation | None:
        parsed = parse_name(name)
        if parsed is None or parsed[0] != self.alias:
            return None
        properties = self._client.describe_collection(name).get("properties", {})
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
        await self._call(lambda: self._create(generation, dim))
        return generation

    def _create(self, generation: Generation, dim: int) -> None:
        client = self._client
        schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("doc_id", DataType.VARCHAR, max_length=64)
        schema.add_field("text", DataType.VARCHAR, max_length=MAX_VARCHAR_BYTES)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
        schema.add_field("document_id", DataType.VARCHAR, max_length=64)
        schema.add_field("version", DataType.VARCHAR, max_length=64)
        schema.add_field("position", DataType.INT64)
        schema.add_field("total", DataType.INT64)
        schema.add_field("uri", DataType.VARCHAR, max_length=MAX_VARCHAR_BYTES)
        indexes = client.prepare_index_params()
        indexes.add_index("embedding", index_name="embedding", index_type="FLAT", metric_type=self.settings.metric)
        client.create_collection(
            generation.name,
            schema=schema,
            index_params=indexes,
            consistency_level="Bounded",
            properties={f"{PROPERTY}alias": self.alias, f"{PROPERTY}fingerprint": generation.fingerprint},
            timeout=self.settings.timeout_seconds,
        )

    async def set_scores(self, collection: str, evaluation: str, scores: Mapping[str, float]) -> None:
        """Keep with a generation what it scored, and the hash of what it was asked."""
        properties = {f"{PROPERTY}evaluation": evaluation, f"{PROPERTY}scores": json.dumps(dict(scores))}
        await self._call(lambda: self._client.alter_collection_properties(collection, properties))

    async def mark_promoted(self, collection: str) -> None:
        """Keep with a generation that readers have seen it."""
        properties = {f"{PROPERTY}promoted": "yes"}
        await self._call(lambda: self._client.alter_collection_properties(collection, properties))

    async def dim(self, collection: str) -> int:
        """Dimensions of a generation's embeddings."""

        def dim() -> int:
            fields = self._client.describe_collection(collection)["fields"]
            return next(int(field["params"]["dim"]) for field in fields if field["name"] == "embedding")

        return await self._call(dim)

    async def load(self, collection: str) -> None:
        """Have a collection ready for reads; Milvus Lite opens every collection unloaded."""
        if collection not in self._loaded:
            await self._call(lambda: self._client.load_collection(collection, timeout=self._timeout))
            self._loaded.add(collection)

    async def heads(self, collection: str) -> dict[str, Head]:
        """The head of every indexed document, by document id: what the index holds."""
        await self.count(collection)
        return await self._call(lambda: self._heads(collection))

    def _heads(self, collection: str) -> dict[str, Head]:
        rows: Iterator[Row] = (row for batch in self._scan(collection, HEADS, HEAD_FIELDS) for row in batch)
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

    async def count(self, collection: str) -> int:
        """Rows, physical duplicates included; a strong read, so that reads after it see every write before it."""

        def count() -> int:
            rows = self._client.query(
                collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=self._timeout
            )
            return int(rows[0]["count(*)"])

        await self.load(collection)
        return await self._call(count)

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
                await self._add(collection, [_text_node(node, vector) for node, vector in part])
        return len(pairs)

    async def _add(self, collection: str, text_nodes: list[Any]) -> None:
        store = await self._store(collection)
        async with self._writers, _translated(self._timeout):
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
        await self.count(source)
        others = await self._call(lambda: self._copy(source, target, "position > 0", versions))
        return others + await self._call(lambda: self._copy(source, target, HEADS, versions))

    def _copy(self, source: str, target: str, part: str, versions: Mapping[str, str]) -> int:
        """Read in this thread while others write: memory is bounded by the batches in flight."""
        rows, writing = 0, set[Future[Any]]()
        writers = 1 if self.settings.is_lite else COPIES_IN_FLIGHT
        with ThreadPoolExecutor(writers) as pool:
            for batch in self._scan(source, part, ("*",)):
                wanted = [row for row in batch if versions.get(row["document_id"]) == row["version"]]
                for request in _requests(wanted):
                    if len(writing) == writers:
                        done, writing = wait(writing, return_when=FIRST_COMPLETED)
                        for future in done:
                            future.result()
                    writing.add(pool.submit(self._client.upsert, target, request, timeout=self._timeout))
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
        await self.count(collection)
        return await self._call(lambda: self._keep_only(collection, versions))

    def _keep_only(self, collection: str, versions: Mapping[str, str]) -> int:
        stray = [
            (row["document_id"], row["version"], row["id"])
            for batch in self._scan(collection, "position >= 0", ("document_id", "version"))
            for row in batch
            if versions.get(row["document_id"]) != row["version"]
        ]
        pairs = sorted({(document, version) for document, version, _ in stray})
        for document, version in pairs:
            condition = f'document_id == "{_hex(document)}" and version == "{_hex(version)}"'
            self._client.delete(collection, filter=condition, timeout=self._timeout)
        return len(stray)

    async def verify(self, collection: str, expected: Mapping[str, str]) -> int:
        """Check that a generation holds these documents in these versions, each with all its rows, and nothing else.

        Returns:
            Rows.

        Raises:
            IndexInconsistent: Names the documents.
        """
        rows = await self.count(collection)
        heads = await self.heads(collection)
        versions = {key: head.version for key, head in heads.items()}
        total = sum(head.total for head in heads.values())
        if versions == dict(expected) and rows == total:
            return rows
        wrong = [key for key in sorted({*versions, *expected}) if versions.get(key) != expected.get(key)]
        if rows != total:
            wrong += await self._call(lambda: self._miscounted(collection, heads))
        names = [heads[key].uri if key in heads else key for key in dict.fromkeys(wrong)]
        more = f" and {len(names) - NAMED_DOCUMENTS} more" if len(names) > NAMED_DOCUMENTS else ""
        raise IndexInconsistent(
            f"{collection} holds {rows} rows where its heads count {total}; wrong documents:"
            f" {', '.join(names[:NAMED_DOCUMENTS]) or 'none that a scan can name'}{more}; run again to mend them"
        )

    def _miscounted(self, collection: str, heads: Mapping[str, Head]) -> list[str]:
        found: dict[str, int] = {}
        for batch in self._scan(collection, "position >= 0", ("document_id",)):
            for row in batch:
                found[row["document_id"]] = found.get(row["document_id"], 0) + 1
        wanted = {key: head.total for key, head in heads.items()}
        return [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)]

    async def flush(self, collection: str) -> None:
        """Seal what was written, where it pays: on Milvus Lite a search over unsealed rows takes 200 ms."""
        if self.settings.is_lite:
            await self._call(lambda: self._client.flush(collection, timeout=self._timeout))

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
        await self.load(collection)
        for _ in range(PROOFS):
            await self._call(lambda: self._switch(collection))
            with suppress(IndexUnavailable, IndexRefused):
                if await self._call(lambda: self._reads_as(proof)):
                    return
            await asyncio.sleep(PROOF_PAUSE_SECONDS)
        raise IndexInconsistent(
            f"the alias {self.alias!r} was switched to {collection} {PROOFS} times, and reads through it still answer"
            " from another generation; look at the server, then run again"
        )

    def _switch(self, collection: str) -> None:
        if self._alias_target() is None:
            self._client.create_alias(collection, self.alias, timeout=self._timeout)
        else:
            self._client.alter_alias(collection, self.alias, timeout=self._timeout)

    def _reads_as(self, proof: Mapping[str, str | None]) -> bool:
        ids = ", ".join(f'"{_hex(key)}"' for key in proof)
        rows = self._client.query(
            self.alias,
            filter=f"{HEADS} and document_id in [{ids}]" if ids else HEADS,
            output_fields=["document_id", "version"],
            limit=max(len(proof), 1),
            consistency_level="Strong",
            timeout=self._timeout,
        )
        found = {row["document_id"]: row["version"] for row in rows}
        return all(found.get(key) == version for key, version in proof.items())

    async def drop(self, generation: Generation) -> None:
        """Drop a generation, unless any alias names it."""

        def drop() -> None:
            if not self._client.list_aliases(generation.name)["aliases"]:
                self._client.drop_collection(generation.name, timeout=self._timeout)

        await self._call(drop)

    async def search(self, collection: str, vector: Vectors, limit: int) -> list[Hit]:
        """The nearest nodes of a generation, best first.

        Args:
            collection: Physical name.
            vector: float32, shape (dim,).
            limit: Nodes at most, up to 16,384.
        """
        from llama_index.core.vector_stores.types import VectorStoreQuery  # noqa: PLC0415  seconds to import

        store = await self._store(collection)
        query = VectorStoreQuery(
            query_embedding=vector.tolist(),
            similarity_top_k=limit,
            output_fields=["text", "_node_content", "_node_type"],
        )
        async with _translated(self._timeout):
            found = await store.aquery(query)
        return [_hit(node, score) for node, score in zip(found.nodes or [], found.similarities or [], strict=True)]

    async def _store(self, collection: str) -> "MilvusVectorStore":
        if collection not in self._stores:
            await self.load(collection)
            store = await asyncio.to_thread(self._open_store, collection)
            self._stores.setdefault(collection, store)
        return self._stores[collection]

    def _open_store(self, collection: str) -> "MilvusVectorStore":
        from llama_index.vector_stores.milvus import MilvusVectorStore  # noqa: PLC0415  seconds to import
        from llama_index.vector_stores.milvus.base import IndexManagement  # noqa: PLC0415

        with _translating():
            return MilvusVectorStore(
                uri=self.settings.uri,
                token=self._token,
                collection_name=collection,
                overwrite=False,
                upsert_mode=True,
                similarity_metric=self.settings.metric,
                batch_size=WRITE_ROWS,
                index_management=IndexManagement.NO_VALIDATION,
                timeout=self._timeout,
            )

    @property
    def _timeout(self) -> float:
        return self.settings.timeout_seconds

    @property
    def _client(self) -> MilvusClient:
        if self._opened is None:
            self._opened = _connect(self.settings, self._token)
        return self._opened

    def _scan(self, collection: str, condition: str, fields: Sequence[str]) -> Iterator[list[Row]]:
        """Rows in batches, as the last strong read left them."""
        batches = self._client.query_iterator(
            collection,
            batch_size=READ_ROWS,
            filter=condition,
            output_fields=list(fields),
            consistency_level="Bounded",
            timeout=self._timeout,
        )
        try:
            while batch := batches.next():
                yield batch
        finally:
            batches.close()

    async def _call(self, function: Callable[[], Result]) -> Result:
        """Run calls of the synchronous client in a thread, their errors translated."""

        def call() -> Result:
            with _translating():
                return function()

        return await asyncio.to_thread(call)

    async def close(self) -> None:
        """Close every client; a Milvus Lite file is then free for another process."""
        for store in self._stores.values():
            with suppress(Exception):
                if store.aclient is not None:
                    await store.aclient.close()
                store.client.close()
        self._stores.clear()
        if self._opened is not None:
            with suppress(Exception):
                self._opened.close()
            self._opened = None
        if self.settings.is_lite:
            await asyncio.to_thread(_release_lite, self.settings.uri)


@asynccontextmanager
async def open_index(settings: MilvusSettings, alias: str, token: SecretStr | None = None) -> AsyncIterator[Index]:
    """Open an index for the running event loop.

    A Milvus Lite file that does not exist is not created before something is written.

    Raises:
        IndexInputError: Milvus cannot be reached within seconds, refuses the token, or its file is open elsewhere.
    """
    index = Index(settings, alias, token)
    if not index.is_absent:
        await index._call(lambda: index._client)  # noqa: SLF001  opening is this function's work
    try:
        yield index
    finally:
        await index.close()


def server_version(index: Index) -> str:
    """What the server, or Milvus Lite, says of its version."""
    return str(index._client.get_server_version())  # noqa: SLF001  the module's own class


def _connect(settings: MilvusSettings, token: str) -> MilvusClient:
    if settings.is_lite:
        Path(settings.uri).parent.mkdir(parents=True, exist_ok=True)
        # It logs, with a traceback, every call of the client that it does not have (AllocTimestamp).
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    else:
        _check_port(settings.uri)
    try:
        return MilvusClient(settings.uri, token=token, timeout=CONNECT_SECONDS)
    except milvus_errors.ConnectionConfigException as error:
        raise IndexInputError(_lite_refusal(settings.uri, error)) from None
    except (MilvusException, grpc.RpcError, OSError) as error:
        raise IndexInputError(
            f"milvus.uri: {settings.uri}: cannot be opened: {_short(error)}; check the address, and the token in"
            " NIGHTLOOM_MILVUS_TOKEN"
        ) from None


def _check_port(uri: str) -> None:
    """Ask the port first: pymilvus itself needs many seconds to find that nobody is there."""
    import socket  # noqa: PLC0415

    parts = urlsplit(uri)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 19530), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise IndexInputError(
            f"milvus.uri: {uri}: Milvus cannot be reached: {error}; start it (`make milvus` starts one here), or mend"
            " the address"
        ) from None


def _lite_refusal(uri: str, error: Exception) -> str:
    """Why a Milvus Lite file does not open: its own error says only that it does not."""
    import fcntl  # noqa: PLC0415  not on every platform

    try:
        with (Path(uri) / "LOCK").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"milvus.uri: {uri}: the file is open in another process; wait for it to end, or end it"
    except OSError as reason:
        return f"milvus.uri: {uri}: is no Milvus Lite file, or cannot be written: {reason}"
    return f"milvus.uri: {uri}: cannot be opened: {_short(error)}"


def _release_lite(uri: str) -> None:
    from milvus_lite.server_manager import server_manager_instance  # noqa: PLC0415  the only user of a .db file

    with suppress(Exception):
        server_manager_instance.release_server(uri)


@contextmanager
def _translating() -> Iterator[None]:
    """Raise pymilvus's errors as ours, by what a retry would do."""
    try:
        yield
    except _PERMANENT_ERRORS as error:
        raise IndexRefused(f"Milvus refuses: {_short(error)}") from error
    except MilvusException as error:
        permanent = error.code in _PERMANENT_CODES
        kind, says = (IndexRefused, "refuses") if permanent else (IndexUnavailable, "does not answer as it should")
        raise kind(f"Milvus {says}: {_short(error)}") from error
    except (grpc.RpcError, ConnectionError) as error:
        raise IndexUnavailable(f"Milvus does not answer: {_short(error)}") from error


@asynccontextmanager
async def _translated(timeout_seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_seconds):
            with _translating():
                yield
    except TimeoutError:
        raise IndexUnavailable(f"Milvus did not answer within {timeout_seconds:g} s") from None


def _short(error: BaseException) -> str:
    """The first line of an error, without the repetition that pymilvus puts around it."""
    message = getattr(error, "message", "") or str(error) or type(error).__name__
    return str(message).splitlines()[0][:300]


def _hex(value: str) -> str:
    """A document id or version, if it is one: nothing else ever goes into a filter."""
    if not _DOCUMENT_ID.fullmatch(value):
        raise IndexRefused(f"{value!r} is no id of {ID_HEX_DIGITS} hex digits, and goes into no filter")
    return value


def _requests(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows in requests within the bounds in rows and bytes; a request of Milvus holds 64 MB."""
    request: list[Row] = []
    size_bytes = 0
    for row in rows:
        row_bytes = 4 * len(row["embedding"]) + 4 * len(row["text"]) + 2 * len(row.get("_node_content", ""))
        if request and (size_bytes + row_bytes > WRITE_BYTES or len(request) == READ_ROWS):
            yield request
            request, size_bytes = [], 0
        request.append(row)
        size_bytes += row_bytes
    if request:
        yield request


def _text_node(node: Node, vector: Vectors) -> Any:
    """A node as LlamaIndex knows it; metadata of the names of typed fields land in those fields."""
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode  # noqa: PLC0415

    ref = node.document.ref
    metadata: dict[str, Any] = {
        "uri": ref.uri,
        "item": ref.item,
        "source": ref.source,
        "version": node.version,
        "position": node.position,
        "total": node.total,
    }
    if node.document.title:
        metadata["title"] = node.document.title
    if ref.validator and node.position == 0:
        metadata["validator"] = ref.validator
    return TextNode(
        id_=node.id,
        text=node.text,
        embedding=vector.tolist(),
        metadata=metadata,
        # Other programs embed and prompt with the text alone, as we do.
        excluded_embed_metadata_keys=list(metadata),
        excluded_llm_metadata_keys=[key for key in metadata if key not in {"uri", "title"}],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=ref.id)},
    )


def _hit(node: Any, score: float) -> Hit:
    kept = node.metadata
    return Hit(
        node.node_id,
        kept.get("uri", ""),
        kept.get("item", ""),
        kept.get("title", ""),
        kept.get("position", 0),
        score,
        node.text,
    )
