"""Golden queries: what is read, what is refused, and the values that trec_eval would give."""

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from nightloom.corpus import EvaluationSettings
from nightloom.errors import EvaluationInputError
from nightloom.evaluation import Judged, judge, score
from nightloom.golden import GoldenQueries, load_golden
from nightloom.golden_files import Judgement
from nightloom.retrieval import BATCH, MOST_NODES, REQUEST_NODES, Question, Ranking, ask_all, rank_documents
from nightloom.trec import write_trec_run

METRICS = ("nDCG@10", "R@10", "RR@10")
HEADER = "query-id\tcorpus-id\tscore\n"
TWO_QUERIES = '{"_id": "1", "text": "one"}\n{"_id": "2", "text": "two"}\n'
NOWHERE = Question("?", np.zeros(3, dtype=np.float32))


def golden_of(
    folder: Path, qrels: str, queries: str = TWO_QUERIES, metrics: tuple[str, ...] = METRICS
) -> GoldenQueries:
    (folder / "queries.jsonl").write_bytes(queries.encode())
    (folder / "qrels.tsv").write_bytes(qrels.encode())
    return load_golden(
        EvaluationSettings(queries=folder / "queries.jsonl", qrels=folder / "qrels.tsv", metrics=metrics)
    )


def refusal(folder: Path, qrels: str, queries: str = TWO_QUERIES, metrics: tuple[str, ...] = METRICS) -> str:
    with pytest.raises(EvaluationInputError) as refused:
        golden_of(folder, qrels, queries, metrics)
    return str(refused.value)


def judged_of(qrels: Mapping[str, Mapping[str, int]], metrics: tuple[str, ...] = METRICS) -> Judged:
    """Judgements of documents that are all in the corpus."""
    lines = [(query, uri, value) for query, entries in qrels.items() for uri, value in entries.items()]
    golden = GoldenQueries(
        {query: query for query in qrels},
        0,
        tuple(Judgement(*line, number) for number, line in enumerate(lines, 1)),
        load_metrics(metrics),
        "",
        Path("qrels.tsv"),
    )
    return judge(golden, {(uri, uri) for _, uri, _ in lines}, gone_is_error=True)


def load_metrics(names: tuple[str, ...]) -> tuple[Any, ...]:
    from nightloom.golden import _parse_metric  # noqa: PLC0415  the only way to one metric without files

    return tuple(_parse_metric(name) for name in names)


def ranking(*uris: str) -> Ranking:
    return [(uri, 1.0 - rank / 100) for rank, uri in enumerate(uris)]


# --- values


def test_the_values_are_those_of_trec_eval() -> None:
    judged = judged_of({"graded": {"a": 3, "b": 2, "c": 1, "d": 0}, "late": {"z": 1}, "deep": {"z": 1, "y": 1}})
    found = score(
        judged,
        {
            "graded": ranking("b", "x", "a", "d"),
            "late": ranking("x1", "x2", "z"),
            "deep": ranking(*(f"x{number}" for number in range(10)), "z", "y"),
        },
    )
    gained = 2 / math.log2(2) + 0 / math.log2(3) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    expected = {
        "graded": {"nDCG@10": gained / ideal, "R@10": 2 / 3, "RR@10": 1.0},
        "late": {"nDCG@10": 1 / math.log2(4), "R@10": 1.0, "RR@10": 1 / 3},
        "deep": {"nDCG@10": 0.0, "R@10": 0.0, "RR@10": 0.0},
    }
    assert gained / ideal == pytest.approx(0.7350, abs=5e-5), "as computed by hand"
    for query, values in expected.items():
        assert dict(found.per_query[query]) == pytest.approx(values)
    for metric in METRICS:
        assert found.means[metric] == pytest.approx(sum(values[metric] for values in expected.values()) / 3)


def ndcg(judgements: Mapping[str, int], uris: list[str], cutoff: int) -> float:
    gained = sum(max(judgements.get(uri, 0), 0) / math.log2(rank + 1) for rank, uri in enumerate(uris[:cutoff], 1))
    best = sorted((value for value in judgements.values() if value > 0), reverse=True)[:cutoff]
    return gained / sum(value / math.log2(rank + 1) for rank, value in enumerate(best, 1))


@settings(max_examples=50)
@given(
    judgements=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), min_size=1).filter(
        lambda entries: any(value > 0 for value in entries.values())
    ),
    order=st.permutations("abcdefghijkl"),
    similarities=st.lists(st.floats(-1, 1, width=32), min_size=12, max_size=12),
)
def test_ndcg_is_of_the_order_whatever_the_similarities(
    judgements: dict[str, int], order: list[str], similarities: list[float]
) -> None:
    judged = judged_of({"q": judgements}, ("nDCG@5",))
    found = score(judged, {"q": list(zip(order, similarities, strict=True))})
    assert found.means["nDCG@5"] == pytest.approx(ndcg(judgements, order, 5), abs=1e-6)


def test_a_query_without_an_answer_scores_zero_and_is_not_dropped() -> None:
    judged = judged_of({"found": {"a": 1}, "missing": {"a": 1}, "empty": {"a": 1}})
    found = score(judged, {"found": ranking("a"), "empty": []})
    assert set(found.per_query) == {"found", "missing", "empty"}
    assert dict(found.per_query["missing"]) == dict(found.per_query["empty"]) == dict.fromkeys(METRICS, 0)
    assert dict(found.means) == pytest.approx(dict.fromkeys(METRICS, 1 / 3))
    nothing = score(judged, {})
    assert dict(nothing.means) == dict.fromkeys(METRICS, 0)


# --- judgements and documents


def test_a_document_is_named_by_uri_or_by_id_in_its_source(tmp_path: Path) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\tdocs/a.txt\t1\n2\tb.txt\t2\n")
    judged = judge(golden, [("docs/a.txt", "a.txt"), ("docs/b.txt", "b.txt")], gone_is_error=True)
    assert {(qrel.query_id, qrel.doc_id, qrel.relevance) for qrel in judged.qrels} == {
        ("1", "docs/a.txt", 1),
        ("2", "docs/b.txt", 2),
    }
    assert judged.set_aside == ()


def test_documents_that_are_not_in_the_corpus_are_named_with_their_lines(tmp_path: Path) -> None:
    golden = golden_of(tmp_path, HEADER + "1\ta\t1\n" + "".join(f"2\tgone{number}\t1\n" for number in range(7)))
    with pytest.raises(EvaluationInputError, match=re.escape(str(tmp_path / "qrels.tsv"))) as refused:
        judge(golden, [("a", "a")], gone_is_error=True)
    assert "line 3: 'gone0'" in str(refused.value)
    assert "and 2 more" in str(refused.value)


def test_queries_whose_documents_left_the_corpus_are_set_aside_and_not_in_the_mean(tmp_path: Path) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\ta\t1\n1\tgone\t1\n2\tgone\t1\n2\ta\t0\n")
    judged = judge(golden, [("a", "a")], gone_is_error=False)
    assert judged.set_aside == ("2",)
    found = score(judged, {"1": ranking("a")})
    assert found.set_aside == ("2",)
    assert set(found.per_query) == {"1"}
    assert found.means["R@10"] == 1, "a document that left is not one to be found"
    everything_gone = judge(golden, [("b", "b")], gone_is_error=False)
    assert everything_gone.set_aside == ("1", "2")
    assert dict(score(everything_gone, {}).means) == dict.fromkeys(METRICS, 0)


def test_an_id_in_two_sources_is_refused_with_both(tmp_path: Path) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\ta.txt\t1\n")
    with pytest.raises(EvaluationInputError, match=r"line 2: 'a\.txt' is an id in two sources") as refused:
        judge(golden, [("one/a.txt", "a.txt"), ("two/a.txt", "a.txt")], gone_is_error=True)
    assert "one/a.txt, two/a.txt" in str(refused.value)


@pytest.mark.parametrize(
    "items",
    [
        [("docs/a.txt", "a.txt"), ("a.txt", "a.txt")],
        [("a.txt", "a.txt"), ("docs/a.txt", "a.txt")],
    ],
    ids=["last", "first"],
)
def test_a_uri_is_never_ambiguous(tmp_path: Path, items: list[tuple[str, str]]) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\ta.txt\t1\n")
    assert [qrel.doc_id for qrel in judge(golden, items, gone_is_error=True).qrels] == ["a.txt"]


# --- the files


def test_the_files_are_read_as_beir_writes_them(tmp_path: Path) -> None:
    golden = golden_of(
        tmp_path,
        f"\ufeff{HEADER}1\tdocs/with space.txt\t2\n\n1\tb\t0\n".replace("\n", "\r\n"),
        '\ufeff{"_id": "1", "text": "one", "more": []}\r\n\r\n{"_id": 7, "text": "unjudged"}\r\n',
    )
    assert dict(golden.texts) == {"1": "one"}
    assert golden.unjudged == 1
    assert golden.judgements == (Judgement("1", "docs/with space.txt", 2, 2), Judgement("1", "b", 0, 4))
    assert golden.depth == 10


def test_cranfield_is_read(shared_data: Path) -> None:
    folder = shared_data / "cranfield"
    golden = load_golden(EvaluationSettings(queries=folder / "queries.jsonl", qrels=folder / "qrels" / "test.tsv"))
    assert (len(golden.texts), golden.unjudged, len(golden.judgements)) == (225, 0, 1612)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\u2029"])
def test_a_query_may_hold_a_line_separator(tmp_path: Path, separator: str) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\ta\t1\n", f'{{"_id": "1", "text": "a{separator}b"}}\n')
    assert golden.texts["1"] == f"a{separator}b"


def test_the_hash_follows_what_is_asked(tmp_path: Path) -> None:
    qrels = f"{HEADER}1\ta\t1\n"
    contents = {
        golden_of(tmp_path, qrels).content,
        golden_of(tmp_path, qrels.replace("a", "b")).content,
        golden_of(tmp_path, qrels, TWO_QUERIES.replace("two", "2")).content,
        golden_of(tmp_path, qrels, metrics=("R@10",)).content,
    }
    assert len(contents) == 4
    assert golden_of(tmp_path, qrels).content in contents


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("3\ta\t1", "line 3: query '3' is not in"),
        ("1 a 1", "line 3: not three columns"),
        ("1\t0\ta\t1", "line 3: the four columns of TREC, where the lines before have three columns"),
        ("1\ta\t2", "line 3: query '1' has another score for 'a' on line 2"),
        ("1\ta\t1.0", "line 3: not three columns"),
        ("1\ta\tyes", "line 3: not three columns"),
        ("1\ta\t--1", "line 3: not three columns"),
        ("1\ta\t²", "line 3: not three columns"),
    ],
)
def test_a_wrong_judgement_is_refused_by_line(tmp_path: Path, line: str, says: str) -> None:
    message = refusal(tmp_path, f"{HEADER}1\ta\t1\n{line}\n")
    assert str(tmp_path / "qrels.tsv") in message
    assert says in message


@pytest.mark.parametrize(
    ("queries", "says"),
    [
        (f"{TWO_QUERIES}not JSON\n", "line 3: not a query"),
        (f'{TWO_QUERIES}["3", "three"]\n', "line 3: not a query"),
        (f'{TWO_QUERIES}{{"_id": "3"}}\n', "line 3: not a query"),
        (f'{TWO_QUERIES}{{"_id": "3", "text": " "}}\n', "line 3: query '3' has no text"),
        (f'{TWO_QUERIES}{{"_id": "3", "text": 3}}\n', "line 3: query '3' has no text"),
        (f'{TWO_QUERIES}{{"_id": 1, "text": "again"}}\n', "line 3: query '1' is there twice"),
        ("\n", "holds no query"),
    ],
)
def test_a_wrong_query_is_refused_by_line(tmp_path: Path, queries: str, says: str) -> None:
    message = refusal(tmp_path, f"{HEADER}1\ta\t1\n", queries)
    assert str(tmp_path / "queries.jsonl") in message
    assert says in message


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert "holds no judgement" in refusal(tmp_path, HEADER)
    (tmp_path / "latin.tsv").write_bytes(b"1\tcaf\xe9\t1\n")
    for name, says in (("nowhere.tsv", "No such file"), ("latin.tsv", "not UTF-8")):
        with pytest.raises(EvaluationInputError, match=rf"{name}.*{says}"):
            load_golden(EvaluationSettings(queries=tmp_path / "queries.jsonl", qrels=tmp_path / name))


@pytest.mark.parametrize(
    "metric",
    [
        "nDGC@10",
        "nDCG@",
        "1+1",
        "",
        "print",
        "__import__('os').getcwd()",
        "nDCG@0",
        "nDCG@1.5",
        "R",
        "RBP",
        "alpha_nDCG@10",
        "NERR8(p=0.9)",
    ],
)
def test_a_metric_that_cannot_be_computed_is_refused_at_the_start(tmp_path: Path, metric: str) -> None:
    message = refusal(tmp_path, f"{HEADER}1\ta\t1\n", metrics=(metric,))
    assert "evaluation.metrics" in message
    assert repr(metric) in message


@pytest.mark.parametrize("metric", ["nDCG@10", "P(rel=2)@5", "AP(rel=2)@100", "Success@1", "MRR@10", "Judged@10"])
def test_metrics_of_ir_measures_are_computed(tmp_path: Path, metric: str) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\ta\t2\n", metrics=(metric,))
    found = score(judge(golden, [("a", "a")], gone_is_error=True), {"1": ranking("a")})
    assert len(found.means) == 1
    assert all(value > 0 for value in found.means.values())


# --- rankings


class Nodes:
    """An index of nodes, the same ones best first for every question, that remembers what it was asked."""

    def __init__(self, uris: list[str]) -> None:
        self.nodes = [(uri, 1.0 - at / 100_000) for at, uri in enumerate(uris)]
        self.limits: list[int] = []

    async def search(self, questions: Sequence[Question], limit: int) -> list[Ranking]:
        self.limits.append(limit)
        return [self.nodes[:limit] for _ in questions]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 60)), max_size=30), st.integers(1, 10))
def test_documents_are_ranked_by_their_best_node_until_there_are_enough(
    runs: list[tuple[str, int]], depth: int
) -> None:
    uris = [uri for uri, times in runs for _ in range(times)]
    nodes = Nodes(uris)
    (found,) = asyncio.run(rank_documents(nodes.search, [NOWHERE], depth))
    assert [uri for uri, _ in found] == list(dict.fromkeys(uris))[:depth]
    assert found == sorted(found, key=lambda entry: -entry[1])
    assert nodes.limits == sorted(nodes.limits)


async def test_one_document_of_many_nodes_does_not_hide_the_others() -> None:
    nodes = Nodes(["long"] * 3_000 + [f"short{number}" for number in range(20)])
    (found,) = await rank_documents(nodes.search, [NOWHERE], 10)
    assert [uri for uri, _ in found] == ["long", *(f"short{number}" for number in range(9))]
    endless = Nodes(["long"] * (MOST_NODES + 1) + ["short"])
    (found,) = await rank_documents(endless.search, [NOWHERE], 10)
    assert [uri for uri, _ in found] == ["long"]
    assert max(endless.limits) == MOST_NODES


async def test_only_the_questions_that_need_more_nodes_are_asked_again() -> None:
    asked: list[tuple[list[str], int]] = []

    async def search(questions: Sequence[Question], limit: int) -> list[Ranking]:
        asked.append(([question.text for question in questions], limit))
        nodes = {"wide": [f"d{number}" for number in range(500)], "narrow": ["long"] * 100 + ["short"]}
        return [[(uri, 1.0) for uri in nodes[question.text][:limit]] for question in questions]

    both = [Question(text, NOWHERE.vector) for text in ("wide", "narrow")]
    wide, narrow = await rank_documents(search, both, 10)
    assert (len(wide), [uri for uri, _ in narrow]) == (10, ["long", "short"])
    assert asked == [(["wide", "narrow"], 20), (["narrow"], 80), (["narrow"], 320)]


async def test_a_request_for_many_nodes_asks_fewer_questions() -> None:
    sizes: list[int] = []

    async def search(questions: Sequence[Question], limit: int) -> list[Ranking]:
        sizes.append(len(questions) * limit)
        return [[("endless", 1.0)] * limit for _ in questions]

    found = await rank_documents(search, [NOWHERE] * BATCH, 10)
    assert found == [[("endless", 1.0)]] * BATCH
    assert max(sizes) <= REQUEST_NODES < BATCH * MOST_NODES


async def test_every_question_is_asked_once_in_batches_a_few_at_once() -> None:
    running, most, sizes = 0, 0, []

    async def search(questions: Sequence[Question], _limit: int) -> list[Ranking]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        sizes.append(len(questions))
        await asyncio.sleep(0)
        running -= 1
        return [[(f"document {question.text}", 1.0)] for question in questions]

    questions = {f"q{number}": Question(str(number), NOWHERE.vector) for number in range(5 * BATCH - 5)}
    found = await ask_all(questions, search, 10, 4)
    assert found == {f"q{number}": [(f"document {number}", 1.0)] for number in range(5 * BATCH - 5)}
    assert most == 4
    assert (max(sizes), sum(sizes)) == (BATCH, 5 * BATCH - 5)


# --- TREC


def test_a_run_is_written_as_trec_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "deeper" / "run.txt"
    rankings: dict[str, list[tuple[str, float]]] = {
        "1": [("docs/a b.txt", 0.5), ("c", 0.25)],
        "2": [],
        "3": [("d", 1.0), ("c", 2.0)],
    }
    write_trec_run(file, rankings, {"c": "id of c"}, "nightloom")
    assert file.read_text(encoding="utf-8").splitlines() == [
        "1 Q0 docs/a%20b.txt 1 0.500000 nightloom",
        "1 Q0 id%20of%20c 2 0.250000 nightloom",
        "3 Q0 d 1 -1.000000 nightloom",
        "3 Q0 id%20of%20c 2 -2.000000 nightloom",
    ]


def test_no_document_goes_by_the_name_of_another_in_a_run(tmp_path: Path) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\ta.txt\t1\n")
    judged = judge(golden, [("docs/a.txt", "a.txt"), ("a.txt", "a.txt")], gone_is_error=True)
    assert len({judged.names.get(uri, uri) for uri in ("docs/a.txt", "a.txt")}) == 2


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@settings(phases=[Phase.explicit, Phase.generate])
@example({"query 1": ["a"]})
@example({"1": ["a b", "a  b"]})
@given(
    st.dictionaries(
        NAMES.filter(str.strip), st.lists(NAMES, min_size=1, max_size=4, unique=True), min_size=1, max_size=3
    )
)
def test_every_line_of_a_run_has_six_columns_and_documents_stay_apart(
    tmp_path_factory: pytest.TempPathFactory, rankings: dict[str, list[str]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "run.txt"
    write_trec_run(file, {query: ranking(*uris) for query, uris in rankings.items()}, {}, "nightloom")
    lines = [line.split() for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert {len(line) for line in lines} == {6}
    assert len({(line[0], line[2]) for line in lines}) == sum(map(len, rankings.values()))
