"""The gate's arithmetic: paired differences, probes, samples of rows, and what each check says."""

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightloom.comparison import Difference, compare, compare_means, losers
from nightloom.corpus import GateSettings
from nightloom.documents import DocumentRef
from nightloom.evaluation import Judged, Scores
from nightloom.gate import (
    below_floor,
    lost_probes,
    lost_text,
    may_miss,
    too_many_set_aside,
    worse_than_live,
    wrong_vectors,
)
from nightloom.golden import GoldenQueries
from nightloom.probes import (
    DEPTH,
    Probe,
    ProbeScores,
    check_vectors,
    depth_for,
    draw,
    duplicate_rate,
    holds,
    lacks,
    passage_of,
)
from nightloom.report import shortened
from nightloom.versions import Versions

UNITS = np.eye(4, dtype=np.float32)
SCORE = st.floats(0, 1)


def scores(values: Mapping[str, float], rankings: Mapping[str, list[str]] | None = None) -> Scores:
    """Of one metric, by query."""
    found = {query: [(uri, 1.0) for uri in uris] for query, uris in (rankings or {}).items()}
    mean = sum(values.values()) / len(values) if values else 0.0
    return Scores({"m": mean}, {query: {"m": value} for query, value in values.items()}, found, ())


# --- comparison


@given(st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=40))
def test_the_difference_is_of_the_same_queries_and_lies_in_its_interval(pairs: list[tuple[float, float]]) -> None:
    now = scores({f"q{at}": value for at, (value, _) in enumerate(pairs)} | {"only now": 1.0})
    before = scores({f"q{at}": value for at, (_, value) in enumerate(pairs)} | {"only before": 0.0})
    (found,) = compare(now, before)
    assert found.candidate == pytest.approx(np.mean([value for value, _ in pairs]))
    assert found.live == pytest.approx(np.mean([value for _, value in pairs]))
    every = [value - old for value, old in pairs]
    assert min(every) - 1e-9 <= found.low <= found.high <= max(every) + 1e-9
    assert compare(now, before) == [found], "the same scores give the same interval"


def test_the_interval_covers_what_chance_would_do() -> None:
    chance = np.random.default_rng(3)
    inside = 0
    for _ in range(100):
        values = chance.normal(0.1, 0.3, 60)
        (found,) = compare(
            scores({str(at): float(value) for at, value in enumerate(values)}),
            scores(dict.fromkeys(map(str, range(60)), 0)),
        )
        inside += found.low <= 0.1 <= found.high
    assert 85 <= inside <= 100


def test_without_a_common_query_nothing_differs() -> None:
    assert compare(scores({"a": 1}), scores({"b": 0})) == [Difference("m", 0, 0, 0, 0)]


def test_means_that_were_kept_are_compared_where_nothing_else_is_left() -> None:
    assert compare_means(scores({"a": 0.5}), {"m": 0.75, "other": 1}) == [
        Difference("m", 0.5, 0.75, -0.25, -0.25, paired=False)
    ]
    assert compare_means(scores({"a": 0.5}), {"other": 1}) == []


def test_queries_that_got_worse_are_named_worst_first_with_what_they_found() -> None:
    now = scores({"a": 0.5, "b": 0.0, "c": 1.0, "new": 0.0}, {"b": ["y", "x"]})
    before = scores({"a": 0.75, "b": 1.0, "c": 0.5, "old": 1.0}, {"b": ["x", "y", "z", "w"]})
    worst, other = losers(now, before, "m")
    assert (worst.query, worst.before, worst.now) == ("b", 1.0, 0.0)
    assert (worst.found_before, worst.found_now) == (("x", "y", "z"), ("y", "x"))
    assert other.query == "a"


# --- probes


def ref(uri: str, source: str) -> DocumentRef:
    return DocumentRef(uri, uri, source, "", None, 0)


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 200), min_size=1), st.integers(1, 60))
def test_every_source_has_its_share_of_the_sample(sizes: dict[str, int], count: int) -> None:
    documents = [ref(f"{source}/{at}", source) for source, size in sizes.items() for at in range(size)]
    drawn = draw(documents, count, "a night")
    assert len({one.uri for one in drawn}) == len(drawn)
    for source, size in sizes.items():
        share = count * size / sum(sizes.values())
        got = sum(one.source == source for one in drawn)
        assert min(size, max(1, int(share))) <= got <= max(1, share + 1)
    assert draw(documents, count, "a night") == drawn
    assert draw(documents, 0, "a night") == []


def test_another_night_draws_others() -> None:
    documents = [ref(str(at), "s") for at in range(1_000)]
    assert draw(documents, 20, "one") != draw(documents, 20, "two")


def test_in_a_small_corpus_a_probe_must_find_its_document_sooner() -> None:
    assert [depth_for(count) for count in (1, 5, 9, 29, 30, 10**6)] == [1, 1, 3, 9, DEPTH, DEPTH]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Short. Also short! 1234567890 1234567890 1234567890 1234567890 1234567890.", {""}),
        (
            "Tides of the sea follow the moon\nround the earth all night. A knight jumps in the shape of a large L.",
            {"Tides of the sea follow the moon round the earth all night. A knight jumps in the shape of a large L."},
        ),
        ("这是一个足够长的句子" * 5 + "。 " + "很短。", {"这是一个足够长的句子" * 5 + "。 很短。"}),
        (f"1234. {'a' * 299}.\n\n{'b' * 299}.", {f"{'a' * 299}.", f"{'b' * 299}."}),
        (f"{'a' * 299}. 12 34. {'b' * 99}.", {f"{'a' * 299}.", f"{'a' * 191}. 12 34. {'b' * 99}."}),
        ("", {""}),
    ],
)
def test_a_passage_says_something(text: str, expected: set[str]) -> None:
    found = {passage_of(text, random.Random(seed)) for seed in range(30)}
    assert found == expected
    assert all(holds(text, passage) for passage in found)


def test_a_text_without_an_end_gives_a_passage_that_it_holds() -> None:
    text = "word " * 5_000
    passage = passage_of(text, random.Random(0))
    assert 0 < len(passage) <= 300
    assert holds(text, passage)
    assert not holds("another text", passage)


def test_recall_is_the_share_that_was_found() -> None:
    missed = Probe("s", "d", "uri of it")
    assert ProbeScores(10, 10, (missed,)).recall == pytest.approx(0.9)
    assert ProbeScores(0, 10, ()).recall == 1
    settings = GateSettings(probe_recall=0.9)
    assert [*lost_probes(ProbeScores(10, 10, (missed,)), settings)] == []
    (says,) = lost_probes(ProbeScores(10, 10, (missed,) * 2), settings)
    assert "2 of 10 probes" in says
    assert "recall 0.80, and gate.probe_recall = 0.9" in says
    assert "uri of it" in says


@pytest.mark.parametrize(
    ("asked", "recall", "allowed"),
    [
        (1, 0.9, 0),
        (2, 0.9, 1),
        (7, 0.9, 1),
        (10, 0.9, 1),
        (11, 0.9, 2),
        (50, 0.9, 5),
        (50, 1, 0),
        (10, 0, 10),
    ],
)
def test_what_may_miss_is_rounded_up_to_half_at_most(asked: int, recall: float, allowed: int) -> None:
    assert may_miss(asked, recall) == allowed
    settings, missed = GateSettings(probe_recall=recall), Probe("s", "d", "u")
    assert [*lost_probes(ProbeScores(asked, 10, (missed,) * allowed), settings)] == []
    if allowed < asked:
        assert [*lost_probes(ProbeScores(asked, 10, (missed,) * (allowed + 1)), settings)] != []


def test_text_that_is_lost_is_named_and_what_ends_within_a_word_is_not() -> None:
    sentence = "The tides of the sea follow the moon round the earth all night."
    assert not lacks(f"before {sentence} after", sentence)
    assert not lacks("The tides of the sea fol low the moon round the earth all night.", sentence)
    assert lacks("The tides of the sea follow", sentence)
    assert lacks("", sentence)
    lost = Probe(sentence, "d", "uri of it", seen=True)
    settings = GateSettings(probe_recall=0.9)
    assert [*lost_text(ProbeScores(10, 10, (), 0, ()), settings)] == []
    assert [*lost_text(ProbeScores(20, 10, (), 10, (lost,)), settings)] == []
    (says,) = lost_text(ProbeScores(20, 10, (), 10, (lost,) * 2), settings)
    assert says.startswith("2 of 10 sentences that readers see today are not in tonight's text")
    assert says.endswith("uri of it")


@pytest.mark.parametrize(
    ("aside", "of", "before", "share", "held"),
    [
        (17, 20, 0, 0.2, True),
        (17, 20, 17, 0.2, False),
        (18, 20, 17, 0.2, True),
        (4, 20, 0, 0.2, False),
        (5, 20, 0, 0.2, True),
        (1, 3, 0, 0.2, False),
        (2, 3, 0, 0.2, True),
        (1, 1, 0, 0.2, True),
        (3, 3, 0, 1, False),
    ],
)
def test_scores_of_too_few_queries_are_held(aside: int, of: int, before: int, share: float, held: bool) -> None:
    keys = [f"q{at}" for at in range(of)]
    golden = GoldenQueries({key: f"What of {key}?" for key in keys}, 0, (), (), "", Path("qrels"))
    says = [
        *too_many_set_aside(
            Judged(golden, (), tuple(keys[:aside]), {}), keys[:before], GateSettings(max_set_aside=share)
        )
    ]
    assert bool(says) == held
    assert all(f"{aside} of {of} judged queries" in one and "What of q0?" in one for one in says)


def test_what_is_too_long_is_cut_between_words() -> None:
    assert shortened("held: nDCG@10 is below its floor", 24) == "held: nDCG@10 is ..."
    assert shortened("held: nDCG@10 is below", 24) == "held: nDCG@10 is below"


# --- rows


def test_a_healthy_sample_has_nothing_to_say() -> None:
    checks = check_vectors(4, list("abcd"), UNITS)
    assert (checks.sampled, checks.absent, checks.unusable, checks.not_unit) == (4, 0, 0, 0)
    assert checks.alike == pytest.approx(0)
    assert [*wrong_vectors(checks)] == []


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        (UNITS * [[1], [0], [1], [0]], "2 of 4 rows that were looked at have a vector that is zero or not finite"),
        (UNITS * [[1], [np.nan], [1], [1]], "1 of 4 rows that were looked at have a vector that is zero or not finite"),
        (UNITS * [[1], [1.2], [1], [0.5]], "2 of 4 rows that were looked at have a vector that is not of unit length"),
        (np.full((4, 4), 0.5), "one and the same (mean similarity 1.00000)"),
        (UNITS[:3], "1 of 4 rows that were looked at are not there"),
    ],
)
def test_what_is_wrong_with_a_sample_is_said(vectors: np.ndarray, says: str) -> None:
    (found,) = wrong_vectors(check_vectors(4, list("abcd")[: len(vectors)], vectors.astype(np.float32)))
    assert says in found


def test_the_same_text_may_have_the_same_vector() -> None:
    assert check_vectors(3, ["a", "a", "a"], np.repeat(UNITS[:1], 3, axis=0)).alike == 0
    assert [*wrong_vectors(check_vectors(0, [], np.zeros((0,), dtype=np.float32)))] == []


def test_the_similarity_is_the_mean_over_all_pairs() -> None:
    vectors = np.random.default_rng(1).standard_normal((7, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [vectors[a] @ vectors[b] for a in range(7) for b in range(a)]
    assert check_vectors(7, list("abcdefg"), vectors.astype(np.float32)).alike == pytest.approx(
        np.mean(pairs), abs=1e-6
    )


def test_documents_that_repeat_another_are_a_share() -> None:
    assert duplicate_rate(Versions(dict(zip("1234", "abaa", strict=True)))) == 0.5
    assert duplicate_rate(Versions()) == 0


# --- scores


def test_floors_and_tolerances_are_one_number_or_a_table() -> None:
    assert GateSettings(floor=0.5).floors(["a", "b"]) == {"a": 0.5, "b": 0.5}
    assert GateSettings(floor={"a": 0.5}).floors(["a", "b"]) == {"a": 0.5}
    assert GateSettings().floors(["a"]) == {}
    assert GateSettings().tolerances(["a"]) == {"a": 0.02}
    assert GateSettings(tolerance={"b": 0.1}).tolerances(["a", "b"]) == {"a": 0.02, "b": 0.1}


def test_a_metric_below_its_floor_is_named() -> None:
    assert [*below_floor({"a": 0.5, "b": 0.1}, {"a": 0.5})] == []
    (says,) = below_floor({"a": 0.4999, "b": 0.1}, {"a": 0.5})
    assert says == "a is 0.4999, and gate.floor asks for 0.5 at least"


def test_a_metric_that_fell_too_far_is_named_with_its_interval_and_its_queries() -> None:
    now, before = scores({"a": 0.5, "b": 0.5}), scores({"a": 0.6, "b": 0.5})
    assert [*worse_than_live(compare(now, before), {"m": 0.0501}, losers(now, before, "m"), {})] == []
    (says,) = worse_than_live(compare(now, before), {"m": 0.04}, losers(now, before, "m"), {"a": "Why?" * 50})
    assert says.startswith("m is 0.5000, 0.0500 below the live generation's 0.5500 (95 % interval -0.1000 to +0.0000)")
    assert says.endswith('gate.tolerance allows 0.04; the questions that lost most: "..."')
    assert [*worse_than_live(compare(before, now), {"m": 0}, [], {})] == []
