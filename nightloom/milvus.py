"""The connection to Milvus: what is asked of it in calls of pymilvus, with their errors in our words.

`nightloom.index` and `nightloom.contents` say what is asked; `nightloom.capabilities` says what this Milvus does.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from pydantic import SecretStr
from pymilvus import AnnSearchRequest, DataType, Function, FunctionType, MilvusClient, MilvusException, RRFRanker

from nightloom.batches import Batch, Row, Transfer, in_requests
from nightloom.capabilities import LITE, Capabilities, of_server
from nightloom.column_transfer import ColumnTransfer, PrivatePartsMoved
from nightloom.corpus import MilvusSettings, Parameter
from nightloom.errors import IndexInputError
from nightloom.extras import lacking
from nightloom.milvus_client import check_database, connect, hold_lite, release_lite
from nightloom.milvus_errors import is_too_large, translating
from nightloom.retrieval import BM25, LEG_NODES, RRF_K
from nightloom.row_transfer import RowTransfer
from nightloom.rows import FIRST_ROWS, KEYWORDS, READ_BYTES, READ_ROWS, REQUEST_BYTES, SPARSE, parts
from nightloom.vector_index import AUTOINDEX, VectorIndex, first_index, search_parameters
from nightloom.vectors import Vectors

if TYPE_CHECKING:
    from pymilvus.milvus_client import IndexParams

Result = TypeVar("Result")
_log = logging.getLogger(__name__)

MAX_VARCHAR_BYTES = 65_535
TEXTS = {"doc_id": 64, "text": MAX_VARCHAR_BYTES, "document_id": 64, "version": 64, "uri": MAX_VARCHAR_BYTES}
"""Fields of text that every generation has beside the primary key, and how many bytes each takes."""
NUMBERS = ("position", "total")
BUILD_SECONDS = 7_200
"""For an index over millions of vectors."""
LOAD_SECONDS = 600
"""For a collection to be ready for reads: the server reads all of it first."""
SMALLER = 8
"""Factor by which a page becomes smaller that is refused for its size."""


@dataclass
class Snapshot:
    """A moment of a collection at which several scans read.

    Attributes:
        moment: Time of the server; 0 until the first page was read, and for a Milvus that does not say it.
    """

    moment: int = 0


class Connection:
    """An open Milvus: a server, or a Milvus Lite file.

    Calls that time out or are refused for now raise `IndexUnavailable`; what no retry mends raises `IndexRefused`.

    Attributes:
        search_given: Parameters of searches, as the corpus file has them.
        opened_at: Time of the server when the connection was opened; 0 where it was not told.
    """

    def __init__(self, settings: MilvusSettings, token: SecretStr | None) -> None:
        """Only remember where it is; `open_connection` opens it."""
        self.settings = settings
        self._token = token.get_secret_value() if token else ""
        self._opened: MilvusClient | None = None
        self._holds_file = False
        self.opened_at = 0
        self._loaded: set[str] = set()
        self._fields: dict[str, frozenset[str]] = {}
        self._kinds: dict[str, str] = {}
        self._seen: dict[str, int] = {}
        self.search_given: Mapping[str, Parameter] = {}

    @property
    def is_absent(self) -> bool:
        """Whether nothing was ever written: a Milvus Lite file that does not exist, and is not created by looking."""
        return self.settings.file is not None and not self.settings.file.exists()

    @property
    def timeout_seconds(self) -> float:
        """Limit for one request."""
        return self.settings.timeout_seconds

    @property
    def client(self) -> MilvusClient:
        """The synchronous client, opened at first use; call it inside `call`.

        Raises:
            IndexInputError: Milvus cannot be opened.
        """
        if self._opened is None:
            if self.settings.file and not self._holds_file:
                hold_lite(self.settings.uri)
                self._holds_file = True
            self._opened = connect(self.settings, self._token)
        return self._opened

    @cached_property
    def capabilities(self) -> Capabilities:
        """What this Milvus does; a server is asked for its version, in this thread.

        Raises:
            IndexInputError: It cannot be opened.
        """
        if self.settings.file:
            return LITE
        # As it says when a client opens it: Zilliz Cloud gives no version to who only asks for that.
        found = self.client.get_server_version(timeout=self.timeout_seconds, detail=True)
        return of_server(self.settings.uri, str(found["version"]))

    @cached_property
    def transfer(self) -> Transfer:
        """What carries rows, as milvus.transfer says.

        Raises:
            IndexInputError: It says "columns", and this version of pymilvus has moved what carries them.
        """
        public = RowTransfer(self.client, left_out=SPARSE, timeout_seconds=self.timeout_seconds)
        if self.settings.transfer == "rows":
            return public
        try:
            return ColumnTransfer(
                self.client,
                database=self.settings.database or "",
                texts=("id", *TEXTS, KEYWORDS),
                numbers=NUMBERS,
                left_out=SPARSE,
                timeout_seconds=self.timeout_seconds,
            )
        except PrivatePartsMoved as moved:
            if self.settings.transfer == "auto":
                _log.warning("rows go by public functions, which is slower: this pymilvus has moved others: %s", moved)
                return public
            raise IndexInputError(
                f'milvus.transfer: "columns" needs parts that this version of pymilvus does not have: {moved};'
                ' take the version of the lock file, or "rows"'
            ) from None

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run calls of the synchronous client in a thread, their errors translated."""

        def call() -> Result:
            with translating():
                return function()

        return await asyncio.to_thread(call)

    async def load(self, collection: str, *, again: bool = False) -> None:
        """Have a collection ready for reads; Milvus Lite opens every collection unloaded.

        Args:
            collection: Its name.
            again: Also where it was loaded before: somebody may have released it since.
        """
        if again or collection not in self._loaded:
            await self.call(lambda: self._load(collection))
            self._loaded.add(collection)

    def _load(self, collection: str) -> None:
        self._make_indexes(collection)
        self.client.load_collection(collection, timeout=LOAD_SECONDS)

    def _make_indexes(self, collection: str) -> None:
        """Those that are missing: a new collection has none yet, nor has one whose process was killed before that."""
        present = self.client.list_indexes(collection)
        wanted = {"embedding", SPARSE} & self._field_names(collection)
        if missing := wanted - set(present):
            indexes = self._indexes(missing, first_index(self.capabilities))
            # To wait for them, the client would sleep half a second for each, however few rows there are.
            self.client.create_index(collection, indexes, timeout=self.timeout_seconds, sync=False)

    def _indexes(self, fields: Collection[str], vectors: VectorIndex) -> "IndexParams":
        indexes = self.client.prepare_index_params()
        if "embedding" in fields:
            indexes.add_index(
                "embedding",
                index_name="embedding",
                index_type=vectors.kind,
                metric_type=self.settings.metric,
                params=dict(vectors.build),
            )
        if SPARSE in fields:
            indexes.add_index(
                SPARSE,
                index_name=SPARSE,
                index_type=AUTOINDEX if self.capabilities.only_autoindex else "SPARSE_INVERTED_INDEX",
                metric_type="BM25",
                params={} if self.capabilities.only_autoindex else BM25,
            )
        return indexes

    async def index_kind(self, collection: str) -> str:
        """Type of the index over a collection's vectors."""
        return await self.call(lambda: self._index_kind(collection))

    def metric(self, collection: str) -> str:
        """By which a collection's vectors are compared, in this thread."""
        found = self.client.describe_index(collection, "embedding", timeout=self.timeout_seconds)
        return str(found["metric_type"])

    def _index_kind(self, collection: str) -> str:
        if collection not in self._kinds:
            found = self.client.describe_index(collection, "embedding", timeout=self.timeout_seconds)
            self._kinds[collection] = str(found["index_type"])
        return self._kinds[collection]

    async def flush(self, collection: str, *, wait: bool = True) -> None:
        """Seal the rows that were written so far.

        Args:
            collection: Its name.
            wait: Until they are sealed: a server takes seconds, in which it answers as before and after.
        """
        await self.call(lambda: self.client.flush(collection, timeout=LOAD_SECONDS, _async=not wait))

    async def rebuild_index(self, collection: str, vectors: VectorIndex) -> None:
        """Put another index over a collection's vectors; meanwhile nobody can read it."""
        await self.call(lambda: self._rebuild_index(collection, vectors))

    def _rebuild_index(self, collection: str, vectors: VectorIndex) -> None:
        self._kinds.pop(collection, None)
        self.client.release_collection(collection, timeout=self.timeout_seconds)
        self.client.drop_index(collection, "embedding", timeout=self.timeout_seconds)
        indexes = self._indexes({"embedding"}, vectors)
        self.client.create_index(collection, indexes, timeout=BUILD_SECONDS)
        self.client.load_collection(collection, timeout=LOAD_SECONDS)

    def _search_parameters(self, collection: str, limit: int) -> dict[str, Any]:
        return search_parameters(self._index_kind(collection), self.search_given, limit)

    async def is_hybrid(self, collection: str) -> bool:
        """Whether a collection holds keywords beside its embeddings."""
        return await self.call(lambda: self._is_hybrid(collection))

    def _is_hybrid(self, collection: str) -> bool:
        return KEYWORDS in self._field_names(collection)

    def _field_names(self, collection: str) -> frozenset[str]:
        if collection not in self._fields:
            found = self.client.describe_collection(collection, timeout=self.timeout_seconds)["fields"]
            self._fields[collection] = frozenset(field["name"] for field in found)
        return self._fields[collection]

    async def count(self, collection: str, *, by: int = 0) -> int:
        """Rows, physical duplicates included; a strong read, so that reads after it see every write before it.

        Args:
            collection: Its name.
            by: Time of the server, where it is enough to see what was written by then: see `strong`.
        """

        def count() -> int:
            moment = by or (self.time() if self.capabilities.strong_reads_wait else 0)
            rows = self.count_now(collection, by=moment)
            self._seen[collection] = moment
            return rows

        await self.load(collection)
        return await self.call(count)

    def count_now(self, collection: str, condition: str = "", *, by: int = 0) -> int:
        """The same for rows that meet a condition, in this thread."""
        rows = self.client.query(
            collection,
            filter=condition,
            output_fields=["count(*)"],
            timeout=self.timeout_seconds,
            **self.strong(by),
        )
        return int(rows[0]["count(*)"])

    def strong(self, by: int = 0) -> dict[str, Any]:
        """What a query is given so that it sees every write before it, or every one by a time of the server.

        Where Milvus answers once the ticks of its clock have passed the time that must be seen, they are up to 0.4 s
        late: who asks for no more than is needed waits less. A time of the server is later than that of every write
        before it, whatever the clocks show.
        """
        if by and self.capabilities.strong_reads_wait:
            return {"consistency_level": "Customized", "guarantee_timestamp": by}
        return {"consistency_level": "Strong"}

    def after_count(self, collection: str) -> dict[str, Any]:
        """What a query is given so that it sees what the last `count` of a collection saw, of whatever replica."""
        if collection in self._seen:
            return self.strong(self._seen[collection])
        return {"consistency_level": "Bounded"}

    def open(self) -> None:
        """Open the client, ask what this Milvus does, and take the server's time; in this thread.

        Raises:
            IndexInputError: Milvus cannot be opened.
        """
        _ = self.capabilities
        check_database(self.settings, self.client)
        self.opened_at = self.time()

    def time(self) -> int:
        """The server's time, which is later than that of every write before, in this thread; 0 where it is not told."""
        if self.capabilities.gives_timestamps:
            with suppress(MilvusException, grpc.RpcError):  # not by this server, or not to this user
                return self.transfer.time()
        return 0

    def aliases(self, collection: str = "") -> list[str]:
        """The aliases of a collection, or of all, in this thread."""
        # By the request, too: Milvus 2.3 reads the database of this one from nowhere else.
        database = self.settings.database or ""
        return list(self.client.list_aliases(collection, timeout=self.timeout_seconds, db_name=database)["aliases"])

    def properties(self, collection: str) -> dict[str, str]:
        """What is kept with a collection, in this thread."""
        found = self.client.describe_collection(collection, timeout=self.timeout_seconds).get("properties", {})
        return {str(key): str(value) for key, value in found.items()}

    def set_properties(self, collection: str, properties: Mapping[str, str]) -> None:
        """Keep something with a collection, in this thread."""
        self.client.alter_collection_properties(collection, dict(properties), timeout=self.timeout_seconds)

    def scan(
        self,
        collection: str,
        condition: str,
        fields: Sequence[str],
        batch_rows: int = 0,
        snapshot: Snapshot | None = None,
    ) -> Iterator[list[Row]]:
        """Some fields of rows in batches, in the order of their keys, as the last strong read left them.

        A field of the dynamic field is left out where a row has none of its name.

        Args:
            collection: Name of the collection.
            condition: The filter that rows must meet.
            fields: Names of the fields to give; the key is always given.
            batch_rows: Most rows of a batch; 0 for as many as have about `READ_BYTES`.
            snapshot: The moment at which to read, also by other scans; None for a new one.
        """
        with ThreadPoolExecutor(1) as ahead:
            batches = self.read_batches(collection, condition, fields, batch_rows, snapshot)
            next_one = ahead.submit(next, batches, None)
            while batch := next_one.result():
                next_one = ahead.submit(next, batches, None)  # Milvus reads it while this one is taken apart
                yield batch.rows(fields)

    def nearest(
        self, collection: str, vectors: Sequence[Vectors], limit: int, fields: Sequence[str], condition: str = ""
    ) -> list[list[tuple[Row, float]]]:
        """Some fields and the score of the rows nearest to each vector, best first, in this thread.

        Only rows that meet the condition, which is a filter, are looked at; "" for all.
        """
        limit = min(limit, self.capabilities.most_hits)
        found = []
        for some in parts(vectors, self.capabilities.most_questions):
            found += self.client.search(
                collection,
                data=list(some),
                anns_field="embedding",
                filter=condition,
                limit=limit,
                output_fields=list(fields),
                search_params={"params": self._search_parameters(collection, limit)},
                timeout=self.timeout_seconds,
                **self.after_count(collection),
            )
        return [[(hit["entity"], hit["distance"]) for hit in hits] for hits in found]

    def fused(
        self,
        collection: str,
        vectors: Sequence[Vectors],
        keywords: Sequence[str],
        limit: int,
        fields: Sequence[str],
        condition: str = "",
    ) -> list[list[tuple[Row, float]]]:
        """The same for a collection with keywords: found by embedding and by BM25, fused by reciprocal rank.

        Args:
            collection: Its name.
            vectors: n of them.
            keywords: Of the same n questions, none of them empty.
            limit: Rows at most, for each.
            fields: To give back.
            condition: A filter that rows must meet; "" for none.
        """
        does = self.capabilities
        limit = min(limit, does.most_hits)
        depth = min(max(limit, LEG_NODES), does.most_hits)
        dense = {"metric_type": self.settings.metric, "params": self._search_parameters(collection, depth)}
        found = []
        for some in parts(list(zip(vectors, keywords, strict=True)), does.most_questions):
            legs = [
                AnnSearchRequest([vector for vector, _ in some], "embedding", dense, depth, condition),
                AnnSearchRequest([words for _, words in some], SPARSE, {"metric_type": "BM25"}, depth, condition),
            ]
            found += self.client.hybrid_search(
                collection,
                legs,
                ranker=RRFRanker(RRF_K),
                limit=limit,
                output_fields=list(fields),
                timeout=self.timeout_seconds,
                **self.after_count(collection),
            )
        return [[(hit["entity"], hit["distance"]) for hit in hits] for hits in found]

    def read_batches(
        self,
        collection: str,
        condition: str,
        fields: Sequence[str] = ("*",),
        batch_rows: int = 0,
        snapshot: Snapshot | None = None,
    ) -> Iterator[Batch]:
        """Fields of rows in batches, in the order of their keys, as the last strong read left them.

        Servers from 2.5 on answer the first page with the moment at which they read it. The pages after it ask for
        the same moment, so that all of them are one snapshot; what was written later is hidden from a read at a moment.
        There, the first page is a strong read: a replica of its own clock may not have what another one counted.

        Args:
            collection: Name of the collection.
            condition: The filter that rows must meet.
            fields: Names of the fields to give; "*" for every field.
            batch_rows: Most rows of a batch; 0 for as many as have about `READ_BYTES`.
            snapshot: The moment at which to read, also by other scans; None for a new one.
        """
        after, count, snapshot = "", batch_rows or FIRST_ROWS, snapshot or Snapshot()
        names = sorted({"id", *fields})
        while True:
            try:
                batch, moment = self._read_page(collection, condition + after, names, count, snapshot.moment)
            except (MilvusException, grpc.RpcError) as error:
                if count == 1 or not is_too_large(error):
                    raise
                count = max(1, count // SMALLER)  # of the next rows: those before them were small
                continue
            snapshot.moment = snapshot.moment or moment
            if not len(batch):
                return
            yield batch
            after = (
                f" and id > {json.dumps(batch.texts('id')[-1], ensure_ascii=False)}"  # every kind of Milvus takes this
            )
            if not batch_rows:
                count = rows_that_fit(batch)

    def _read_page(
        self, collection: str, condition: str, fields: Sequence[str], limit: int, moment: int
    ) -> tuple[Batch, int]:
        strong = self.capabilities.gives_session_ts and not moment
        return self.transfer.read(collection, condition, fields, limit, moment=moment, strong=strong)

    def write(self, collection: str, batch: Batch) -> int:
        """Upsert rows in this thread, and again for as long as one request may take; returns their count."""
        self.transfer.write(collection, batch)
        return len(batch)

    def upsert_now(self, collection: str, rows: Sequence[Row]) -> None:
        """Upsert rows in this thread, as many to a request as one may hold."""
        for request in in_requests(self.transfer.batch_of(rows), REQUEST_BYTES):
            self.write(collection, request)

    def check_bm25(self) -> None:
        """Check that Milvus makes sparse vectors of keywords: Milvus Lite does, and servers do from 2.5 on.

        Raises:
            IndexInputError: It does not.
        """
        if not self.capabilities.has_bm25:
            raise IndexInputError(
                f'retrieval.mode: "hybrid" needs Milvus 2.5 or later, and the server at {self.settings.uri} is'
                f' {self.capabilities.version}; upgrade it, or set mode = "dense"'
            )

    def forget(self, collection: str) -> None:
        """Keep nothing of a collection that is asked no more, or that has been released or dropped since."""
        for kept in (self._fields, self._kinds, self._seen):
            kept.pop(collection, None)
        self._loaded.discard(collection)

    async def close(self) -> None:
        """Close every client; a Milvus Lite file is then free for another process."""
        if self._opened is not None:
            with suppress(Exception):
                self._opened.close()
            self._opened = None
        if self._holds_file:
            self._holds_file = False
            await asyncio.to_thread(release_lite, self.settings.uri)

    async def create(self, collection: str, *, dim: int, properties: Mapping[str, str], hybrid: bool = False) -> None:
        """Create an empty collection with our fields. It takes rows at once; the server gets ready to read them.

        Args:
            collection: Its name.
            dim: Dimensions of its embeddings.
            properties: Kept with it, and there from the first moment.
            hybrid: Whether its rows hold keywords, which Milvus indexes for BM25.
        """
        await self.call(lambda: self._create(collection, dim, properties, hybrid=hybrid))

    def _create(self, collection: str, dim: int, properties: Mapping[str, str], *, hybrid: bool) -> None:
        client = self.client
        schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
        for name, longest in TEXTS.items():
            schema.add_field(name, DataType.VARCHAR, max_length=longest)
        for name in NUMBERS:
            schema.add_field(name, DataType.INT64)
        if hybrid:
            # They are split at their spaces; "standard" is what every kind of Milvus has.
            analyzer = {"tokenizer": "standard"}
            schema.add_field(
                KEYWORDS,
                DataType.VARCHAR,
                max_length=MAX_VARCHAR_BYTES,
                enable_analyzer=True,
                analyzer_params=analyzer,
            )
            schema.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
            schema.add_function(Function("bm25", FunctionType.BM25, [KEYWORDS], [SPARSE]))
        client.create_collection(
            collection,
            schema=schema,
            consistency_level="Bounded",
            properties=dict(properties),
            timeout=self.timeout_seconds,
        )
        self._make_indexes(collection)
        client.load_collection(collection, timeout=self.timeout_seconds, _async=True)


def rows_that_fit(batch: Batch) -> int:
    """How many rows like these a batch shall have."""
    return max(1, min(READ_ROWS, len(batch) * READ_BYTES // batch.size_bytes))


@asynccontextmanager
async def open_connection(settings: MilvusSettings, token: SecretStr | None) -> AsyncIterator[Connection]:
    """Open Milvus for the running event loop.

    A Milvus Lite file that does not exist is not created before something is written.

    Raises:
        IndexInputError: Milvus cannot be reached within seconds, refuses the token, or its file is open elsewhere;
            or Milvus Lite is not installed.
    """
    if settings.file and (missing := lacking("lite")):
        raise IndexInputError(f"milvus.uri: {settings.uri} is an index in a file, and {missing}; or name a server")
    connection = Connection(settings, token)
    if not connection.is_absent:
        await connection.call(connection.open)
    try:
        yield connection
    finally:
        await connection.close()
