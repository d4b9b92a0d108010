"""What a Milvus does, by its kind and version: the only place where these are compared; the rest asks by name.

Facts about versions come from Milvus's source; docs/milvus.md says how each is tested.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal["Milvus Lite", "Milvus", "Zilliz Cloud"]
VersionNumber = tuple[int, int, int]

ZILLIZ_HOSTS = ("zillizcloud.com", "zilliz.com.cn", "zilliz.com")
"""Domains of the addresses that Zilliz Cloud gives to its clusters."""
ZILLIZ_SAYS = "zilliz"
"""A word that stands in what a cluster of Zilliz Cloud answers when it is asked for its version."""
NEWEST: VersionNumber = (3, 0, 0)
"""Newest version that was looked at; a server whose version cannot be read is taken for one like it."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one Milvus does.

    Attributes:
        kind: One of the three kinds: a file, a server, or a cluster of Zilliz Cloud.
        version: The version that the server says it has; "" for Milvus Lite.
        takes_concurrent_writers: Whether one collection may be written to by several requests at once.
        strong_reads_wait: Whether a read under Strong consistency waits for the next tick of the server's clock, up to
            0.4 s; where it does, reading as of a known time is faster.
        gives_timestamps: Whether it tells its time (AllocTimestamp).
        gives_session_ts: Whether the first page of a scan comes with the moment at which it was read.
        has_bm25: Whether it makes sparse vectors of texts, which hybrid retrieval needs.
        only_autoindex: Whether every index over vectors is an AUTOINDEX, whatever is asked for.
        describes_from_cache: Whether properties of a collection may be those of a moment ago, until somebody changes
            them through the same proxy.
        switches_stick: Whether reads through an alias may go on coming from the collection that it named before.
        reads_need_flush: Whether searches are slow over rows that are not flushed, however few they are.
        picks_index_by_rows: Whether the type of the index over the vectors pays to depend on the number of rows.
        prepares_slowly: Whether a new collection takes seconds until it can be read.
        most_questions: Vectors that one search may ask about.
        most_hits: Rows that a search may give for each of them.
        collections_of_plans: Collections that a cluster takes, by the plan that it is of; empty for any number.
    """

    kind: Kind
    version: str = ""
    takes_concurrent_writers: bool = True
    strong_reads_wait: bool = True
    gives_timestamps: bool = True
    gives_session_ts: bool = False
    has_bm25: bool = False
    only_autoindex: bool = False
    describes_from_cache: bool = False
    switches_stick: bool = True
    reads_need_flush: bool = False
    picks_index_by_rows: bool = True
    prepares_slowly: bool = True
    most_questions: int = 16_384
    most_hits: int = 16_384
    collections_of_plans: Mapping[str, int] = field(default_factory=dict)

    @property
    def says(self) -> str:
        """Kind and version in words."""
        return self.version if self.kind in self.version else f"{self.kind} {self.version}".strip()

    @property
    def problems(self) -> list[str]:
        """What is known to be wrong with this version, in words; nothing for those that others keep running."""
        if self.kind != "Milvus":
            return []
        number = number_of(self.version)
        return [problem.says for problem in PROBLEMS if problem.first <= number <= problem.last]


LITE = Capabilities(
    "Milvus Lite",
    takes_concurrent_writers=False,
    strong_reads_wait=False,
    gives_timestamps=False,
    has_bm25=True,
    switches_stick=False,
    reads_need_flush=True,
    picks_index_by_rows=False,
    prepares_slowly=False,
)

OLDEST = Capabilities("Milvus")
"""A server before 2.5, such as 2.3.5."""

SINCE: tuple[tuple[VersionNumber, dict[str, Any]], ...] = (
    ((2, 5, 0), {"gives_session_ts": True, "has_bm25": True}),
    ((2, 5, 18), {"describes_from_cache": True}),
    ((2, 6, 0), {"strong_reads_wait": False}),
)
"""What servers do from a version on, oldest first."""

ZILLIZ: dict[str, Any] = {
    "kind": "Zilliz Cloud",
    "only_autoindex": True,
    "strong_reads_wait": True,
    "describes_from_cache": True,
    "most_questions": 10,
    "most_hits": 1_024,
    "collections_of_plans": {"Free": 5, "Serverless": 100},
}
"""What Zilliz Cloud does otherwise than the version of Milvus that it is compatible with: limits of its smallest plans
(docs.zilliz.com, Zilliz Cloud Limits), and where nobody outside can know, what is right either way."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is known to be wrong with the versions of one line.

    Attributes:
        first: Oldest version that has it.
        last: Newest version that has it, as far as is known.
        says: What goes wrong, where to read about it, and what to do.
    """

    first: VersionNumber
    last: VersionNumber
    says: str


LATER = 1_000_000
"""Number of a patch release that is later than any."""
_OPEN_PORT = "port 9091 answers without a password (CVE-2026-26190); keep it shut, and upgrade to {}"
_LOGIN = "whoever knows how gets in without a password (CVE-2025-64513); upgrade to {}"
_DELETES = "deleted rows can come back (milvus-io/milvus 45339); upgrade to {}"
PROBLEMS = (
    Problem(
        (0, 0, 0), (2, 4, LATER), "it is no longer maintained, and makes no keywords for hybrid retrieval; upgrade"
    ),
    Problem((0, 0, 0), (2, 4, 23), _LOGIN.format("2.5.27 or later")),
    Problem((2, 5, 0), (2, 5, 20), _LOGIN.format("2.5.27 or later")),
    Problem((2, 6, 0), (2, 6, 4), _LOGIN.format("2.6.16 or later")),
    Problem((0, 0, 0), (2, 5, 26), _OPEN_PORT.format("2.5.27 or later")),
    Problem((2, 6, 0), (2, 6, 9), _OPEN_PORT.format("2.6.16 or later")),
    Problem((2, 5, 0), (2, 5, 20), _DELETES.format("2.5.27 or later")),
    Problem((2, 6, 0), (2, 6, 4), _DELETES.format("2.6.16 or later")),
    Problem(
        (2, 5, 0),
        (2, 5, 2),
        "rows of before an upsert can stay beside the new ones (milvus-io/milvus 38947); upgrade to 2.5.27 or later",
    ),
    Problem(
        (2, 6, 0),
        (2, 6, LATER),
        "queries missed rows that count(*) counts, in one report that nobody has explained (milvus-io/milvus 52055);"
        " a night that meets it ends without a switch",
    ),
)
"""What is known to be wrong with versions; docs/milvus.md names the recommended ones."""


def number_of(version: str) -> VersionNumber:
    """The number in what a server says of its version: "v2.6.16", "2.5.27-gpu", "... (Compatible with Milvus 2.5)"."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else NEWEST


def of_server(uri: str, version: str) -> Capabilities:
    """What a server does.

    Args:
        uri: The server's address.
        version: The version that the server says it has.
    """
    number = number_of(version)
    found = OLDEST
    for since, facts in SINCE:
        if number >= since:
            found = replace(found, **facts)
    if is_zilliz(uri, version):
        found = replace(found, **ZILLIZ)
    return replace(found, version=version)


def is_zilliz(uri: str, version: str) -> bool:
    """Whether a server is one of Zilliz Cloud's, by its address or by what it says of its version."""
    if ZILLIZ_SAYS in version.lower():
        return True
    host = urlsplit(uri).hostname or ""
    return any(host == domain or host.endswith(f".{domain}") for domain in ZILLIZ_HOSTS)
