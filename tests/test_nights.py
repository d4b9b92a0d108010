"""Whole nights, on Milvus Lite and on a real Milvus server: the same cases, the same rows."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from nightloom import live
from nightloom.documents import Document, document_id
from nightloom.errors import (
    CorpusFileError,
    EvaluationInputError,
    Held,
    IndexInputError,
    InputError,
    NightFailed,
    SourceError,
)
from nightloom.flows.nightly_reindex import nightly_reindex
from nightloom.index import open_index
from nightloom.live import status
from nightloom.night import Night
from nightloom.report import RunReport, scores_in_words, to_markdown
from nightloom.splitting import Node, Splitter
from nightloom.working_folder import PREFIX
from tests.nights import ON_LITE, QUERIES, TEXTS, Home, environment, night

pytestmark = pytest.mark.usefixtures("prefect_api")

ROOT = Path(__file__).resolve().parent.parent


async def test_the_first_night_indexes_everything_and_the_second_does_nothing(home: Home) -> None:
    (home.folder / "texts" / "sheet.xlsx").write_bytes(b"")
    corpus = home.file.read_text(encoding="utf-8")
    home.file.write_text(corpus.replace("[embedder]", 'exclude = ["*.xlsx"]\n[embedder]'), encoding="utf-8")
    first = await night(home)
    assert first["outcome"] == "promoted"
    assert first["left_out"][0]["says"] == "1 file left out by exclude: 1 .xlsx"
    assert "- 1 file left out by exclude: 1 .xlsx" in to_markdown(RunReport.model_validate(first))
    assert first["documents"] == {
        "listed": 5,
        "added": 5,
        "changed": 0,
        "unchanged": 0,
        "removed": 0,
        "quarantined": 0,
    }
    assert first["nodes"]["embedded"] == first["nodes"]["total"] > 5
    assert first["truncated_tokens"] == 0
    assert first["scores"] == {"nDCG@10": 1.0, "R@10": 1.0, "RR@10": 1.0}
    before = await home.rows()
    assert len(before) == first["nodes"]["total"]

    second = await night(home)
    assert second["outcome"] == "unchanged"
    assert second["nodes"] == {"embedded": 0, "copied": 0, "deleted": 0, "total": len(before)}
    assert second["generation"] == first["generation"]
    assert second["scores"] == first["scores"]
    assert await home.rows() == before


async def test_rows_hold_the_typed_fields_of_the_design(home: Home) -> None:
    await night(home)
    rows = await home.rows()
    whale = {key: row for key, row in rows.items() if row["uri"] == "texts/whale.txt"}
    key = document_id("texts/whale.txt")
    assert set(whale) == {f"{key}-{position}" for position in range(len(whale))}
    assert {row["total"] for row in whale.values()} == {len(whale)}
    assert {row["document_id"] for row in whale.values()} == {key} == {row["doc_id"] for row in whale.values()}
    assert len({row["version"] for row in whale.values()}) == 1
    stored = json.dumps(list(rows.values()))
    assert str(home.folder) not in stored, "a path of this machine is in the index"


async def test_another_folder_machine_path_or_file_time_changes_nothing(home: Home, tmp_path: Path) -> None:
    first = await night(home)
    before = await home.rows()
    elsewhere = tmp_path / "another machine" / "of another user"
    elsewhere.mkdir(parents=True)
    uri = home.uri if home.uri.startswith("http") else str(home.folder / home.uri)
    moved = Home(elsewhere, uri, home.name)
    moved.write(TEXTS)
    moved.configure()
    for age, file in enumerate(sorted((elsewhere / "texts").iterdir())):
        os.utime(file, (1_000_000_000 + age, 1_000_000_000 + age))

    second = await night(moved)
    assert second["outcome"] == "unchanged"
    assert second["fingerprint"] == first["fingerprint"]
    assert second["nodes"] == {"embedded": 0, "copied": 0, "deleted": 0, "total": len(before)}
    assert await moved.rows() == before

    anew = Home(elsewhere, uri, f"{home.name}_anew")
    anew.configure()
    await night(anew)
    after = await anew.rows()
    fields = ("document_id", "version", "position", "total", "uri", "text")
    assert {key: [row[field] for field in fields] for key, row in after.items()} == {
        key: [row[field] for field in fields] for key, row in before.items()
    }


async def test_a_night_embeds_only_what_changed_and_removes_what_is_gone(home: Home) -> None:
    await night(home)
    before = await home.rows()
    texts = dict(TEXTS)
    texts["bread.txt"] += " Rye flour makes it darker."
    texts["tea.txt"] = "Green tea is steeped at eighty degrees."
    del texts["piano.txt"]
    home.write(texts)

    report = await night(home)
    assert report["outcome"] == "promoted"
    assert report["documents"] == {
        "listed": 5,
        "added": 1,
        "changed": 1,
        "unchanged": 3,
        "removed": 1,
        "quarantined": 0,
    }
    assert report["nodes"]["embedded"] == 2
    assert report["nodes"]["copied"] == len(before) - 2
    assert report["nodes"]["deleted"] == 2
    after = await home.rows()
    assert {row["uri"] for row in after.values()} == {f"texts/{name}" for name in texts}
    assert [row["text"] for row in after.values() if row["uri"] == "texts/bread.txt"] == [texts["bread.txt"]]
    kept = {key: row for key, row in before.items() if row["uri"] not in {"texts/bread.txt", "texts/piano.txt"}}
    assert {key: after[key] for key in kept} == kept


async def test_a_document_that_shrinks_leaves_no_node_behind(home: Home) -> None:
    await night(home)
    home.write(TEXTS | {"whale.txt": "Blue whales are the largest animals."})
    await night(home)
    rows = await home.rows()
    assert [row["position"] for row in rows.values() if row["uri"] == "texts/whale.txt"] == [0]


@ON_LITE
async def test_a_document_that_cannot_be_taken_tonight_keeps_the_nodes_of_yesterday(home: Home) -> None:
    await night(home)
    before = await home.rows()
    home.write(TEXTS | {"moon.txt": "  \n "})
    report = await night(home)
    assert report["documents"]["quarantined"] == 1
    (entry,) = report["quarantine"]
    assert (entry["uri"], entry["reason"]) == ("texts/moon.txt", "empty: it has no text")
    assert report["nodes"]["embedded"] == 0
    assert await home.rows() == before


@ON_LITE
async def test_an_empty_document_is_reported_every_night_and_changes_nothing(home: Home) -> None:
    home.write(TEXTS | {"empty.txt": ""})
    first, second = await night(home), await night(home)
    assert first["documents"]["quarantined"] == second["documents"]["quarantined"] == 1
    assert (first["outcome"], second["outcome"]) == ("promoted", "unchanged")
    ((entry,), (again,)) = first["quarantine"], second["quarantine"]
    assert (entry["is_new"], again["is_new"]) == (True, False)
    assert entry["since"] == again["since"] == first["started"][:10]


@ON_LITE
async def test_another_splitter_is_another_fingerprint_and_embeds_everything_again(home: Home) -> None:
    first = await night(home)
    second = await night(home, splitting={"max_tokens": 64, "overlap_tokens": 8})
    assert second["fingerprint"] != first["fingerprint"]
    assert second["nodes"]["copied"] == 0
    assert second["nodes"]["embedded"] == second["nodes"]["total"] > first["nodes"]["total"]
    changed = r"splitting\.max_tokens was \d+ and is 64; splitting\.overlap_tokens was \d+ and is 8"
    assert re.match(rf"another fingerprint \({changed}\): every document", second["reason"])
    found = await status(home.corpus, None)
    assert (found.matches, found.changed.split(";")[0]) == (False, "splitting.max_tokens was 64 and is 256")


@ON_LITE
async def test_three_generations_stay_and_older_ones_go(home: Home) -> None:
    for at in range(5):
        home.write(TEXTS | {"tea.txt": f"Tea number {at}."})
        await night(home)
    async with open_index(home.corpus.milvus, home.name) as index:
        generations = await index.generations()
    assert [generation.live for generation in generations] == [False, False, True]


async def test_one_shard_at_a_time_and_eight_give_the_same_rows(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other", home.uri, home.name + "_other")
    other.folder.mkdir()
    other.write(TEXTS)
    other.configure()
    await night(home, shards={"documents": 1, "in_flight": 8})
    await night(other, shards={"documents": 5, "in_flight": 1})
    assert await home.rows() == await other.rows()


@ON_LITE
async def test_shards_are_cut_one_after_the_other(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that cut at once would take the interpreter from each other at every sentence."""
    cut: list[str] = []
    split = Splitter.split

    def slowly(self: Splitter, document: Document, version: str) -> list[Node]:
        cut.append(document.ref.uri)
        time.sleep(0.02)
        cut.append(document.ref.uri)
        return split(self, document, version)

    monkeypatch.setattr(Splitter, "split", slowly)
    home.write(TEXTS | {f"{shard}{at}.txt": f"Shard {shard}, document {at}." for shard in range(4) for at in range(4)})
    await night(home, shards={"documents": 4, "in_flight": 4})
    assert cut[::2] == cut[1::2], "one document at a time"
    behind_each_other = [{uri.rpartition("/")[2][0] for uri in cut[at : at + 8]} for at in range(0, 32, 8)]
    assert sorted(behind_each_other, key=str) == [{"0"}, {"1"}, {"2"}, {"3"}]


@ON_LITE
async def test_many_documents_gone_at_once_hold_the_night(home: Home) -> None:
    many = {f"{at:02}.txt": f"Note number {at} about the weather." for at in range(24)}
    home.configure(evaluation=False)
    home.write(many)
    first = await night(home)
    home.write({name: text for name, text in many.items() if name < "12.txt"} | {"new.txt": "It is not indexed."})
    with pytest.raises(Held, match="12 of 24 live documents are gone") as held:
        await night(home)
    assert isinstance(held.value.report, RunReport)
    assert (held.value.report.documents.added, held.value.report.scores) == (0, None)
    assert len(await home.rows()) == first["nodes"]["total"]


@ON_LITE
async def test_a_night_in_which_every_document_fails_leaves_the_live_index_alone(home: Home) -> None:
    await night(home)
    before = await home.rows()
    home.write(dict.fromkeys(TEXTS, ""))
    with pytest.raises(NightFailed, match="every document was quarantined"):
        await night(home)
    assert await home.rows() == before


@ON_LITE
async def test_no_document_at_all_is_refused(home: Home) -> None:
    home.write({})
    with pytest.raises(SourceError, match="no document found"):
        await night(home)


@ON_LITE
async def test_qrels_may_name_a_document_that_has_left_but_not_one_that_never_was(home: Home) -> None:
    await night(home)
    home.write({name: text for name, text in TEXTS.items() if name != "moon.txt"})
    report = await night(home)
    assert report["queries"] == {"asked": 2, "set_aside": 1, "unjudged": 0}
    says = "1 of 3 judged queries are set aside, as none of their relevant documents is in the corpus any more"
    assert [warning.startswith(says) and "Why are there tides?" in warning for warning in report["warnings"]] == [True]
    assert (await night(home))["queries"] == report["queries"], "an unchanged night says what its scores are of"
    home.write({name: text for name, text in TEXTS.items() if name[0] not in "mc"} | {"new.txt": "Something new."})
    with pytest.raises(Held, match=r"2 of 3 judged queries .* \(gate.max_set_aside = 0.2 allows 1\)") as held:
        await night(home)
    assert isinstance(held.value.report, RunReport)
    assert held.value.report.nodes.embedded == 1
    spent = dict(held.value.report.seconds)
    assert sum(spent.values()) - spent["total"] == pytest.approx(spent["total"], abs=0.02), "stages add up to the total"
    assert scores_in_words(held.value.report).endswith("over 1 of 3 queries, 2 set aside")
    home.write({name: text for name, text in TEXTS.items() if name != "moon.txt"})
    qrels = home.folder / "qrels.tsv"
    qrels.write_text(qrels.read_text() + "q1\tnowhere.txt\t1\n")
    with pytest.raises(EvaluationInputError, match=r"line 5: 'nowhere.txt'"):
        await night(home)


@ON_LITE
async def test_other_golden_queries_are_asked_of_an_index_that_did_not_change(home: Home) -> None:
    await night(home)
    home.configure()
    (home.folder / "qrels.tsv").write_text("q1\tchess.txt\t1\n")
    report = await night(home)
    assert report["outcome"] == "unchanged"
    assert report["scores"]["RR@10"] < 1
    assert (await night(home))["scores"] == report["scores"]


async def test_a_collection_of_another_owner_is_never_touched(home: Home) -> None:
    async with open_index(home.corpus.milvus, home.name) as index:
        await index.connection.call(lambda: index.connection.client.create_collection(home.name, dimension=4))
        await index.connection.call(
            lambda: index.connection.client.insert(home.name, [{"id": 1, "vector": [1.0, 0, 0, 0]}])
        )
    with pytest.raises(IndexInputError, match="is not Nightloom's"):
        await night(home)
    async with open_index(home.corpus.milvus, home.name) as index:
        assert await index.connection.count(home.name) == 1


async def test_an_alias_of_another_owner_is_never_moved(home: Home) -> None:
    foreign = home.name + "_foreign"
    async with open_index(home.corpus.milvus, home.name) as index:
        await index.connection.call(lambda: index.connection.client.create_collection(foreign, dimension=4))
        await index.connection.call(lambda: index.connection.client.create_alias(foreign, home.name))
    with pytest.raises(IndexInputError, match="is not Nightloom's"):
        await night(home)
    async with open_index(home.corpus.milvus, home.name) as index:
        assert await index.connection.call(index._alias_target) == foreign


@ON_LITE
async def test_an_index_that_cannot_be_read_is_told_before_what_is_wrong_with_a_source(home: Home) -> None:
    """They are looked at side by side, and what is told does not depend on which of them was faster."""
    nowhere = home.file.read_text().replace('path = "texts"', 'path = "nowhere"')
    home.file.write_text(nowhere)
    with pytest.raises(SourceError, match="nowhere"):
        await night(home)
    async with open_index(home.corpus.milvus, home.name) as index:
        await index.connection.call(lambda: index.connection.client.create_collection(home.name, dimension=4))
    with pytest.raises(IndexInputError, match="is not Nightloom's"):
        await night(home)


async def test_ask_finds_the_passage_and_status_counts(home: Home) -> None:
    report = await night(home)
    hits = await live.ask(home.corpus, None, QUERIES["q3"], 2)
    assert (hits[0].uri, hits[0].position, hits[0].text) == ("texts/moon.txt", 0, TEXTS["moon.txt"])
    assert hits[0].score > hits[1].score
    found = await live.status(home.corpus, None)
    assert (found.generation, found.documents, found.nodes) == (report["generation"], 5, report["nodes"]["total"])
    assert found.matches is True


@ON_LITE
async def test_a_killed_night_is_taken_up_where_it_stopped(
    home: Home, prefect_server: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    home.write({f"{at:02}.txt": TEXTS["whale.txt"] + f" Note {at}." for at in range(12)})
    home.configure("[shards]\ndocuments = 1\nin_flight = 1", evaluation=False)
    process = subprocess.Popen(  # noqa: ASYNC220  nothing else runs meanwhile
        [sys.executable, "-m", "nightloom.flows.console", "run", str(home.file), "--json"],
        cwd=ROOT,
        env=environment(prefect_server)
        | {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG"}
        | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "load shard 4/12" in line:  # one after the other: three are in the index
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    (left,) = temporary.glob(f"{PREFIX}*")
    os.utime(left, (0, 0))

    report = await night(home)
    assert report["outcome"] == "promoted"
    assert report["documents"]["added"] == 12
    assert not list(temporary.glob(f"{PREFIX}*")), "the killed one's folder is gone, and so is one's own"
    assert 0 < report["nodes"]["embedded"] < report["nodes"]["total"]
    assert len({row["uri"] for row in (await home.rows()).values()}) == 12


async def test_a_cancelled_night_leaves_readers_what_they_had(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    await night(home)
    before = await home.rows()
    home.write(TEXTS | {"tea.txt": "Green tea is steeped at eighty degrees."})
    reached = asyncio.Event()

    async def hang(_night: Night) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Night, "promote", hang)
    running = asyncio.create_task(night(home))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    monkeypatch.undo()
    assert await home.rows() == before
    assert (await night(home))["documents"]["added"] == 1


def test_a_milvus_lite_file_that_is_open_elsewhere_is_refused(tmp_path: Path, prefect_server: str) -> None:
    home = Home(tmp_path, "index.db", "busy")
    home.write(TEXTS)
    home.configure()
    code = (
        "from pymilvus import MilvusClient; import sys; "
        f"MilvusClient({str(tmp_path / 'index.db')!r}); print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "open"
        done = subprocess.run(
            [sys.executable, "-m", "nightloom.flows.console", "run", str(home.file), "--json"],
            cwd=ROOT,
            env=environment(prefect_server),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        holder.communicate("")
    assert done.returncode == 2
    assert "open in another process" in done.stderr
    assert json.loads(done.stdout)["outcome"] == "refused"


def paths_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


REFUSED = {
    "unknown key": ("[gate]\nkeeps = 1\n", "gate.keeps: unknown key"),
    "too many tokens": ("[splitting]\nmax_tokens = 512\n", "splitting.max_tokens = 512"),
    "no Milvus": ("", "Milvus cannot be reached"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_night_that_is_refused_before_it_opens_is_in_the_ui_and_nowhere_else(tmp_path: Path, case: str) -> None:
    more, says = REFUSED[case]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}" if case == "no Milvus" else "index.db"
        home = Home(tmp_path, uri, f"Refused_{document_id(case)[:8]}")
        home.write(TEXTS)
        home.configure(more)
        before = paths_below(tmp_path)
        with pytest.raises(InputError, match=says) as refused:
            await night(home)
    report = refused.value.report
    assert isinstance(report, RunReport)
    assert (report.corpus, report.outcome) == (home.name, "refused")
    artifact = await Artifact.aget(f"{home.name.lower().replace('_', '-')}-report")
    assert artifact is not None
    assert str(artifact.data).startswith(f"# {home.name.replace('_', chr(92) + '_')}: refused\n")
    assert paths_below(tmp_path) == before


async def test_a_corpus_file_that_is_not_there_is_reported_under_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(CorpusFileError, match="there is no such file"):
        await nightly_reindex(corpus_file=tmp_path / "No such corpus!.toml")
    artifact = await Artifact.aget("no-such-corpus-report")
    assert artifact is not None
    assert "there is no such file" in str(artifact.data)
