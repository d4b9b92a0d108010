"""What Milvus holds, asked with its own client, and whether that is the model, row for row."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from pymilvus import MilvusClient, MilvusException

from tests.torture.model import ModelRow, State, vector_of

MOST_ROWS = 16_384
NAMED = 5
SECONDS = 30
MOVING = "can not find client of node -1"


class TortureFailed(AssertionError):
    """The index is not what the model says, or readers saw what they must not see."""


@dataclass(frozen=True)
class Sight:
    """What readers see through an alias.

    Attributes:
        collections: Generations of the alias that exist.
        named: What describe_alias says; "" where there is no alias.
        count: count(*) under Strong.
        rows: All of them, by what a query gives; physical duplicates are not among them.
        asked: The text that was searched for.
        found: Id of the nearest row, if any.
        named_heads: Version by document id in the collection that the alias is said to name.
    """

    collections: tuple[str, ...]
    named: str
    named_heads: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    rows: tuple[Mapping[str, Any], ...] = ()
    asked: str = ""
    found: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """Where to look, and what to search for there."""

    uri: str
    alias: str
    text: str
    load: bool
    """Milvus Lite opens every collection unloaded; on a server, looking must not mend what a night has left."""
    named: str = ""
    """What describe_alias would say of an alias that is made to stick; "" to ask it."""


def look(question: Question) -> Sight:
    """Look through the alias; again while a busy server moves a channel from one place to the next, and says so."""
    client, deadline = MilvusClient(question.uri, timeout=SECONDS), time.monotonic() + SECONDS
    try:
        while True:
            try:
                return _look(client, question)
            except MilvusException as error:
                if MOVING not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
    finally:
        client.close()


def _look(client: MilvusClient, question: Question) -> Sight:
    alias = question.alias
    collections = tuple(sorted(name for name in client.list_collections() if name.startswith(f"{alias}_2")))
    if alias not in client.list_aliases()["aliases"]:
        return Sight(collections, "")
    named = question.named or str(client.describe_alias(alias)["collection_name"])
    if question.load:
        for name in {named, str(client.describe_alias(alias)["collection_name"])}:
            client.load_collection(name)
    counted = client.query(alias, output_fields=["count(*)"], consistency_level="Strong", timeout=SECONDS)
    rows = client.query(alias, filter="position >= 0", output_fields=["*"], limit=MOST_ROWS, timeout=SECONDS)
    (hits,) = client.search(alias, [vector_of(question.text).tolist()], limit=1, timeout=SECONDS)
    heads = client.query(
        named, filter="position == 0", output_fields=["document_id", "version"], limit=MOST_ROWS, timeout=SECONDS
    )
    return Sight(
        collections,
        named,
        {row["document_id"]: row["version"] for row in heads},
        int(counted[0]["count(*)"]),
        tuple(rows),
        question.text,
        tuple(hit["id"] for hit in hits),
    )


def send_look(question: Question, sender: Connection) -> None:
    """The work of a child that looks: a Milvus Lite file belongs to one process at a time."""
    sender.send("begun")
    sender.send(look(question))
    os._exit(0)  # Milvus Lite's threads would take seconds to end


def differences(sight: Sight, state: State) -> list[str]:
    """How what readers see differs from a state, in words; nothing where it is the state exactly."""
    found = {row["id"]: row for row in sight.rows}
    wrong = [f"missing {_named(state.rows[key])}" for key in sorted(state.rows.keys() - found.keys())]
    wrong += [f"surplus {_shown(found[key])}" for key in sorted(found.keys() - state.rows.keys())]
    for key in sorted(found.keys() & state.rows.keys()):
        wrong += _differs(found[key], state.rows[key])
    if sight.count != len(state.rows) or len(sight.rows) != len(found):
        wrong.append(
            f"count(*) is {sight.count}, a query gives {len(sight.rows)}, the model has {len(state.rows)} rows"
        )
    if sight.asked in state.sentences and [state.rows[key].text for key in sight.found if key in state.rows] != [
        sight.asked
    ]:
        wrong.append(f"a search for {sight.asked!r} finds {sight.found}")
    return wrong


def _differs(row: Mapping[str, Any], wanted: ModelRow) -> Iterable[str]:
    for name in ModelRow.__slots__:
        if row[name] != getattr(wanted, name):
            yield f"{_named(wanted)}: {name} is {row[name]!r}"
    if row["doc_id"] != wanted.document_id:
        yield f"{_named(wanted)}: doc_id is {row['doc_id']!r}"
    if not np.allclose(np.asarray(row["embedding"], dtype=np.float32), vector_of(wanted.text), atol=1e-6):
        yield f"{_named(wanted)}: the embedding is of another text"
    kept = json.loads(row["_node_content"])["metadata"]
    if kept["version"] != wanted.version or kept["uri"] != wanted.uri:
        yield f"{_named(wanted)}: what LlamaIndex keeps is of {kept['uri']!r} in version {kept['version']}"


def _named(row: ModelRow) -> str:
    return f"{row.id} ({row.uri!r}, node {row.position} of {row.total}, version {row.version})"


def _shown(row: Mapping[str, Any]) -> str:
    return f"{row['id']} ({row['uri']!r}, node {row['position']} of {row['total']}, version {row['version']})"


def first_few(words: list[str]) -> str:
    """The first of them, and how many more there are."""
    return "; ".join(words[:NAMED]) + (f"; and {len(words) - NAMED} more" if len(words) > NAMED else "")
