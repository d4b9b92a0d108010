"""The keys of a corpus file, as models. Secrets are in none of them: see `nightloom.secrets`."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from nightloom.secrets import (
    ANSWERS_KEY,
    EMBEDDER_KEY,
    ENVIRONMENT_PREFIX,
    MILVUS_TOKEN,
    OPENAI_KEY,
    SecretPlace,
)

ALIAS_LENGTH = 200
"""Longest alias: Milvus takes names of 255 characters, and a generation's name is the alias and 26 more."""

FORMAT = 1
"""Of corpus files: raised when a key changes its meaning or goes, not when one is added."""

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_TOKENIZER = "cl100k_base"
"""Of all embedding models of OpenAI."""

KEYS_OF_ENDPOINTS = (
    "base_url",
    "api_key_block",
    "tokenizer",
    "max_tokens",
    "dimensions",
    "concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "timeout_seconds",
)
"""The keys of [embedder] that mean something to an endpoint alone."""

DEFAULT_TOLERANCE = 0.02
"""How far a metric may fall."""

Alias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=ALIAS_LENGTH)]
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f#]+$", max_length=500)]
Tag = Annotated[str, StringConstraints(pattern=r"^[^\s,]+$", max_length=100)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", max_length=100)]
Parameter = bool | int | float | str
FilterValue = bool | int | float | str | tuple[bool | int | float | str, ...]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]

KINDS = ("path", "url", "urls", "sitemap", "jsonl", "csv", "parquet", "store", "git")
"""The keys that say what kind of source this is."""

_BY_HTTP = ("url", "urls", "sitemap")
_OF_ROWS = ("jsonl", "csv", "parquet")
KINDS_OF_KEYS = {
    "include": ("path", "sitemap", "store", "git"),
    "exclude": ("path", "sitemap", "store", "git"),
    "gitignore": ("path",),
    "header_env": _BY_HTTP,
    "allow_private": _BY_HTTP,
    "concurrency": (*_BY_HTTP, "store"),
    "concurrency_per_host": _BY_HTTP,
    "id_field": _OF_ROWS,
    "title_field": _OF_ROWS,
    "text_field": _OF_ROWS,
    "metadata_fields": _OF_ROWS,
    "delimiter": ("csv",),
    "options": ("store",),
    "options_env": ("store",),
    "ref": ("git",),
}
"""The kinds that a key is for, where it is not for all."""

GIT_ADDRESS = re.compile(r"^(https?|ssh)://|^[\w.-]+@[\w.-]+:")
SECRET_OPTION = re.compile(
    r"^(key|account_key)$|secret|token|password|passphrase|credential|connection_string|sas", re.IGNORECASE
)
"""Names of options that hold secrets, in the classes of fsspec."""


class Section(BaseModel):
    """A table of the corpus file. Unknown keys are errors, so that a misspelt one is never silently a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class SourceSettings(Section):
    """Where documents come from: exactly one of path, url, urls, sitemap, jsonl, csv, parquet, store and git."""

    name: Name | None = Field(
        None,
        title="Name",
        description="First part of the URIs of its documents. Default: the last part of `path`, `jsonl`, `csv`,"
        " `parquet` or `git` as written, or the whole of `store`.",
    )
    path: Path | None = Field(None, title="File or folder", description="A file, or a folder with all below it.")
    include: tuple[str, ...] = Field(
        ("**/*",),
        title="Include",
        description="Globs of what to take, relative to the folder or store, or to the front page of a sitemap's site.",
    )
    exclude: tuple[str, ...] = Field((), title="Exclude", description="Globs of what to leave out, likewise.")
    gitignore: bool = Field(
        False, title="Heed .gitignore", description="Leave out what the .gitignore files of a folder name, and .git."
    )
    url: str | None = Field(None, title="URL", description="One document by HTTP; the URL is its URI.")
    urls: tuple[str, ...] | None = Field(None, title="URLs", description="Several documents by HTTP.")
    sitemap: str | None = Field(
        None, title="Sitemap", description="Address of a sitemap, or of an index of sitemaps: its pages are documents."
    )
    header_env: dict[HeaderName, VariableName] = Field(
        default_factory=dict,
        title="Headers from the environment",
        description="Headers of requests, each with the environment variable that holds its value.",
    )
    allow_private: bool = Field(
        False, title="Allow private addresses", description="Follow redirects from public hosts to private addresses."
    )
    jsonl: Path | None = Field(
        None, title="JSONL file", description="One document a line, each a JSON object; may be .gz or .zst."
    )
    csv: Path | None = Field(None, title="CSV file", description="One document a row; may be .gz or .zst.")
    parquet: Path | None = Field(None, title="Parquet file", description="One document a row.")
    id_field: str = Field("_id", title="Id field", description="The field of a row's id.")
    title_field: str = Field("title", title="Title field", description="The field of its title, which may be missing.")
    text_field: str = Field("text", title="Text field", description="The field of its text.")
    metadata_fields: tuple[str, ...] | None = Field(
        None, title="Metadata fields", description="Fields to filter on. Default: all others that are short scalars."
    )
    delimiter: str = Field(
        "", max_length=1, title="Delimiter", description='Of a CSV file. Default: a tab for .tsv, "," otherwise.'
    )
    store: str | None = Field(
        None, title="Store", description="Any address that fsspec knows: s3://bucket/prefix, gs://, az://, zip://."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, title="Options", description="Of the store's fsspec class, such as endpoint_url."
    )
    options_env: dict[str, VariableName] = Field(
        default_factory=dict,
        title="Options from the environment",
        description="Secret options, each with the environment variable that holds its value.",
    )
    git: str | None = Field(
        None, title="Git repository", description="A local repository, bare or not, or its https or ssh address."
    )
    ref: str = Field("HEAD", min_length=1, title="Ref", description="Branch, tag or commit of the repository.")
    tags: tuple[Tag, ...] = Field((), title="Tags", description="Metadata of all its documents: words, without spaces.")
    concurrency: int = Field(8, ge=1, le=64, title="Concurrency", description="Documents fetched at once.")
    concurrency_per_host: int = Field(
        4, ge=1, le=64, title="Concurrency of a host", description="Of these, from one host at most."
    )

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of {', '.join(KINDS[:-1])} and {KINDS[-1]}; found {found}")
        for key, kinds in KINDS_OF_KEYS.items():
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if given[0] not in kinds and getattr(self, key) != default:
                raise ValueError(f"{key} is for {' and '.join(kinds)}, not for {given[0]}; remove it")
        return self

    @field_validator("urls")
    @classmethod
    def _each_once(cls, urls: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if urls is not None and not urls:
            raise ValueError("urls holds no address")
        twice = {url for url, count in Counter(urls or ()).items() if count > 1}
        if twice:
            raise ValueError(f"urls holds {min(twice)} twice")
        return urls

    @field_validator("url", "urls", "sitemap")
    @classmethod
    def _http_only(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for url in (value,) if isinstance(value, str) else value or ():
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is not an http:// or https:// address")
            if "@" in urlsplit(url).netloc:
                raise ValueError(
                    "put no credentials into an address: it names the document in the index and in reports"
                )
        return value

    @field_validator("store")
    @classmethod
    def _store_address(cls, store: str | None) -> str | None:
        if store is not None and "://" not in store:
            raise ValueError(f"{store!r} is no address such as s3://bucket/prefix; for a folder, use path")
        if store is not None and "@" in urlsplit(store).netloc and urlsplit(store).password:
            raise ValueError("put no credentials into an address: name the variable that holds them in options_env")
        return store

    @field_validator("git")
    @classmethod
    def _git_address(cls, git: str | None) -> str | None:
        parts = urlsplit(git or "")
        if parts.password or (parts.scheme.startswith("http") and parts.username):
            raise ValueError("put no credentials into an address: use ssh with a key")
        if not git and git is not None:
            raise ValueError("give a folder or an address")
        if parts.scheme and "://" in (git or "") and parts.scheme not in {"http", "https", "ssh"}:
            raise ValueError(f"{git!r} is neither a folder nor an https or ssh address")
        return git

    @field_validator("header_env", "options_env")
    @classmethod
    def _not_ours(cls, variables: dict[str, str]) -> dict[str, str]:
        for variable in variables.values():
            if variable.startswith(ENVIRONMENT_PREFIX):
                raise ValueError(
                    f"{variable}: variables that begin with {ENVIRONMENT_PREFIX} are keys; name it otherwise"
                )
        return variables

    @field_validator("options")
    @classmethod
    def _no_secret_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in _keys_of(options):
            if SECRET_OPTION.search(key):
                raise ValueError(f"{key} is a secret: name the environment variable that holds it in options_env")
        return options

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def file(self) -> Path | None:
        """The file or folder of a source on disk."""
        return self.path or self.rows_file

    @property
    def rows_file(self) -> Path | None:
        """The file of a source that has many documents in one file."""
        return self.jsonl or self.csv or self.parquet

    @property
    def label(self) -> str:
        """What to call the source in names and messages."""
        address = self.url or self.sitemap or self.store or self.git
        return self.name or address or (f"{len(self.urls)} URLs" if self.urls else str(self.file))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The URLs of a source by HTTP that names its documents itself; empty for the others."""
        return self.urls or ((self.url,) if self.url else ())

    @property
    def git_folder(self) -> Path | None:
        """The repository of a git source, where it lies on this machine."""
        return Path(self.git) if self.git and not GIT_ADDRESS.match(self.git) else None


def _keys_of(options: Any) -> Iterator[str]:
    """Every key of a table and of the tables in it."""
    if isinstance(options, dict):
        for key, value in options.items():
            yield key
            yield from _keys_of(value)


class ReadingSettings(Section):
    """What reading one document may take. Each is read in a process of its own; one that takes more is quarantined."""

    parse_timeout_seconds: float = Field(60, gt=0, title="Time a document", description="Limit in seconds.")
    max_document_bytes: int = Field(
        100_000_000, ge=1, title="Bytes a document", description="As it is stored: a larger one is not read."
    )
    max_text_bytes: int = Field(
        20_000_000, ge=1, title="Bytes of text a document", description="In UTF-8, once it is read."
    )
    max_memory_bytes: int = Field(
        2_000_000_000,
        ge=500_000_000,
        title="Memory a process",
        description="Address space in bytes that a process that reads may add to what it begins with.",
    )
    processes: int | None = Field(
        None, ge=1, le=64, title="Processes", description="That read at once. Default: half of the processors."
    )


class SplittingSettings(Section):
    """How documents become nodes."""

    max_tokens: int = Field(
        256,
        ge=16,
        title="Tokens a node",
        description="At most, counted by the embedder's own tokenizer, prefix and special tokens included.",
    )
    overlap_tokens: int = Field(
        32, ge=0, title="Overlap", description="Tokens that a node repeats of the one before it, at most."
    )
    max_nodes_per_document: int = Field(
        10_000, ge=1, title="Nodes a document", description="A document of more is quarantined."
    )

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.overlap_tokens * 2 > self.max_tokens:
            raise ValueError(
                f"overlap_tokens = {self.overlap_tokens} is more than half of max_tokens = {self.max_tokens}; lower it"
            )
        return self


def is_openai(base_url: str) -> bool:
    """Whether an endpoint is OpenAI's own."""
    return urlsplit(base_url)[:2] == urlsplit(OPENAI_URL)[:2]


def _address_without(variable: str) -> AfterValidator:
    """The address of an endpoint, without a slash at its end and without the key, whose place is a variable."""

    def check(base_url: str) -> str:  # no error repeats an address, as it may hold a key
        if not base_url.startswith(("http://", "https://")):
            raise ValueError("this is no http:// or https:// address")
        if "@" in urlsplit(base_url).netloc or {"?", "#"} & set(base_url):
            raise ValueError(f"put no credentials into the address: set {variable} instead")
        return base_url.rstrip("/")

    return AfterValidator(check)


def _key_place(base_url: str, variable: str, block: str | None, setting: str) -> SecretPlace:
    """Where an endpoint's key may stand; OPENAI_API_KEY will do for OpenAI's own."""
    variables = (variable, OPENAI_KEY) if is_openai(base_url) else (variable,)
    return SecretPlace(variables, block, setting)


class EmbedderSettings(Section):
    """What turns texts into vectors: a model on this machine, or one behind an endpoint that speaks OpenAI's protocol.

    The key of an endpoint is a secret: NIGHTLOOM_EMBEDDER_KEY, or the Secret block named here.
    """

    model: str = Field(
        "BAAI/bge-base-en-v1.5",
        min_length=1,
        title="Model",
        description='A hub name, a local folder, or "package:NAME" for a model that an installed package carries; for'
        " an endpoint, the name that it has there.",
    )
    revision: str | None = Field(
        None,
        title="Revision",
        description="Commit of a hub model; pin it in production. For an endpoint, a word of yours: change it when"
        " another model stands behind the same name.",
    )
    query_prefix: str = Field("", title="Query prefix", description="Put before every query.")
    text_prefix: str = Field("", title="Text prefix", description="Put before every node's text when it is embedded.")
    backend: Literal["auto", "torch", "onnx", "openvino", "openai"] = Field(
        "auto",
        title="Backend",
        description="What runs the model; auto measures once what is fastest on a machine, openai is an endpoint.",
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto",
        title="Precision",
        description="Of the model's numbers. auto keeps that of the live index; a new one gets bf16 where the machine"
        " that begins it computes with it, else fp32. Another precision embeds every document again.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=64,
        title="Batch tokens",
        description="Embedded at once, padding included. Default: as suits the device; 16,384 for an endpoint.",
    )
    base_url: Annotated[str, _address_without(EMBEDDER_KEY)] = Field(
        OPENAI_URL, title="Address", description="Of the endpoint, up to what stands before /embeddings."
    )
    api_key_block: str | None = Field(
        None, title="Key block", description="Name of the Prefect Secret block that holds the endpoint's key."
    )
    tokenizer: str | None = Field(
        None,
        min_length=1,
        title="Tokenizer",
        description='Of the endpoint\'s model, to measure nodes with: a hub name, a local folder, "package:NAME",'
        f' "cl100k_base" or "o200k_base". Default at OpenAI\'s own address: "{OPENAI_TOKENIZER}".',
    )
    max_tokens: int | None = Field(
        None,
        ge=16,
        title="Tokens a text",
        description="That the endpoint's model reads. Default: as the tokenizer's files say; 8,191 at OpenAI's own.",
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        title="Dimensions",
        description="Of vectors, asked of the endpoint for models that can shorten theirs. Default: as it gives them.",
    )
    concurrency: int = Field(8, ge=1, le=256, title="Concurrency", description="Requests to the endpoint in flight.")
    requests_per_minute: int | None = Field(
        None, ge=1, title="Requests a minute", description="To the endpoint at most. Default: no limit."
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, title="Tokens a minute", description="To the endpoint at most. Default: no limit."
    )
    timeout_seconds: float = Field(60, gt=0, title="Timeout", description="Limit for one request to the endpoint.")

    @model_validator(mode="after")
    def _keys_fit_the_backend(self) -> Self:
        foreign = ("precision",) if self.is_remote else KEYS_OF_ENDPOINTS
        given = [key for key in foreign if getattr(self, key) != type(self).model_fields[key].default]
        if given:
            reason = "what runs at the endpoint decides that" if self.is_remote else 'only backend = "openai" has one'
            raise ValueError(f"{' and '.join(given)}: not for backend = {self.backend!r} ({reason}); remove it")
        if self.is_remote and "model" not in self.model_fields_set:
            raise ValueError('model: backend = "openai" needs the name that the model has at the endpoint')
        if self.is_remote and self.tokenizer_name is None:
            raise ValueError(
                "tokenizer: give that of the endpoint's model, to measure nodes with: its hub name, or a folder with"
                " its tokenizer.json"
            )
        return self

    @property
    def is_remote(self) -> bool:
        """Whether the model runs behind an endpoint."""
        return self.backend == "openai"

    @property
    def tokenizer_name(self) -> str | None:
        """What texts for an endpoint are measured with; None where nobody can know."""
        return self.tokenizer or (OPENAI_TOKENIZER if is_openai(self.base_url) else None)

    @property
    def secret(self) -> SecretPlace:
        """Where the endpoint's key may stand."""
        return _key_place(self.base_url, EMBEDDER_KEY, self.api_key_block, "embedder.api_key_block")


class MilvusSettings(Section):
    """Where the index lives. The token is a secret: NIGHTLOOM_MILVUS_TOKEN, or the Secret block named here."""

    uri: str = Field(
        "data/nightloom.db",
        title="Address",
        description="A Milvus Lite file (*.db), or http(s)://host:19530; without a port, https means 443.",
    )
    database: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)] | None = Field(
        None,
        title="Database",
        description="Of the server, which must have it; a path at the end of the address means the same. Default: its"
        " own default.",
    )
    token_block: str | None = Field(
        None, title="Token block", description="Name of the Prefect Secret block that holds the token."
    )
    ca_file: Path | None = Field(
        None,
        title="Authority",
        description="PEM file of the authority that signed the certificate of https://. Default: those known to all.",
    )
    metric: Literal["COSINE", "IP", "L2"] = Field("COSINE", title="Metric", description="How vectors are compared.")
    transfer: Literal["auto", "columns", "rows"] = Field(
        "auto",
        title="Transfer",
        description="How rows are read and written. columns: by parts of pymilvus that are not public, which is faster."
        " rows: by its public functions alone. auto: columns, or rows where this pymilvus has moved those parts.",
    )
    timeout_seconds: float = Field(60, gt=0, title="Timeout", description="Limit in seconds for one request.")

    @model_validator(mode="before")
    @classmethod
    def _database_of_path(cls, given: Any) -> Any:
        """Take a database out of the address, where pymilvus looks for one, too: it has one place from here on."""
        uri = given.get("uri") if isinstance(given, dict) else None
        if not (isinstance(uri, str) and uri.startswith(("http://", "https://"))):
            return given
        parts = urlsplit(uri)
        path = parts.path.strip("/")
        database = given.get("database")
        if path and database is not None and database != path:
            raise ValueError(f'uri names the database {path!r}, and database = "{database}"; keep one of them')
        whole = urlunsplit((parts.scheme, parts.netloc, "", parts.query, parts.fragment))
        return {**given, "uri": whole, "database": path or database}

    @field_validator("uri")
    @classmethod
    def _known_kind(cls, uri: str) -> str:
        if uri.startswith(("http://", "https://")):
            if "@" in uri:
                raise ValueError("put no credentials into the address: set NIGHTLOOM_MILVUS_TOKEN instead")
            return uri
        if "://" in uri or not uri.endswith(".db"):
            # Not repeated: it may hold a password.
            raise ValueError("this is neither a file that ends in .db nor an http:// or https:// address")
        return uri

    @model_validator(mode="after")
    def _only_servers_have_databases(self) -> Self:
        if self.file and self.database:
            raise ValueError("database is for servers, not for a Milvus Lite file; remove it")
        return self

    @property
    def secret(self) -> SecretPlace:
        """Where the token may stand: "user:password", or an API key."""
        return SecretPlace((MILVUS_TOKEN,), self.token_block, "milvus.token_block")

    @property
    def file(self) -> Path | None:
        """The file of a Milvus Lite, which one process at a time has open; None for a server."""
        return None if self.uri.startswith("http") else Path(self.uri)

    @property
    def place(self) -> str:
        """Where the index is, in messages: the address, and the database where one is named."""
        return f"{self.uri}/{self.database}" if self.database else self.uri


class IndexSettings(Section):
    """How the index is brought up to date, and how far back it can be taken."""

    update: Literal["generation", "in_place"] = Field(
        "generation",
        title="Update",
        description="generation: built beside what readers see, then switched. in_place: written where readers read.",
    )
    keep: int = Field(2, ge=0, title="Keep", description="Earlier generations that stay for a rollback.")
    type: Literal[
        "auto", "FLAT", "HNSW", "HNSW_SQ", "HNSW_PQ", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN", "DISKANN", "AUTOINDEX"
    ] = Field(
        "auto",
        title="Type",
        description="Of the index over the vectors, as Milvus names it. auto: FLAT for few rows, HNSW for many.",
    )
    build: dict[str, Parameter] = Field(
        default_factory=dict, title="Build parameters", description="Of that type, such as M for HNSW."
    )
    search: dict[str, Parameter] = Field(
        default_factory=dict, title="Search parameters", description="Of that type, such as ef for HNSW."
    )


class RetrievalSettings(Section):
    """How questions find nodes: what `ask`, the golden queries and the gate all do."""

    mode: Literal["dense", "hybrid"] = Field(
        "dense",
        title="Mode",
        description="dense: by embedding. hybrid: by embedding and by keywords (BM25), fused by rank.",
    )
    language: str = Field(
        "english",
        title="Language",
        description='Of the texts, whose words are stemmed and whose stop words left out of the keywords; "none".',
    )
    top_k: int = Field(5, ge=1, le=1000, title="Passages", description="That `ask` shows, at most.")
    filter: dict[str, FilterValue] = Field(
        default_factory=dict,
        title="Filter",
        description="Metadata that the passages of `ask` must have: a value, or a list of values, by key.",
    )
    reranker: str | None = Field(
        None,
        min_length=1,
        title="Reranker",
        description='A cross-encoder that orders the best candidates anew: a hub name, a folder, or "package:NAME".',
    )
    rerank_candidates: int = Field(
        50, ge=1, le=1000, title="Candidates", description="Nodes of a question that the reranker reads."
    )


class EvaluationSettings(Section):
    """Golden queries: what the index must find."""

    queries: Path | None = Field(
        None, title="Queries", description='JSONL in BEIR layout ({"_id", "text"} a line), TSV, or TREC topics.'
    )
    qrels: Path | None = Field(
        None,
        title="Judgements",
        description="TSV: query-id, corpus-id, score; or TREC qrels. corpus-id is a document's URI or its id in its"
        " source.",
    )
    folder: Path | None = Field(
        None,
        title="BEIR folder",
        description="Has queries.jsonl and qrels/SPLIT.tsv, for those of queries and qrels that are not given.",
    )
    split: str = Field(
        "test", pattern=r"^[^/\\\x00-\x1f]+$", title="Split", description="Which qrels of a BEIR folder."
    )
    metrics: tuple[str, ...] = Field(
        ("nDCG@10", "R@10", "RR@10"), min_length=1, title="Metrics", description="As ir-measures names them."
    )
    concurrency: int = Field(16, ge=1, le=256, title="Concurrency", description="Queries in flight.")

    @model_validator(mode="after")
    def _has_both_files(self) -> Self:
        missing = " and ".join(key for key in ("queries", "qrels") if getattr(self, key) is None)
        if missing and self.folder is None:
            raise ValueError(f"give queries and qrels, or the folder of a BEIR collection; {missing} is missing")
        if self.folder is None and "split" in self.model_fields_set:
            raise ValueError("split is for folder; remove it, or give folder")
        return self

    @property
    def queries_file(self) -> Path:
        """The file that holds the queries."""
        return self.queries or (self.folder or Path()) / "queries.jsonl"

    @property
    def qrels_file(self) -> Path:
        """The file that holds the judgements."""
        return self.qrels or (self.folder or Path()) / "qrels" / f"{self.split}.tsv"


class AnswersSettings(Section):
    """The model that answers questions, behind any endpoint that speaks OpenAI's protocol.

    Its key is a secret: NIGHTLOOM_ANSWERS_KEY, or the Secret block named here.
    """

    model: str = Field(min_length=1, title="Model", description="As the endpoint calls it.")
    base_url: Annotated[str, _address_without(ANSWERS_KEY)] = Field(
        OPENAI_URL, title="Address", description="Of the endpoint, up to what stands before /chat/completions."
    )
    api_key_block: str | None = Field(
        None, title="Key block", description="Name of the Prefect Secret block that holds the key."
    )
    max_cost_usd: float | None = Field(
        None, ge=0, title="Cost at most", description="In US dollars, for one night or one question. Default: no limit."
    )
    usd_per_million_input_tokens: float | None = Field(
        None, ge=0, title="Price of input", description="Default: the published price, where the model is known."
    )
    usd_per_million_output_tokens: float | None = Field(
        None, ge=0, title="Price of output", description="Likewise; give both or none."
    )
    concurrency: int = Field(4, ge=1, le=64, title="Concurrency", description="Requests in flight.")
    requests_per_minute: int | None = Field(
        None, ge=1, title="Requests a minute", description="At most, evenly spaced. Default: no limit."
    )
    timeout_seconds: float = Field(
        120, gt=0, title="Timeout", description="Limit for one request; of an answer that is streamed, for a silence."
    )
    max_seconds: float = Field(
        1800, gt=0, le=14_400, title="Time a night", description="After so long, a night asks no more of the model."
    )
    max_tokens: int = Field(1024, ge=16, title="Tokens an answer", description="At most, thinking included.")
    context_tokens: int = Field(
        8192, ge=512, title="Context", description="Tokens that the model reads: passages that do not fit are left out."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.usd_per_million_input_tokens is None) != (self.usd_per_million_output_tokens is None):
            raise ValueError("give usd_per_million_input_tokens and usd_per_million_output_tokens together")
        if self.max_tokens * 2 > self.context_tokens:
            raise ValueError(
                f"max_tokens = {self.max_tokens} is more than half of context_tokens = {self.context_tokens}; lower it"
            )
        return self

    @property
    def secret(self) -> SecretPlace:
        """Where the endpoint's key may stand."""
        return _key_place(self.base_url, ANSWERS_KEY, self.api_key_block, "answers.api_key_block")


class GateSettings(Section):
    """What stops a night before readers see it."""

    max_removed: float = Field(
        0.2,
        ge=0,
        le=1,
        title="Removed at most",
        description="Share of the live documents that may be gone in one night; up to 10 documents always may.",
    )
    max_quarantined: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Quarantined at most",
        description="Share of the listed documents that may be quarantined; up to 10 documents always may.",
    )
    max_set_aside: float = Field(
        0.2,
        ge=0,
        le=1,
        title="Set aside at most",
        description="Share of the judged queries that may be set aside, as none of their relevant documents is in the"
        " corpus any more; one of several always may.",
    )
    floor: float | dict[str, float] = Field(
        default_factory=dict,
        title="Floor",
        description="What each metric must reach at least: one number for all, or a table by metric.",
    )
    tolerance: float | dict[str, float] = Field(
        DEFAULT_TOLERANCE,
        title="Tolerance",
        description="How far a metric may fall below the live generation's, on the same queries: one number for all,"
        " or a table by metric (0.02 for those that it does not name).",
    )
    probes: int = Field(
        50, ge=0, le=1000, title="Probes", description="Passages of the corpus that must find their documents."
    )
    probe_recall: float = Field(
        0.9,
        ge=0,
        le=1,
        title="Recall of probes",
        description="Share of the probes that must find their document; what may miss is rounded up, to half at most.",
    )

    def floors(self, metrics: Iterable[str]) -> dict[str, float]:
        """The floor of each of these metrics that has one."""
        if isinstance(self.floor, dict):
            return {metric: self.floor[metric] for metric in metrics if metric in self.floor}
        return dict.fromkeys(metrics, self.floor)

    def tolerances(self, metrics: Iterable[str]) -> dict[str, float]:
        """The tolerance of each of these metrics."""
        if isinstance(self.tolerance, dict):
            return {metric: self.tolerance.get(metric, DEFAULT_TOLERANCE) for metric in metrics}
        return dict.fromkeys(metrics, self.tolerance)


class ShardSettings(Section):
    """The unit of work, memory and retry: some whole documents."""

    documents: int = Field(512, ge=1, title="Documents", description="At most, in one shard.")
    size_bytes: int = Field(
        512_000, ge=1, title="Size", description="Of the documents of a shard, at most; a larger one goes alone."
    )
    in_flight: int = Field(3, ge=1, le=64, title="In flight", description="Shards that are worked on at once.")


class RetrySettings(Section):
    """How long a step is tried again while something does not answer."""

    minutes: float = Field(
        10, ge=0, le=45, title="Minutes", description="Pauses between the attempts of one step, in all; 0 for none."
    )


class Corpus(Section):
    """One corpus: where it comes from, how it is indexed, how the index is judged."""

    format: int = Field(FORMAT, title="Format", description="Of the corpus file; 1 is the only one so far.")
    name: Alias = Field(title="Name", description="The alias that readers use in Milvus.")
    sources: tuple[SourceSettings, ...] = Field(min_length=1, title="Sources", description="Where documents come from.")
    reading: ReadingSettings = Field(default_factory=ReadingSettings, title="Reading")
    splitting: SplittingSettings = Field(default_factory=SplittingSettings, title="Splitting")
    embedder: EmbedderSettings = Field(default_factory=EmbedderSettings, title="Embedder")
    milvus: MilvusSettings = Field(default_factory=MilvusSettings, title="Milvus")
    index: IndexSettings = Field(default_factory=IndexSettings, title="Index")
    retrieval: RetrievalSettings = Field(default_factory=RetrievalSettings, title="Retrieval")
    evaluation: EvaluationSettings | None = Field(None, title="Evaluation")
    answers: AnswersSettings | None = Field(None, title="Answers")
    gate: GateSettings = Field(default_factory=GateSettings, title="Gate")
    shards: ShardSettings = Field(default_factory=ShardSettings, title="Shards")
    retry: RetrySettings = Field(default_factory=RetrySettings, title="Retry")
    reports: Path = Field(Path("reports"), title="Reports", description="Folder for the run reports.")
    reports_keep_days: int = Field(
        90, ge=0, title="Days to keep reports", description="Older ones are deleted after each night; 0 keeps all."
    )

    @model_validator(mode="after")
    def _gate_knows_its_metrics(self) -> Self:
        metrics = self.evaluation.metrics if self.evaluation else ()
        for key in ("floor", "tolerance"):
            value = getattr(self.gate, key)
            for metric in value if isinstance(value, dict) else ():
                if metric not in metrics:
                    known = f"there are {', '.join(metrics)}" if metrics else "there is no [evaluation]"
                    raise ValueError(f"gate.{key}: {metric!r} is none of evaluation.metrics; {known}")
        return self
