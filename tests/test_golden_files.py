"""Golden queries and rankings in files: every format that is read, and every mistake by its line."""

from pathlib import Path

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from nightloom.corpus import EvaluationSettings
from nightloom.errors import EvaluationInputError
from nightloom.evaluation import judge, score, score_run
from nightloom.golden import GoldenQueries, Reference, load_golden
from nightloom.golden_files import Judgement, Query, read_qrels, read_queries
from nightloom.retrieval import Ranking
from nightloom.trec import read_trec_run, write_trec_qrels, write_trec_run
from tests.builders import write_tree

QUERIES = '{"_id": "1", "text": "one"}\n{"_id": "2", "text": "two"}\n'
HEADER = "query-id\tcorpus-id\tscore\n"
TOPICS = """
<top>
<num> Number: 301
<title> International
 Organized   Crime

<desc> Description:
Identify organizations that participate in it.

<narr> Narrative:
A relevant document must <b>name</b> them.
</top>
<TOP>
<num>302</num>
<title>Topic: Poliomyelitis</title>
</TOP>
"""


def written(folder: Path, content: str, name: str = "file") -> Path:
    file = folder / name
    file.write_bytes(content.encode())
    return file


def golden_of(folder: Path, qrels: str, queries: str = QUERIES) -> GoldenQueries:
    write_tree(folder, {"queries.jsonl": queries, "qrels/test.tsv": qrels})
    return load_golden(EvaluationSettings(folder=folder, metrics=("nDCG@10", "R@10", "RR@10", "AP@100")))


# --- queries


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"_id": "1", "text": "what?", "answer": " that ", "source_text": "..."}\n', Query("1", "what?", "that")),
        ('{"_id": 1, "text": "what?", "answer": null}\n', Query("1", "what?")),
        ("\ufeff\n1\twhat is it?\r\n", Query("1", "what is it?")),
        ("q 1\t{what}\n", Query("q 1", "{what}")),
    ],
)
def test_queries_are_read_as_jsonl_and_as_tsv(tmp_path: Path, content: str, found: Query) -> None:
    assert read_queries(written(tmp_path, content)) == {found.key: found}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_topics_of_trec_are_queries(tmp_path: Path, line_end: str) -> None:
    file = written(tmp_path, TOPICS.replace("\n", line_end))
    assert read_queries(file) == {
        "301": Query("301", "International Organized Crime"),
        "302": Query("302", "Poliomyelitis"),
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1\tone\n2\ttwo\tmore\n", "line 2: not two columns"),
        ("1\tone\nno tab\n", "line 2: not two columns"),
        ("1\tone\n\ttwo\n", "line 2: not two columns"),
        ("1\tone\n2\t \n", "line 2: query '2' has no text"),
        ("1\tone\n1\tagain\n", "line 2: query '1' is there twice"),
        ("just text\n", "line 1: not a query"),
        (f'{QUERIES}{{"_id": "3", "text": "three", "answer": 3}}\n', "line 3: the answer of query '3' is no text"),
        ("<top>\n<num>1\n<title>one\n", "line 1: this topic has no </top>"),
        ("<top>\n<num>1\n<title>one\n</top>\nmore\n", "line 5: not in a topic"),
        ("<top>\n<num>1\n<top>\n", "line 3: not in a topic"),
        ("\n<top>\n<title>one\n</top>\n", "line 2: this topic has no <num>"),
        ("<top>\n<num>1\n</top>\n", "line 1: query '1' has no text"),
    ],
)
def test_a_mistake_in_queries_is_named_by_line(tmp_path: Path, content: str, says: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(EvaluationInputError) as refused:
        read_queries(file)
    assert str(refused.value).startswith(f"{file}: {says}")


def test_reference_answers_are_kept_whether_their_queries_are_judged_or_not(tmp_path: Path) -> None:
    queries = (
        '{"_id": "1", "text": "one", "answer": "1"}\n{"_id": "2", "text": "two"}\n'
        '{"_id": "3", "text": "three", "answer": "3"}\n'
    )
    found = golden_of(tmp_path, f"{HEADER}1\ta\t1\n2\ta\t1\n", queries).references
    assert found == {"1": Reference("one", "1"), "3": Reference("three", "3")}


# --- judgements


@pytest.mark.parametrize("separator", [" ", "\t", "   "])
def test_judgements_are_read_as_trec_writes_them(tmp_path: Path, separator: str) -> None:
    rows = [("1", "0", "docs/a.txt", "2"), ("1", "Q0", "b", "-1")]
    file = written(tmp_path, "".join(f"{separator.join(row)}\r\n" for row in rows))
    assert read_qrels(file) == (Judgement("1", "docs/a.txt", 2, 1), Judgement("1", "b", -1, 2))


def test_a_document_with_spaces_is_no_column_of_trec(tmp_path: Path) -> None:
    assert read_qrels(written(tmp_path, "1\ta b\t2\n")) == (Judgement("1", "a b", 2, 1),)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1 0 a 1\n1\tb\t1\n", "line 2: three columns with tabs between, where the lines before have the four columns"),
        (f"{HEADER}1 0 a 1\n", "line 2: the four columns of TREC, where the lines before have three columns"),
        ("1 0 a 1\nquery-id\tcorpus-id\tscore\n", "line 2: not three columns"),
        ("1 0 a 1.5\n", "line 1: not three columns"),
        ("1 0 a b 1\n", "line 1: not three columns"),
        ("1 0 a 1\n1 0 b 1\n1 0 a 0\n", "line 3: query '1' has another score for 'a' on line 1"),
    ],
)
def test_a_mistake_in_judgements_is_named_by_line(tmp_path: Path, content: str, says: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(EvaluationInputError) as refused:
        read_qrels(file)
    assert str(refused.value).startswith(f"{file}: {says}")


# --- folders


def test_a_beir_folder_is_read_by_split_and_its_documents_are_not_asked_for(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "queries.jsonl": QUERIES,
            "qrels/test.tsv": f"{HEADER}1\ta\t1\n",
            "qrels/dev.tsv": f"{HEADER}2\tb\t1\n",
            "mine.tsv": "1\tmy own\n",
        },
    )
    assert load_golden(EvaluationSettings(folder=tmp_path)).judgements == (Judgement("1", "a", 1, 2),)
    assert load_golden(EvaluationSettings(folder=tmp_path, split="dev")).judgements == (Judgement("2", "b", 1, 2),)
    mixed = load_golden(EvaluationSettings(folder=tmp_path, queries=tmp_path / "mine.tsv"))
    assert mixed.texts == {"1": "my own"}
    with pytest.raises(EvaluationInputError) as refused:
        load_golden(EvaluationSettings(folder=tmp_path, split="train"))
    assert str(refused.value).startswith(f"{tmp_path / 'qrels' / 'train.tsv'}: ")
    assert str(refused.value).endswith("evaluation.split = 'train', and the splits there are: dev, test")


# --- runs


def test_judgements_and_rankings_come_back_from_trec_files_with_the_same_scores(tmp_path: Path) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\ta b.txt\t2\n1\tc\t1\n2\tc\t1\n2\ta b.txt\t0\n")
    judged = judge(golden, [("docs/a b.txt", "a b.txt"), ("docs/c", "c")], gone_is_error=True)
    rankings: dict[str, Ranking] = {
        "1": [("docs/x", 0.9), ("docs/c", 0.8), ("docs/a b.txt", 0.7)],
        "2": [("docs/a b.txt", 0.4), ("docs/c", 0.2)],
    }
    before = score(judged, rankings)
    write_trec_run(tmp_path / "run", rankings, judged.names, "x")
    write_trec_qrels(tmp_path / "out" / "qrels", judged.qrels, judged.names)
    _, in_run = score_run(golden, tmp_path / "run")
    again = load_golden(
        EvaluationSettings(
            folder=tmp_path, qrels=tmp_path / "out" / "qrels", metrics=tuple(str(metric) for metric in golden.metrics)
        )
    )
    rejudged = judge(again, [("docs/a b.txt", "a b.txt"), ("docs/c", "c")], gone_is_error=True)
    assert dict(in_run.means) == pytest.approx(dict(before.means))
    assert sorted(rejudged.qrels) == sorted(judged.qrels)
    assert dict(score_run(again, tmp_path / "run")[1].means) == pytest.approx(dict(before.means))


def test_a_run_is_ordered_as_trec_eval_orders_it_whatever_its_ranks_say(tmp_path: Path) -> None:
    lines = ("q Q0 low 1 0.5 x", "q Q0 a 2 0.7 x", "q Q0 b 3 7e-1 x", "q Q0 top 9 1 x", "q Q0 0 4 0.70000000001 x")
    (found,) = read_trec_run(written(tmp_path, "\n".join(lines))).values()
    assert [name for name, _ in found] == ["top", "b", "a", "0", "low"]


def test_queries_that_a_run_lacks_score_zero_and_those_that_nobody_judges_count_for_nothing(tmp_path: Path) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\ta\t1\n2\ta\t1\n")
    _, found = score_run(golden, written(tmp_path, "1 Q0 a 1 2.0 x\n9 Q0 z 1 2.0 x\n"))
    assert {key: values["R@10"] for key, values in found.per_query.items()} == {"1": 1.0, "2": 0.0}
    assert found.means["RR@10"] == 0.5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1 Q0 a 1 2.0 x\n1 Q0 a 1 2.0\n", "line 2: not the six columns of a TREC run"),
        ("1 Q0 a 1 high x\n", "line 1: not the six columns of a TREC run"),
        ("1 Q0 a 1 nan x\n", "line 1: not the six columns of a TREC run"),
        ("1 Q0 a 1 2.0 x\n\n1 Q0 a 2 1.0 x\n", "line 3: document 'a' is there twice for query '1'"),
        ("\n", "holds no ranking"),
        ("7 Q0 a 1 2.0 x\n", "answers none of the queries"),
        ("1 Q0 docs/a 1 2.0 x\n", "names none of the documents"),
    ],
)
def test_a_mistake_in_a_run_is_named_by_line(tmp_path: Path, content: str, says: str) -> None:
    golden = golden_of(tmp_path, f"{HEADER}1\ta\t1\n")
    file = written(tmp_path, content)
    with pytest.raises(EvaluationInputError) as refused:
        score_run(golden, file)
    assert str(refused.value).startswith(f"{file}: {says}")


# --- trec_eval's own numbers

SAMPLE_RETRIEVED, SAMPLE_RELEVANT = 500, 77
SAMPLE_RANKS = [
    *(1, 2, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 24, 27, 28, 30, 31, 34, 36, 37, 39, 42, 43, 44),
    *(47, 48, 49, 50, 51, 53, 56, 58, 72, 79, 82, 84, 116, 154, 289, 301, 331, 353, 394, 458),
]
"""Where the relevant documents of topic 302 stand in the run that trec_eval is tested with."""
SAMPLE_VALUES = {
    "AP": 0.4175,
    "nDCG": 0.6617,
    "nDCG@5": 0.8304,
    "nDCG@10": 0.7530,
    "nDCG@20": 0.8082,
    "nDCG@100": 0.6046,
    "P@10": 0.7000,
    "P@30": 0.7333,
    "P@200": 0.2200,
    "R@10": 0.0909,
    "R@100": 0.5455,
    "R@500": 0.6494,
    "AP@100": 0.3983,
    "Rprec": 0.5065,
    "RR": 1.0000,
}
"""What trec_eval's test/out.test.aq says of that topic."""


def test_the_values_are_those_that_trec_eval_publishes_for_its_own_sample(tmp_path: Path) -> None:
    relevant = {f"d{rank}" for rank in SAMPLE_RANKS}
    relevant |= {f"not found {number}" for number in range(SAMPLE_RELEVANT - len(relevant))}
    golden = load_golden(
        EvaluationSettings(
            queries=written(tmp_path, "302\tPoliomyelitis\n", "queries.tsv"),
            qrels=written(tmp_path, "".join(f"302\t{name}\t1\n" for name in relevant), "qrels.tsv"),
            metrics=tuple(SAMPLE_VALUES),
        )
    )
    ranked = range(1, SAMPLE_RETRIEVED + 1)
    run = written(tmp_path, "".join(f"302 Q0 d{rank} {rank} {1 / rank} x\n" for rank in ranked))
    _, found = score_run(golden, run)
    assert dict(found.means) == pytest.approx(SAMPLE_VALUES, abs=5.1e-5)


@settings(max_examples=50)
@given(
    judged=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-2, 3), min_size=1).filter(
        lambda scores: any(score > 0 for score in scores.values())
    ),
    order=st.permutations("abcdefghijkl"),
)
def test_graded_and_negative_judgements_count_as_in_trec_eval(
    tmp_path_factory: pytest.TempPathFactory, judged: dict[str, int], order: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    golden = golden_of(folder, "".join(f"1 0 {name} {relevance}\n" for name, relevance in judged.items()))
    scores = {name: float(-rank) for rank, name in enumerate(order)}
    run = written(folder, "".join(f"1 Q0 {name} 0 {score} x\n" for name, score in scores.items()))
    evaluator = pytrec_eval.RelevanceEvaluator({"1": judged}, {"ndcg_cut_10", "recall_10", "map_cut_100"})
    theirs = evaluator.evaluate({"1": scores})["1"]
    ours = score_run(golden, run)[1].means
    assert [ours[name] for name in ("nDCG@10", "R@10", "AP@100")] == pytest.approx(
        [theirs[name] for name in ("ndcg_cut_10", "recall_10", "map_cut_100")]
    )
