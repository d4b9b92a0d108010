"""What a Milvus does by its kind and version, and what is known to be wrong with versions."""

import ast

import pytest

from nightloom.capabilities import LITE, PROBLEMS, Capabilities, number_of, of_server
from nightloom.corpus import MilvusSettings
from nightloom.milvus_address import place_of
from tests.builders import ROOT

LOCAL = "http://127.0.0.1:19530"
CLOUD = "https://in03-0123456789abcdef.serverless.gcp-us-west1.cloud.zilliz.com"


@pytest.mark.parametrize(
    ("says", "number"),
    [
        ("2.6.16", (2, 6, 16)),
        ("v2.3.5", (2, 3, 5)),
        ("pkg/v2.6.13", (2, 6, 13)),
        ("2.5.27-gpu", (2, 5, 27)),
        ("2.6-20260404-31fb3fc", (2, 6, 0)),
        ("3.0-beta", (3, 0, 0)),
        ("Zilliz Cloud Vector Database(Compatible with Milvus 2.6)", (2, 6, 0)),
        ("master-20260404-31fb3fc", (3, 0, 0)),
        ("unknown-20260608-7ea6e3526", (3, 0, 0)),
    ],
)
def test_a_version_is_read_however_it_is_written(says: str, number: tuple[int, int, int]) -> None:
    assert number_of(says) == number


FACTS = {
    "2.3.5": (False, False, True, False),
    "2.4.24": (False, False, True, False),
    "2.5.5": (True, True, True, False),
    "2.5.27": (True, True, True, True),
    "2.6.16": (True, True, False, True),
    "3.0.0": (True, True, False, True),
}


@pytest.mark.parametrize("version", FACTS)
def test_what_servers_do_by_version(version: str) -> None:
    does = of_server(LOCAL, version)
    found = (does.gives_session_ts, does.has_bm25, does.strong_reads_wait, does.describes_from_cache)
    assert found == FACTS[version]
    assert (does.kind, does.says) == ("Milvus", f"Milvus {version}")
    assert does.takes_concurrent_writers
    assert not does.only_autoindex


def test_milvus_lite_takes_one_writer_and_makes_keywords() -> None:
    assert not LITE.takes_concurrent_writers
    assert LITE.has_bm25
    assert LITE.says == "Milvus Lite"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        (CLOUD, "unknown-20260608-7ea6e3526"),
        (LOCAL, "Zilliz Cloud Vector Database(Compatible with Milvus 2.6)"),
        ("https://in01-x.ali-cn-hangzhou.vectordb.zilliz.com.cn:19530", "2.5"),
    ],
)
def test_zilliz_cloud_is_known_by_its_address_or_by_its_word(uri: str, says: str) -> None:
    does = of_server(uri, says)
    assert does.kind == "Zilliz Cloud"
    assert does.only_autoindex
    assert does.strong_reads_wait, "nobody outside can know"
    assert does.has_bm25
    assert does.problems == []


def test_an_address_that_only_contains_the_name_is_none_of_theirs() -> None:
    assert of_server("https://zilliz.com.example.org", "2.6.16").kind == "Milvus"


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("2.3.5", ["no longer maintained", "CVE-2025-64513", "CVE-2026-26190"]),
        ("2.5.1", ["38947", "45339", "CVE-2025-64513", "CVE-2026-26190"]),
        ("2.5.26", ["CVE-2026-26190"]),
        ("2.5.27", []),
        ("2.6.4", ["45339", "CVE-2025-64513", "CVE-2026-26190", "52055"]),
        ("2.6.16", ["52055"]),
        ("3.0.0", []),
    ],
)
def test_what_is_known_to_be_wrong_with_a_version_is_said(version: str, words: list[str]) -> None:
    problems = of_server(LOCAL, version).problems
    assert len(problems) == len(words)
    assert all(any(word in problem for problem in problems) for word in words)


def test_every_problem_says_what_to_do() -> None:
    assert all("upgrade" in problem.says or "a night" in problem.says for problem in PROBLEMS)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        (CLOUD, (CLOUD.removeprefix("https://"), 443)),
        ("https://milvus:19530", ("milvus", 19530)),
        ("http://milvus", ("milvus", 19530)),
        ("http://milvus/x", ("milvus", 19530)),
    ],
)
def test_an_address_without_a_port_means_the_one_that_the_client_takes(uri: str, place: tuple[str, int]) -> None:
    assert place_of(MilvusSettings(uri=uri).uri) == place


def test_versions_and_kinds_are_compared_in_one_place() -> None:
    """Everything else asks for a capability by its name."""
    asked_for = {field for field in Capabilities.__dataclass_fields__ if field not in {"kind", "version"}}
    used: set[str] = set()
    for package in ("nightloom", "tasks", "flows"):
        for file in (ROOT / package).rglob("*.py"):
            if file.name == "capabilities.py":
                continue
            text = file.read_text(encoding="utf-8")
            assert "is_lite" not in text, file
            names = [node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
            assert "get_server_version" not in names or file.name == "milvus.py", file
            used |= asked_for & set(names)
    assert used == asked_for, "a capability that nobody asks for"
