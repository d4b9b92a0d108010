"""The plan of a night: what is new, changed, as it was, done already, gone, or in quarantine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightloom.corpus import GateSettings, ShardSettings
from nightloom.documents import DocumentRef, Listing, Quarantined, document_id, version_of
from nightloom.errors import Held
from nightloom.gate import ALWAYS_ALLOWED, check_removals, too_many_quarantined
from nightloom.heads import Head
from nightloom.planning import Planned, became, deal_out, make_plan
from nightloom.progress import Progress
from nightloom.tables import DocumentsTable

TONIGHT = "f" * 64
NAMES = [f"docs/{letter}.txt" for letter in "abcdefgh"]
CONTENTS = st.sampled_from(["one", "two"])
FINGERPRINTS = st.sampled_from([TONIGHT, "e" * 64])


@dataclass(frozen=True)
class Known:
    """What is known of one document: tonight's listing, the live generation, and a half-built one."""

    listed: str | None
    quarantined: bool
    not_modified: bool
    live: tuple[str, str] | None
    built: str | None


KNOWN = st.builds(
    Known,
    listed=st.none() | CONTENTS,
    quarantined=st.booleans(),
    not_modified=st.booleans(),
    live=st.none() | st.tuples(CONTENTS, FINGERPRINTS),
    built=st.none() | CONTENTS,
)


def head(uri: str, version: str) -> Head:
    return Head(document_id(uri), version, 1, uri, uri)


def ref(uri: str, content: str | None, size_bytes: int = 1) -> DocumentRef:
    return DocumentRef(uri, uri, "docs", content, None, size_bytes)


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, KNOWN)))
def test_every_document_is_in_exactly_one_place(known: dict[str, Known]) -> None:
    live = {document_id(uri): head(uri, version_of(*one.live)) for uri, one in known.items() if one.live is not None}
    built = {
        document_id(uri): head(uri, version_of(one.built, TONIGHT))
        for uri, one in known.items()
        if one.built is not None
    }

    def has_validator(one: Known) -> bool:
        """A source is asked "changed since?" only for what is live with tonight's fingerprint."""
        return one.not_modified and one.live is not None and one.live[1] == TONIGHT

    documents = {
        uri: one.live[0] if has_validator(one) and one.live else one.listed
        for uri, one in known.items()
        if one.listed is not None and not one.quarantined
    }
    refs = tuple(ref(uri, None if has_validator(known[uri]) else content) for uri, content in documents.items())
    quarantined = tuple(
        Quarantined(uri, uri, "cannot be read")
        for uri, one in known.items()
        if one.listed is not None and one.quarantined
    )
    plan = make_plan(Listing(refs, quarantined), live, built, TONIGHT)

    places = [
        {planned.ref.id for planned in plan.work},
        set(plan.done),
        set(plan.unchanged),
        {entry.id for entry in plan.quarantined},
    ]
    everything = {document_id(uri) for uri, one in known.items() if one.listed is not None}
    assert sum(map(len, places)) == plan.listed == len(everything)
    assert set().union(*places) == everything
    assert {gone.document for gone in plan.removed} == live.keys() - everything

    right = {document_id(uri): version_of(content or "", TONIGHT) for uri, content in documents.items()}
    assert {planned.ref.id: planned.version for planned in plan.work} == {
        planned.ref.id: right[planned.ref.id] for planned in plan.work
    }
    for place, index in ((plan.done, built), (plan.unchanged, live)):
        assert all(place[key] is index[key] and place[key].version == right[key] for key in place)
    for planned in plan.work:
        for index in (built, live):
            assert planned.ref.id not in index or index[planned.ref.id].version != planned.version
    assert all(planned.ref.content is not None for planned in plan.work), "what is not modified needs no work"


def test_what_cannot_be_fetched_tonight_is_not_gone() -> None:
    live = {document_id("docs/a.txt"): head("docs/a.txt", "0" * 32)}
    plan = make_plan(Listing((), (Quarantined("docs/a.txt", "a.txt", "HTTP 503"),)), live, {}, TONIGHT)
    assert plan.removed == ()
    assert plan.listed == 1


def test_another_fingerprint_makes_all_of_them_work() -> None:
    refs = tuple(ref(uri, "one") for uri in NAMES)
    live = {one.id: head(one.uri, version_of("one", TONIGHT)) for one in refs}
    assert make_plan(Listing(refs), live, {}, TONIGHT).work == ()
    assert len(make_plan(Listing(refs), live, {}, "d" * 64).work) == len(refs)


@given(CONTENTS | st.text(st.characters(exclude_categories=["Cs"])), CONTENTS, FINGERPRINTS, FINGERPRINTS)
def test_a_version_is_content_and_fingerprint(one: str, other: str, mine: str, theirs: str) -> None:
    assert (version_of(one, mine) == version_of(other, theirs)) == ((one, mine) == (other, theirs))
    assert len(version_of(one, mine)) == 32


# --- shards


@given(sizes=st.lists(st.integers(0, 50), max_size=40), documents=st.integers(1, 6), size_bytes=st.integers(1, 60))
def test_every_document_is_dealt_once_in_order_within_the_limits(
    sizes: list[int], documents: int, size_bytes: int
) -> None:
    work = tuple(Planned(ref(f"docs/{at}", "one", size), "v") for at, size in enumerate(sizes))
    limits = ShardSettings(documents=documents, size_bytes=size_bytes)
    shards = deal_out(work, limits)
    assert tuple(planned for shard in shards for planned in shard.documents) == work
    assert [(shard.number, shard.count) for shard in shards] == [(at, len(shards)) for at in range(1, len(shards) + 1)]
    for shard in shards:
        assert 1 <= len(shard.documents) <= documents
        assert sum(planned.ref.size_bytes for planned in shard.documents) <= size_bytes or len(shard.documents) == 1
    for shard, following in pairwise(shards):
        first = following.documents[0].ref.size_bytes
        full = len(shard.documents) == documents
        assert full or sum(planned.ref.size_bytes for planned in shard.documents) + first > size_bytes, "room was left"


@pytest.mark.parametrize(
    ("limits", "size_bytes", "expected"),
    [
        (ShardSettings(documents=512, size_bytes=512_000), 100, [64, 128, 256, 512, 40]),
        (ShardSettings(documents=512, size_bytes=512_000), 4_000, [16, 32, 64, *[128] * 6, 120]),
        (ShardSettings(documents=100, size_bytes=512_000), 100, [16, 25, 50, *[100] * 9, 9]),
        (ShardSettings(documents=512, size_bytes=20_000), 4_000, [4, 4, 4, *[5] * 197, 3]),
    ],
)
def test_the_first_shards_are_small_so_that_the_embedder_begins_soon(
    limits: ShardSettings, size_bytes: int, expected: list[int]
) -> None:
    work = tuple(Planned(ref(f"docs/{at}", "one", size_bytes), "v") for at in range(1_000))
    assert [len(shard.documents) for shard in deal_out(work, limits)] == expected


def test_a_shard_has_a_short_name() -> None:
    work = tuple(Planned(ref(uri, "one"), "v") for uri in NAMES[:4])
    labels = [shard.label for shard in deal_out(work, ShardSettings(documents=3))]
    assert labels == ["shard 1/2: 3 documents", "shard 2/2: 1 document"]


# --- the gate on counts


def verdicts(share: float, of: int) -> Iterator[tuple[int, bool]]:
    allowed = max(ALWAYS_ALLOWED, int(share * of))
    yield from ((allowed, False), (allowed + 1, True))


@pytest.mark.parametrize(("share", "of"), [(0.2, 1000), (0.2, 20), (0, 1000), (1, 1000)])
def test_too_many_removed_holds_the_night(share: float, of: int) -> None:
    settings = GateSettings(max_removed=share)
    for count, held in verdicts(share, of):
        if not held:
            check_removals(count, of, settings)
            continue
        with pytest.raises(Held, match=f"^{count} of {of} live documents .* gate.max_removed"):
            check_removals(count, of, settings)


@pytest.mark.parametrize(("share", "of"), [(0.2, 1000), (0.2, 20), (0, 1000), (1, 1000)])
def test_too_many_quarantined_are_a_reason_to_hold(share: float, of: int) -> None:
    for count, held in verdicts(share, of):
        says = " ".join(too_many_quarantined(count, of, GateSettings(max_quarantined=share)))
        assert bool(re.match(f"{count} of {of} documents .* gate.max_quarantined", says)) == held


def test_what_tonights_documents_are_to_readers_is_counted_as_it_is_shown() -> None:
    now, before = version_of("one", TONIGHT), version_of("one", "e" * 64)
    live = {document_id(uri): head(uri, now) for uri in ("as it was", "broken", "built", "gone")}
    live[document_id("old")] = head("old", before)
    built = {document_id(uri): head(uri, now) for uri in ("built", "built and new")}
    listed = ["as it was", "broken", "built", "built and new", "new", "old", "refused"]
    plan = make_plan(Listing(tuple(ref(uri, "one") for uri in listed)), live, built, TONIGHT, [document_id("broken")])
    refused = {document_id("refused")}
    assert dict(became(plan, live, refused)) == {
        "broken": "changed",
        "built": "unchanged",
        "built and new": "added",
        "new": "added",
        "old": "changed",
    }
    table = DocumentsTable(plan, live, refused)
    assert [(row["what"], row["document"]) for row in table] == [
        ("removed", "gone"),
        ("changed", "broken"),
        ("changed", "old"),
        ("added", "built and new"),
        ("added", "new"),
    ]
    assert len(table) == 5


def test_every_moment_of_a_night_counts_for_its_stages_and_once() -> None:
    now = [0.0]
    progress = Progress(lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    wait(1)  # in no stage
    with progress.stage("load"):
        wait(2)
        with progress.stage("load"), progress.stage("embed"):  # another shard is loaded, a third one embedded
            wait(4)
        wait(1)
    wait(0.5)
    spent = progress.seconds
    assert {stage: value for stage, value in spent.items() if value} == {
        "load": 5.0,
        "embed": 2.0,
        "other": 1.5,
        "total": 8.5,
    }
    assert spent["total"] == progress.total_seconds
