"""The connection to Milvus: calls, their errors in our words, and what the two kinds of Milvus need apart.

The only module that imports pymilvus; `nightloom.index` says what is asked of the connection.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import numpy as np
from pydantic import SecretStr
from pymilvus import AnnSearchRequest, DataType, Function, FunctionType, MilvusClient, MilvusException, RRFRanker
from pymilvus import exceptions as milvus_errors
from pymilvus.client.prepare import Prepare
from pymilvus.client.types import ConsistencyLevel, Status
from pymilvus.client.utils import check_status
from pymilvus.decorators import retry_on_rpc_failure
from pymilvus.grpc_gen import milvus_pb2
from pymilvus.grpc_gen.schema_pb2 import FieldData
from pymilvus.settings import Config

from nightloom.columns import Columns, column, in_requests, rows_in, set_vectors, size_of
from nightloom.corpus import MilvusSettings, Parameter
from nightloom.errors import IndexInputError, IndexRefused, IndexUnavailable
from nightloom.milvus_address import CONNECT_SECONDS, check_address, speaks_tls
from nightloom.retrieval import BM25, LEG_NODES, RRF_K
from nightloom.rows import FIRST_ROWS, KEYWORDS, READ_BYTES, READ_ROWS, REQUEST_BYTES, SPARSE, Row
from nightloom.vector_index import VectorIndex, search_parameters
from nightloom.vectors import Vectors

if TYPE_CHECKING:
    from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult
    from llama_index.vector_stores.milvus import MilvusVectorStore
    from pymilvus.milvus_client import IndexParams

Result = TypeVar("Result")

MAX_VARCHAR_BYTES = 65_535
TEXTS = {"doc_id": 64, "text": MAX_VARCHAR_BYTES, "document_id": 64, "version": 64, "uri": MAX_VARCHAR_BYTES}
"""Fields of text that every generation has beside the primary key, and how many bytes each takes."""
NUMBERS = ("position", "total")
BM25_SINCE = (2, 5)
"""The first version of the server that makes sparse vectors of texts."""
BUILD_SECONDS = 7_200
"""For an index over millions of vectors."""
LOAD_SECONDS = 600
"""For a collection to be ready for reads: the server reads all of it first."""
NO_KEEPALIVE = {"grpc.keepalive_time_ms": 2_147_483_647}
"""Milvus Lite cuts off a client that asks every 10 s whether it is there, as pymilvus does in long pauses."""

_TRANSIENT_ERRORS = (
    milvus_errors.ConnectError,
    milvus_errors.ConnectionNotExistException,
    milvus_errors.MilvusUnavailableException,
    milvus_errors.SchemaMismatchRetryableException,
)
"""Of the kinds of errors that pymilvus raises by itself, those that a retry can mend; the others are mistakes."""
_PERMANENT_CODES = frozenset({100, 1100, 1101, 1600, 1601, 1602, 1700})
"""Codes of errors that no retry mends: of collection, parameter, alias and field (Milvus, pkg/merr/errors.go)."""
_PERMANENT_WORDS = ("not a number or infinity", "exceeds max length", "exceeds the maximum length")
"""Of messages that come with the code for anything unexpected, which a retry can mend at other times."""
_TOO_LARGE = ("exceed the limit size", "exceed the maxOutputSize", "larger than max")
"""Of messages that refuse an answer for its bytes: by segment, by query node, by what one message may hold."""
SMALLER = 8
_CHECK_TOKEN = "check the user and the password in NIGHTLOOM_MILVUS_TOKEN (user:password), or in milvus.token_block"  # noqa: S105
_NO_ACCESS = {
    grpc.StatusCode.UNAUTHENTICATED: _CHECK_TOKEN,
    grpc.StatusCode.PERMISSION_DENIED: "its role may not do this: take a user that may (see docs/security.md)",
}
"""What to do where Milvus lets a user not in, or not do something."""

Config.WaitTimeDurationWhenLoad = 0.05
"""Between two questions whether a collection is loaded: of its own 0.2 s, a small night would sleep most away."""

# Its error log repeats, with a traceback, what it raises anyway.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


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
        self.opened_at = 0
        self._stores: dict[str, MilvusVectorStore] = {}
        self._loaded: set[str] = set()
        self._fields: dict[str, frozenset[str]] = {}
        self._kinds: dict[str, str] = {}
        self.search_given: Mapping[str, Parameter] = {}

    @property
    def is_absent(self) -> bool:
        """Whether nothing was ever written: a Milvus Lite file that does not exist, and is not created by looking."""
        return self.settings.is_lite and not Path(self.settings.uri).exists()

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
            self._opened = _connect(self.settings, self._token)
        return self._opened

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
            indexes = self._indexes(missing, VectorIndex("FLAT"))
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
                SPARSE, index_name=SPARSE, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=BM25
            )
        return indexes

    async def index_kind(self, collection: str) -> str:
        """Type of the index over a collection's vectors."""
        return await self.call(lambda: self._index_kind(collection))

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
        await self.load(collection)
        return await self.call(lambda: self.count_now(collection, by=by))

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

        Milvus answers once the ticks of its clock have passed the time that must be seen, and they are up to 0.4 s
        late: who asks for no more than is needed waits less. A time of the server is later than that of every write
        before it, whatever the clocks show.
        """
        return {"consistency_level": "Customized", "guarantee_timestamp": by} if by else {"consistency_level": "Strong"}

    def open(self) -> None:
        """Open the client, and take the server's time; in this thread.

        Raises:
            IndexInputError: Milvus cannot be opened.
        """
        _ = self.client
        self.opened_at = self.time()

    def time(self) -> int:
        """The server's time, which is later than that of every write before, in this thread; 0 where it is not told."""
        if not self.settings.is_lite:
            with suppress(MilvusException, grpc.RpcError):  # not by this server, or not to this user
                return int(self.client._get_connection().alloc_timestamp(timeout=CONNECT_SECONDS))  # noqa: SLF001  no public way
        return 0

    def properties(self, collection: str) -> dict[str, str]:
        """What is kept with a collection, in this thread."""
        found = self.client.describe_collection(collection, timeout=self.timeout_seconds).get("properties", {})
        return {str(key): str(value) for key, value in found.items()}

    def set_properties(self, collection: str, properties: Mapping[str, str]) -> None:
        """Keep something with a collection, in this thread."""
        self.client.alter_collection_properties(collection, dict(properties), timeout=self.timeout_seconds)

    def scan(self, collection: str, condition: str, fields: Sequence[str], batch_rows: int = 0) -> Iterator[list[Row]]:
        """Some fields of rows in batches, in the order of their keys, as the last strong read left them.

        A field of the dynamic field is left out where a row has none of its name.

        Args:
            collection: Its name.
            condition: That the rows meet.
            fields: Their names; the key is always there.
            batch_rows: As `read_columns`.
        """
        with ThreadPoolExecutor(1) as ahead:
            batches = self.read_columns(collection, condition, fields, batch_rows)
            batch = ahead.submit(next, batches, None)
            while columns := batch.result():
                batch = ahead.submit(next, batches, None)  # Milvus reads the next one while this one is taken apart
                yield rows_in(columns, fields)

    def nearest(
        self, collection: str, vectors: Sequence[Vectors], limit: int, fields: Sequence[str]
    ) -> list[list[tuple[Row, float]]]:
        """Some fields and the score of the rows nearest to each vector, best first, in this thread."""
        found = self.client.search(
            collection,
            data=list(vectors),
            anns_field="embedding",
            limit=limit,
            output_fields=list(fields),
            search_params={"params": self._search_parameters(collection, limit)},
            consistency_level="Bounded",
            timeout=self.timeout_seconds,
        )
        return [[(hit["entity"], hit["distance"]) for hit in hits] for hits in found]

    def fused(
        self, collection: str, vectors: Sequence[Vectors], keywords: Sequence[str], limit: int, fields: Sequence[str]
    ) -> list[list[tuple[Row, float]]]:
        """The same for a collection with keywords: found by embedding and by BM25, fused by reciprocal rank.

        Args:
            collection: Its name.
            vectors: n of them.
            keywords: Of the same n questions, none of them empty.
            limit: Rows at most, for each.
            fields: To give back.
        """
        depth = max(limit, LEG_NODES)
        dense = {"metric_type": self.settings.metric, "params": self._search_parameters(collection, depth)}
        legs = [
            AnnSearchRequest(list(vectors), "embedding", dense, depth),
            AnnSearchRequest(list(keywords), SPARSE, {"metric_type": "BM25"}, depth),
        ]
        found = self.client.hybrid_search(
            collection,
            legs,
            ranker=RRFRanker(RRF_K),
            limit=limit,
            output_fields=list(fields),
            consistency_level="Bounded",
            timeout=self.timeout_seconds,
        )
        return [[(hit["entity"], hit["distance"]) for hit in hits] for hits in found]

    def read_columns(
        self, collection: str, condition: str, fields: Sequence[str] = ("*",), batch_rows: int = 0
    ) -> Iterator[Columns]:
        """Fields of rows in batches, as the last strong read left them, as Milvus sends them: for `write_columns`.

        Servers from 2.5 on answer the first batch with the moment at which they read it. The batches after it ask for
        the same moment, so that all of them are one snapshot; what was written later is hidden from a read at a moment.

        The client would take each batch apart into rows and put them together again to write them, which takes longer
        than Milvus itself does.

        Args:
            collection: Its name.
            condition: That the rows meet.
            fields: Their names; "*" for every field.
            batch_rows: Of every batch, at most; 0 for as many as have about `READ_BYTES`.
        """
        after, count, moment = "", batch_rows or FIRST_ROWS, 0
        while True:
            request = Prepare.query_request(
                collection,
                condition + after,
                sorted({"id", *fields}),
                [],
                use_default_consistency=False,
                consistency_level=ConsistencyLevel.Bounded,
                guarantee_timestamp=moment,
                limit=count,
                iterator="True",  # in the order of the keys, as the client's own iterator asks for them
                reduce_stop_for_best="True",
            )
            try:
                columns, session = self._query(request, timeout=self.timeout_seconds)
            except (MilvusException, grpc.RpcError) as error:
                if count == 1 or not any(words in str(error) for words in _TOO_LARGE):
                    raise
                count = max(1, count // SMALLER)  # of the next rows: those before them were small
                continue
            moment = moment or session
            keys = column(columns, "id") if columns else ()
            if not keys:
                return
            # Milvus Lite gives what it has made of the keywords, too, and takes it from nobody.
            yield [field for field in columns if field.field_name != SPARSE]
            after = f" and id > {json.dumps(keys[-1], ensure_ascii=False)}"  # both kinds of Milvus take this
            if not batch_rows:
                count = rows_that_fit(columns)

    @retry_on_rpc_failure()  # type: ignore[untyped-decorator]
    def _query(self, request: milvus_pb2.QueryRequest, *, timeout: float) -> tuple[Columns, int]:
        """Columns, and the moment at which the server read them, where it says so; 0 where it does not."""
        answer = self._stub.Query(request, timeout=timeout)
        if Status.EMPTY_COLLECTION in {answer.status.code, answer.status.error_code}:
            return (), 0  # how older servers say it
        check_status(answer.status)
        return answer.fields_data, int(answer.session_ts)

    def write_columns(self, collection: str, columns: Columns) -> int:
        """Upsert rows in this thread, and again for as long as one request may take; returns their count."""
        count = len(column(columns, "id"))
        request = milvus_pb2.UpsertRequest(collection_name=collection, fields_data=columns, num_rows=count)
        self._upsert(request, timeout=self.timeout_seconds)
        return count

    @retry_on_rpc_failure()  # type: ignore[untyped-decorator]
    def _upsert(self, request: milvus_pb2.UpsertRequest, *, timeout: float) -> None:
        check_status(self._stub.Upsert(request, timeout=timeout).status)

    def upsert_now(self, collection: str, rows: Sequence[Row]) -> None:
        """Upsert rows in this thread, as many to a request as one may hold."""
        for request in in_requests(columns_of(rows), REQUEST_BYTES):
            self.write_columns(collection, request)

    @property
    def _stub(self) -> Any:
        return self.client._get_connection()._stub  # noqa: SLF001  there is no public way to columns

    async def store(self, collection: str) -> "MilvusVectorStore":
        """LlamaIndex's view of a collection, for its asynchronous client and queries."""
        if collection not in self._stores:
            await self.load(collection)
            store = await asyncio.to_thread(self._open_store, collection)
            self._stores.setdefault(collection, store)
        return self._stores[collection]

    async def query(self, collection: str, query: "VectorStoreQuery", condition: str) -> "VectorStoreQueryResult":
        """Ask through LlamaIndex for nodes that meet a condition; "" for any."""
        store = await self.store(collection)
        limit = query.similarity_top_k
        parameters = await self.call(lambda: self._search_parameters(collection, limit))
        store.search_config = parameters  # where it asks in two ways, it looks for them here
        async with translated(self.timeout_seconds):
            return await store.aquery(query, string_expr=condition, milvus_search_config={"params": parameters})

    def _open_store(self, collection: str) -> "MilvusVectorStore":
        from llama_index.vector_stores.milvus import MilvusVectorStore  # noqa: PLC0415  seconds to import
        from llama_index.vector_stores.milvus.base import IndexManagement  # noqa: PLC0415
        from llama_index.vector_stores.milvus.utils import BM25BuiltInFunction  # noqa: PLC0415

        with translating():
            hybrid = self._is_hybrid(collection)
            return MilvusVectorStore(
                uri=self.settings.uri,
                token=self._token,
                collection_name=collection,
                overwrite=False,
                similarity_metric=self.settings.metric,
                enable_sparse=hybrid,
                sparse_embedding_function=BM25BuiltInFunction(KEYWORDS, SPARSE) if hybrid else None,
                hybrid_ranker_params={"k": RRF_K},
                index_management=IndexManagement.NO_VALIDATION,
                timeout=self.timeout_seconds,
                **_certificates(self.settings),
                grpc_options=_options(self.settings),
            )

    async def version(self) -> str:
        """What the server, or Milvus Lite, says of its version."""
        return await self.call(lambda: str(self.client.get_server_version()))

    async def check_bm25(self) -> None:
        """Check that Milvus makes sparse vectors of keywords: Milvus Lite does, and servers do from 2.5 on.

        Raises:
            IndexInputError: It does not.
        """
        if self.settings.is_lite:
            return
        version = await self.version()
        number = re.search(r"(\d+)\.(\d+)", version)
        if number and (int(number[1]), int(number[2])) < BM25_SINCE:
            raise IndexInputError(
                f'retrieval.mode: "hybrid" needs Milvus {BM25_SINCE[0]}.{BM25_SINCE[1]} or later, and the server at'
                f' {self.settings.uri} is {version}; upgrade it, or set mode = "dense"'
            )

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


def rows_that_fit(columns: Columns) -> int:
    """How many rows like these a batch shall have."""
    count = len(column(columns, "id"))
    return max(1, min(READ_ROWS, count * READ_BYTES // size_of(columns)))


def columns_of(rows: Sequence[Row]) -> Columns:
    """Rows as the columns of a request: the fields of the schema, and the rest as the dynamic field.

    The client would take each value of each row through a dozen calls, which takes longer than Milvus itself does.

    Args:
        rows: One at least, all with the same fields of the schema.
    """
    texts = [name for name in ("id", *TEXTS, KEYWORDS) if name in rows[0]]
    typed = {*texts, *NUMBERS, "embedding"}
    columns = [FieldData(field_name=name, type=DataType.VARCHAR) for name in texts]
    for field in columns:
        field.scalars.string_data.data.extend([row[field.field_name] for row in rows])
    for name in NUMBERS:
        columns.append(FieldData(field_name=name, type=DataType.INT64))
        columns[-1].scalars.long_data.data.extend([row[name] for row in rows])
    columns.append(FieldData(field_name="embedding", type=DataType.FLOAT_VECTOR))
    set_vectors(columns[-1], np.stack([row["embedding"] for row in rows]))
    columns.append(FieldData(field_name="$meta", type=DataType.JSON, is_dynamic=True))
    rest = [{key: value for key, value in row.items() if key not in typed} for row in rows]
    columns[-1].scalars.json_data.data.extend([json.dumps(one).encode() for one in rest])
    return columns


@asynccontextmanager
async def open_connection(settings: MilvusSettings, token: SecretStr | None) -> AsyncIterator[Connection]:
    """Open Milvus for the running event loop.

    A Milvus Lite file that does not exist is not created before something is written.

    Raises:
        IndexInputError: Milvus cannot be reached within seconds, refuses the token, or its file is open elsewhere.
    """
    connection = Connection(settings, token)
    if not connection.is_absent:
        await connection.call(connection.open)
    try:
        yield connection
    finally:
        await connection.close()


def _connect(settings: MilvusSettings, token: str) -> MilvusClient:
    if settings.is_lite:
        Path(settings.uri).parent.mkdir(parents=True, exist_ok=True)
        # It logs, with a traceback, every call of the client that it does not have (AllocTimestamp).
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
        logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)  # likewise: a file that does not open
    else:
        check_address(settings)
    try:
        return MilvusClient(
            settings.uri,
            token=token,
            timeout=CONNECT_SECONDS,
            grpc_options=_options(settings),
            **_certificates(settings),
        )
    except milvus_errors.ConnectionConfigException as error:
        raise IndexInputError(_lite_refusal(settings.uri, error)) from None
    except (MilvusException, grpc.RpcError, OSError) as error:
        raise IndexInputError(f"milvus.uri: {settings.uri}: {_refusal(settings, error)}") from None


def _refusal(settings: MilvusSettings, error: Exception) -> str:
    """Why a server does not let us in: the client's own error has it only as its cause."""
    cause = error.__cause__
    if isinstance(cause, grpc.Call) and cause.code() == grpc.StatusCode.UNAUTHENTICATED:
        return f"Milvus refuses: {cause.details()}; {_CHECK_TOKEN}"
    if speaks_tls(settings):
        return "it speaks TLS; write https://, and name the authority that signed its certificate in milvus.ca_file"
    return f"cannot be opened: {_short(error)}; check the address, and the token in NIGHTLOOM_MILVUS_TOKEN"


def _certificates(settings: MilvusSettings) -> dict[str, str]:
    return {"server_pem_path": str(settings.ca_file)} if settings.ca_file else {}


def _options(settings: MilvusSettings) -> dict[str, int]:
    return NO_KEEPALIVE if settings.is_lite else {}


def _lite_refusal(uri: str, error: Exception) -> str:
    """Why a Milvus Lite file does not open: its own error says only that it does not."""
    import fcntl  # noqa: PLC0415  not on every platform

    try:
        with (Path(uri) / "LOCK").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"milvus.uri: {uri}: the file is open in another process; wait for it to end, or end it"
    except OSError as reason:
        return f"milvus.uri: {uri}: is no Milvus Lite file, or cannot be written: {reason.strerror}; name another file"
    return f"milvus.uri: {uri}: cannot be opened: {_short(error)}"


def _release_lite(uri: str) -> None:
    from milvus_lite.server_manager import server_manager_instance  # noqa: PLC0415  the only user of a .db file

    with suppress(Exception):
        server_manager_instance.release_server(uri)


@contextmanager
def translating() -> Iterator[None]:
    """Raise pymilvus's errors as ours, by what a retry would do."""
    try:
        yield
    except MilvusException as error:
        mistake = type(error) is not MilvusException and not isinstance(error, _TRANSIENT_ERRORS)
        worded = any(words in str(error) for words in _PERMANENT_WORDS)
        permanent = mistake or worded or error.code in _PERMANENT_CODES
        kind, says = (IndexRefused, "refuses") if permanent else (IndexUnavailable, "does not answer as it should")
        raise kind(f"Milvus {says}: {_short(error)}") from error
    except grpc.RpcError as error:
        status = error.code() if isinstance(error, grpc.Call) else None
        if status in _NO_ACCESS:
            raise IndexRefused(f"Milvus refuses: {_short(error)}; {_NO_ACCESS[status]}") from error
        raise IndexUnavailable(f"Milvus does not answer: {_short(error)}") from error
    except ConnectionError as error:
        raise IndexUnavailable(f"Milvus does not answer: {_short(error)}") from error


@asynccontextmanager
async def translated(timeout_seconds: float) -> AsyncIterator[None]:
    """Asynchronous calls inside the block end within the limit, and raise errors of ours.

    Raises:
        IndexUnavailable: No answer in time, refused for now; safe to retry.
        IndexRefused: Refused for good.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            with translating():
                yield
    except TimeoutError:
        raise IndexUnavailable(f"Milvus did not answer within {timeout_seconds:g} s") from None


def _short(error: BaseException) -> str:
    """The first line of an error, without the repetition that pymilvus puts around it."""
    details = error.details() if isinstance(error, grpc.Call) else ""
    message = details or getattr(error, "message", "") or str(error) or type(error).__name__
    return str(message).splitlines()[0][:300]
