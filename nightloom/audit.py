"""The audit: every row of a generation against its head, and the documents whose rows are not whole by name."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nightloom.documents import node_id
from nightloom.heads import Head, HeadTable
from nightloom.milvus import Connection
from nightloom.rows import ALL_ROWS, HEAD_FIELDS, HEADS, READ_ROWS, checked_id, head_of
from nightloom.versions import Chosen, Versions

NAMED_DOCUMENTS = 10
"""How many documents a message names before it only counts them."""

HEADS_AT_ONCE = 500
"""In a batch: with each comes all that LlamaIndex keeps of its node."""
HEADS_BATCHES = 200
"""From so many on, batches grow with the rows: for each of them Milvus goes through every row."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A document whose rows are not whole.

    Attributes:
        document: Its id.
        uri: "" where its head is missing, which would say.
        missing: Rows of the head's version that are not there; 1 where the head itself is missing.
        surplus: Rows of another version, beyond the total, or under a foreign key.
        duplicates: Physical copies beside the first of a row; only count(*) shows them.
    """

    document: str
    uri: str
    missing: int
    surplus: int
    duplicates: int

    def __str__(self) -> str:
        """As messages say it."""
        counts = (("missing", self.missing), ("surplus", self.surplus), ("duplicate", self.duplicates))
        says = ", ".join(f"{count} {what}" for what, count in counts if count)
        return f"{self.uri or self.document} ({says})"


@dataclass(frozen=True, slots=True)
class Audit:
    """What a generation holds.

    Attributes:
        rows: As count(*) gives them, physical duplicates included.
        heads: By document id.
        documents: Ids of all documents that have a row, with a head or without.
        findings: Documents whose rows are not whole, by URI.
    """

    rows: int
    heads: Mapping[str, Head]
    documents: frozenset[str]
    findings: tuple[Finding, ...]

    @property
    def damaged(self) -> frozenset[str]:
        """Ids of the documents whose rows are not whole."""
        return frozenset(finding.document for finding in self.findings)

    @property
    def sound(self) -> Mapping[str, Head]:
        """The heads of the documents whose rows are whole."""
        damaged = self.damaged
        if not damaged:
            return self.heads
        return {key: head for key, head in self.heads.items() if key not in damaged}


def read_heads(connection: Connection, collection: str, rows: int) -> HeadTable:
    """The head of every indexed document, by document id, as the last strong read left them; of so many rows in all."""
    heads = HeadTable()
    at_once = min(READ_ROWS, max(HEADS_AT_ONCE, rows // HEADS_BATCHES))
    for batch in connection.scan(collection, HEADS, HEAD_FIELDS, at_once):
        for row in batch:
            heads.add(head_of(row))
    return heads


def count_expected(connection: Connection, collection: str, expected: Mapping[str, str]) -> int | None:
    """Rows of the documents that a generation shall hold, as their heads count them; none of these stays in memory.

    Args:
        connection: To Milvus.
        collection: Physical name.
        expected: Version by document id.

    Returns:
        None where its heads are not exactly those of the expected documents in their versions.
    """
    rows, expected = 0, expected if isinstance(expected, Versions) else Versions(expected)
    seen = Chosen(expected)
    for batch in connection.scan(collection, HEADS, ("document_id", "version", "total")):
        keys = [row["document_id"] for row in batch]
        if [row["version"] for row in batch] != expected.among(keys):
            return None
        seen.add(keys)
        rows += sum(row["total"] for row in batch)
    return rows if next(seen.left, None) is None else None


def audit(connection: Connection, collection: str) -> Audit:
    """Look at every row of a generation, and at the physical duplicates that only count(*) shows.

    Memory grows with the documents, not with the rows.
    """
    rows = connection.count_now(collection)
    heads = read_heads(connection, collection, rows)
    last: str | None = None
    head: Head | None = None
    right: Counter[str] = Counter()
    every: Counter[str] = Counter()
    for batch in connection.scan(collection, ALL_ROWS, ("document_id", "version", "position", "total")):
        for row in batch:
            key, position = row["document_id"], row["position"]
            if key != last:  # rows come in order of their keys, document by document
                last, head = key, heads.get(key)
            every[key] += 1
            if (
                head is not None
                and row["id"] == node_id(key, position)
                and (row["version"], row["total"]) == (head.version, head.total)
                and position < head.total
            ):
                right[key] += 1
    duplicates = {}
    if rows != every.total():
        duplicates = _duplicates(connection, collection, sorted(every), every)
    findings = []
    for key in every:
        head = heads.get(key)
        missing = head.total - right[key] if head else 1
        surplus = every[key] - right[key]
        if missing or surplus or key in duplicates:
            findings.append(Finding(key, head.uri if head else "", missing, surplus, duplicates.get(key, 0)))
    return Audit(rows, heads, frozenset(every), tuple(sorted(findings, key=lambda one: (one.uri, one.document))))


def _duplicates(
    connection: Connection, collection: str, documents: Sequence[str], every: Mapping[str, int]
) -> dict[str, int]:
    """Copies beside the first, by document: ranges of ids whose count(*) is too high are halved."""
    if not documents:
        return {}
    first, last = checked_id(documents[0]), checked_id(documents[-1])
    counted = connection.count_now(collection, f'document_id >= "{first}" and document_id <= "{last}"')
    copies = counted - sum(every[key] for key in documents)
    if copies <= 0:
        return {}
    if len(documents) == 1:
        return {documents[0]: copies}
    half = len(documents) // 2
    return {
        **_duplicates(connection, collection, documents[:half], every),
        **_duplicates(connection, collection, documents[half:], every),
    }


def named(findings: Sequence[Finding], uri_of: Callable[[str], str] = str) -> str:
    """Documents in words, the first of many by name.

    Args:
        findings: At least one.
        uri_of: The URI of a document by its id, for those whose heads are missing; else their ids are named.
    """
    more = f" and {len(findings) - NAMED_DOCUMENTS} more" if len(findings) > NAMED_DOCUMENTS else ""
    first = [replace(one, uri=one.uri or uri_of(one.document)) for one in findings[:NAMED_DOCUMENTS]]
    return ", ".join(map(str, first)) + more
