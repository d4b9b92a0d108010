"""How an index is brought up to date and taken back: in place, mended, renamed, rolled back, one night at a time."""

import asyncio
import io
import json
import os
import pty
import re
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from pymilvus import MilvusClient

from nightloom import live, local_model, operate
from nightloom.contents import Contents
from nightloom.documents import document_id
from nightloom.embedding import Embedder
from nightloom.errors import EmbedderError, Held, IndexBusy, IndexInconsistent, IndexInputError, IndexTaken, NightFailed
from nightloom.flows.console import app
from nightloom.generations import WRITER, Generation
from nightloom.index import Index, open_index
from nightloom.night import Night
from nightloom.vectors import Vectors
from tests.builders import command
from tests.nights import ON_LITE, ON_SERVER, TEXTS, Home, live_name, night

pytestmark = pytest.mark.usefixtures("prefect_api")

IN_PLACE = '[index]\nupdate = "in_place"'
"""For what does not depend on the kind of Milvus: a night on a server takes seconds."""
TEA = {"tea.txt": "Green tea is steeped at eighty degrees."}


async def generations_of(home: Home) -> list[str]:
    async with open_index(home.corpus.milvus, home.name) as index:
        return [generation.name for generation in await index.generations()]


async def with_live(home: Home, do: Callable[[Index, str], Awaitable[None]]) -> None:
    async with open_index(home.corpus.milvus, home.name) as index:
        live = await live_name(index)
        await index.connection.load(live)
        await do(index, live)


async def texts_of(home: Home) -> dict[str, str]:
    """The first node's text of every document, by file name."""
    rows = (await home.rows()).values()
    return {row["uri"].removeprefix("texts/"): row["text"] for row in rows if row["position"] == 0}


# --- precision


@ON_LITE
async def test_an_index_keeps_the_precision_of_the_machine_that_began_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_model, "fastest_precision", lambda *_: "bf16")
    first = await night(home)
    assert "bf16" in first["embedder"]["backend"]
    monkeypatch.setattr(local_model, "fastest_precision", lambda *_: "fp32")  # a machine that has no bf16
    assert (await night(home))["outcome"] == "unchanged"
    home.write(TEXTS | TEA)
    third = await night(home)
    assert (third["nodes"]["embedded"], "bf16" in third["embedder"]["backend"]) == (1, True)
    (best, *_) = await live.ask(home.corpus, None, "How hot is water for green tea?")
    assert best.uri.endswith("tea.txt")
    assert (await live.status(home.corpus, None)).matches

    fourth = await night(home, embedder={"precision": "fp32"})
    assert (fourth["nodes"]["embedded"], fourth["nodes"]["copied"]) == (third["nodes"]["total"], 0)


@ON_LITE
async def test_a_backend_without_the_precision_of_the_index_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_model, "fastest_precision", lambda *_: "bf16")
    await night(home)
    before = await home.rows()
    home.write(TEXTS | TEA)
    with pytest.raises(EmbedderError, match=r"embedder\.backend: onnx has no bf16 here.*or the live index"):
        await night(home, embedder={"backend": "onnx"})
    assert await home.rows() == before


# --- in place


async def test_in_place_the_live_collection_takes_what_changed_and_loses_what_is_gone(home: Home) -> None:
    home.configure(IN_PLACE)
    first = await night(home)
    before = await home.rows()
    texts = TEXTS | TEA | {"bread.txt": "Bread needs time.", "whale.txt": "Whales sing."}
    del texts["piano.txt"]
    home.write(texts)

    report = await night(home)
    assert (report["outcome"], report["generation"]) == ("promoted", first["generation"])
    assert report["reason"].startswith("in place: 1 documents added, 2 changed, 1 removed")
    assert (report["nodes"]["embedded"], report["nodes"]["copied"]) == (3, 0)
    after = await home.rows()
    whales = sum(row["uri"] == "texts/whale.txt" for row in before.values())
    assert report["nodes"]["deleted"] == whales + 2
    assert report["nodes"]["total"] == len(after) == 5
    assert await texts_of(home) == texts
    assert await generations_of(home) == [first["generation"]]
    assert (await night(home))["outcome"] == "unchanged"
    assert await home.rows() == after


@ON_LITE
async def test_in_place_another_fingerprint_is_a_new_generation_all_the_same(home: Home) -> None:
    home.configure(IN_PLACE)
    first = await night(home)
    second = await night(home, splitting={"max_tokens": 64, "overlap_tokens": 8})
    assert second["generation"] != first["generation"]
    assert second["nodes"]["copied"] == 0


@ON_LITE
async def test_in_place_a_night_that_died_between_rows_and_head_is_mended_even_if_the_document_went_back(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.configure(IN_PLACE)
    await night(home)
    before = await home.rows()
    home.write(TEXTS | {"whale.txt": TEXTS["whale.txt"].replace("Blue", "Grey")})
    add = Contents._add

    async def die_at_heads(self: Contents, collection: str, pairs: Any) -> None:
        if pairs and not pairs[0][0].position:
            raise NightFailed("died")
        await add(self, collection, pairs)

    monkeypatch.setattr(Contents, "_add", die_at_heads)
    with pytest.raises(NightFailed, match="died"):
        await night(home)
    monkeypatch.undo()
    assert await home.rows() != before, "rows of two versions, under the head of the old one"
    home.write(TEXTS)
    report = await night(home)
    assert "texts/whale.txt" in report["warnings"][0]
    assert await home.rows() == before
    assert (await night(home))["outcome"] == "unchanged"


@ON_LITE
async def test_in_place_the_gate_for_quarantine_can_only_warn_and_the_one_for_removals_holds(home: Home) -> None:
    many = {f"{at:02}.txt": f"Note number {at} about the weather." for at in range(24)}
    home.configure(IN_PLACE, evaluation=False)
    home.write(many)
    await night(home)
    broken = {name: "" if name < "12.txt" else text for name, text in many.items()}
    home.write(broken | TEA)
    report = await night(home)
    assert report["outcome"] == "promoted"
    assert "12 of 25 documents are quarantined" in report["warnings"][0]
    home.write({name: text for name, text in many.items() if name < "12.txt"})
    with pytest.raises(Held, match="13 of 25 live documents are gone"):
        await night(home)
    assert len(await texts_of(home)) == 25


# --- removals


@ON_LITE
async def test_removals_that_a_run_is_told_to_allow_pass_once(home: Home) -> None:
    many = {f"{at:02}.txt": f"Note number {at} about the weather." for at in range(24)}
    home.configure(evaluation=False)
    home.write(many)
    await night(home)
    home.write(TEA)
    with pytest.raises(Held, match="24 of 24 live documents are gone"):
        await night(home)
    report = await night(home, allow_removals=True)
    assert report["documents"]["removed"] == 24
    assert "24 of 24 live documents are gone" in report["warnings"][0]
    assert await texts_of(home) == TEA


# --- rows that are not whole


async def damage(index: Index, live: str) -> None:
    """A missing row, a row of an old version, a row without a head, and a row twice."""
    whale, moon, ghost = (document_id(f"texts/{name}.txt") for name in ("whale", "moon", "ghost"))
    client = index.connection.client
    (row,) = client.query(live, filter=f'id == "{whale}-1"', output_fields=["*"])
    (head,) = client.query(live, filter=f'id == "{moon}-0"', output_fields=["*"])
    client.delete(live, filter=f'document_id == "{whale}" and position == 1')
    client.upsert(live, [dict(head) | {"id": f"{moon}-7", "position": 7, "version": "0" * 32}])
    client.upsert(live, [dict(row) | {"id": f"{ghost}-1", "document_id": ghost}])
    if not index.connection.settings.file:  # Milvus Lite refuses to hold a key twice
        (bread,) = client.query(live, filter=f'id == "{document_id("texts/bread.txt")}-0"', output_fields=["*"])
        client.insert(live, [dict(bread)])


@pytest.mark.parametrize("mode", ["", IN_PLACE], ids=["generation", "in place"])
async def test_verify_names_what_is_not_whole_and_a_repairing_night_makes_it_anew(home: Home, mode: str) -> None:
    home.configure(mode)
    await night(home)
    before = await home.rows()
    assert (await operate.verify_live(home.corpus, None))[1].findings == ()

    async def break_rows(index: Index, live: str) -> None:
        await index.connection.call(lambda: asyncio.run(damage(index, live)))

    await with_live(home, break_rows)
    _, found = await operate.verify_live(home.corpus, None)
    says = {str(finding) for finding in found.findings}
    expected = {
        f"{document_id('texts/ghost.txt')} (1 missing, 1 surplus)",
        "texts/whale.txt (1 missing)",
        "texts/moon.txt (1 surplus)",
    }
    if not home.corpus.milvus.file:
        expected.add("texts/bread.txt (1 duplicate)")
    assert says == expected

    report = await night(home, repair=True)
    assert report["outcome"] == "promoted"
    assert "texts/whale.txt (1 missing)" in report["warnings"][0]
    assert await home.rows() == before
    assert (await operate.verify_live(home.corpus, None))[1].findings == ()


@ON_LITE
async def test_a_night_that_finds_fewer_rows_than_heads_count_mends_them_unasked(home: Home) -> None:
    await night(home)
    before = await home.rows()

    async def lose_a_row(index: Index, live: str) -> None:
        await index.contents.claim(live)
        await index.contents._delete(live, [f'document_id == "{document_id("texts/whale.txt")}" and position == 1'])
        await index.finish(live)

    await with_live(home, lose_a_row)
    report = await night(home)
    assert report["documents"]["changed"] == 1
    assert await home.rows() == before


@ON_LITE
async def test_a_half_built_generation_with_rows_that_are_not_whole_is_mended_when_taken_up(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_night: Night) -> int:
        raise NightFailed("died")

    monkeypatch.setattr(Night, "verify", fail)
    with pytest.raises(NightFailed, match="died"):
        await night(home)
    monkeypatch.undo()
    async with open_index(home.corpus.milvus, home.name) as index:
        (built,) = await index.generations()
        await index.connection.load(built.name)
        await index.contents.claim(built.name)
        whale = document_id("texts/whale.txt")
        await index.contents._delete(built.name, [f'document_id == "{whale}" and position == 1'])
    report = await night(home)
    assert report["generation"] == built.name
    assert report["nodes"]["total"] - 4 == report["nodes"]["embedded"], "the whale, and nothing else"
    assert len(await home.rows()) == report["nodes"]["total"]


@ON_LITE
async def test_a_half_built_generation_that_nobody_needs_any_more_is_dropped(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await night(home)

    async def fail(_night: Night) -> int:
        raise NightFailed("died")

    monkeypatch.setattr(Night, "verify", fail)
    home.write(TEXTS | TEA)
    with pytest.raises(NightFailed, match="died"):
        await night(home)
    monkeypatch.undo()
    assert len(await generations_of(home)) == 2
    home.write(TEXTS)
    assert (await night(home))["outcome"] == "unchanged"
    assert await generations_of(home) == [first["generation"]]


# --- documents


@ON_LITE
@pytest.mark.parametrize("mode", ["", IN_PLACE], ids=["generation", "in place"])
async def test_a_renamed_document_keeps_its_vectors(home: Home, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home.configure(mode, evaluation=False)
    await night(home)
    before = await home.rows()

    async def never(_embedder: Embedder, _texts: list[str], *_more: Any) -> Vectors:
        raise AssertionError("a renamed document is embedded again")

    monkeypatch.setattr(Embedder, "embed_texts", never)
    home.write({"orca.txt" if name == "whale.txt" else name: text for name, text in TEXTS.items()})
    report = await night(home)
    assert (report["documents"]["added"], report["documents"]["removed"]) == (1, 1)
    assert report["nodes"]["embedded"] == 0
    whale, orca = document_id("texts/whale.txt"), document_id("texts/orca.txt")
    after = await home.rows()
    for key, row in before.items():
        if row["document_id"] == whale:
            moved = after[key.replace(whale, orca)]
            assert (moved["embedding"], moved["text"]) == (row["embedding"], row["text"])
    assert {row["document_id"] for row in after.values()} == {
        orca if row["document_id"] == whale else row["document_id"] for row in before.values()
    }


def spoil_moon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the embedder give a vector with a hole for one document."""
    embed = Embedder.embed_texts

    async def spoil(self: Embedder, texts: list[str], *more: Any) -> Vectors:
        vectors = await embed(self, texts, *more)
        for at, text in enumerate(texts):
            if text == TEXTS["moon.txt"]:
                vectors[at, 3] = np.nan
        return vectors

    monkeypatch.setattr(Embedder, "embed_texts", spoil)


@ON_LITE
async def test_a_document_whose_embedding_is_no_number_is_quarantined_and_the_rest_goes_in(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_moon(monkeypatch)
    report = await night(home)
    assert [entry["uri"] for entry in report["quarantine"]] == ["texts/moon.txt"]
    assert "zero or not finite" in report["quarantine"][0]["reason"]
    assert await texts_of(home) == {name: text for name, text in TEXTS.items() if name != "moon.txt"} | {
        "whale.txt": (await texts_of(home))["whale.txt"]
    }


async def test_a_row_that_milvus_refuses_is_found_by_halving_and_its_document_quarantined(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightloom.night.unusable", lambda vectors: np.zeros(len(vectors), dtype=bool))
    spoil_moon(monkeypatch)
    if home.corpus.milvus.file:  # which takes them
        with pytest.raises(Held, match=r"1 of [56] rows that were looked at have a vector that is zero or not finite"):
            await night(home)
        return
    report = await night(home)
    assert [entry["uri"] for entry in report["quarantine"]] == ["texts/moon.txt"]
    assert set(await texts_of(home)) == set(TEXTS) - {"moon.txt"}


async def test_a_held_generation_is_gone_on_with_where_only_a_new_document_differs_from_what_is_live(
    home: Home,
) -> None:
    """All that it holds is live as well: only the new document tells tonight from what readers see."""
    await night(home)
    home.write(TEXTS | {"moon.txt": "A lamp."})
    with pytest.raises(Held):
        await night(home)
    home.write(TEXTS | {"rye.txt": "Rye needs a sour dough."})
    report = await night(home)
    assert (report["outcome"], report["documents"]["added"]) == ("promoted", 1)
    assert set(await texts_of(home)) == {*TEXTS, "rye.txt"}


# --- a generation that is created while its first nodes are embedded


@ON_SERVER
async def test_a_generation_is_there_before_its_first_nodes_are_embedded(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = Embedder.embed_texts
    seen: list[str] = []

    async def wait_and_embed(self: Embedder, *texts: Any) -> Vectors:
        async with asyncio.timeout(30):
            while not seen:
                seen.extend(await generations_of(home))
        return await embed(self, *texts)

    monkeypatch.setattr(Embedder, "embed_texts", wait_and_embed)
    report = await night(home)
    assert [report["generation"]] == seen == await generations_of(home)


@ON_SERVER
async def test_a_generation_to_which_nothing_came_to_be_written_is_dropped(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write({name: text for name, text in TEXTS.items() if name != "moon.txt"})
    home.configure(evaluation=False)
    first = await night(home)
    spoil_moon(monkeypatch)
    home.write(TEXTS)
    created = asyncio.Event()
    create = Index.create

    async def create_and_tell(self: Index, *given: Any, **named: Any) -> Generation:
        found = await create(self, *given, **named)
        created.set()
        return found

    monkeypatch.setattr(Index, "create", create_and_tell)
    report = await night(home)
    assert (report["outcome"], report["documents"]["quarantined"]) == ("unchanged", 1)
    assert created.is_set()
    assert await generations_of(home) == [first["generation"]]


@ON_SERVER
async def test_a_generation_of_other_dimensions_than_the_vectors_turn_out_to_have_is_made_anew(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "dim", 7)
    report = await night(home)
    assert report["nodes"]["embedded"] == len(await home.rows())
    assert await generations_of(home) == [report["generation"]]


# --- operating


async def test_a_rollback_is_read_through_the_alias_and_the_next_night_goes_on_from_there(home: Home) -> None:
    first = await night(home)
    before = await home.rows()
    home.write(TEXTS | TEA)
    second = await night(home)
    made = await operate.roll_back(home.corpus, None)
    assert (made.before, made.after) == (second["generation"], first["generation"])
    assert await home.rows() == before
    with pytest.raises(IndexInputError, match="the oldest generation"):
        await operate.roll_back(home.corpus, None)
    report = await night(home)
    assert report["documents"]["added"] == 1
    assert await texts_of(home) == (await texts_of(home)) | TEA
    assert await generations_of(home) == [first["generation"], second["generation"], report["generation"]]
    back = await operate.roll_back(home.corpus, None, second["generation"])
    assert back.after == second["generation"]


@ON_LITE
async def test_a_rollback_to_what_is_not_whole_or_was_never_seen_is_refused(home: Home) -> None:
    first = await night(home)
    home.write(TEXTS | TEA)
    second = await night(home)
    with pytest.raises(IndexInputError, match="no generation of"):
        await operate.roll_back(home.corpus, None, "docs_20200101t000000z_00000000")
    with pytest.raises(IndexInputError, match="is live already"):
        await operate.roll_back(home.corpus, None, second["generation"])
    async with open_index(home.corpus.milvus, home.name) as index:
        await index.connection.load(first["generation"])
        await index.contents.claim(first["generation"])
        await index.contents.delete_documents(first["generation"], [document_id("texts/whale.txt")])
        await index.contents._delete(first["generation"], [f'document_id == "{document_id("texts/whale.txt")}"'])
        chess = document_id("texts/chess.txt")
        (row,) = index.connection.client.query(
            first["generation"], filter=f'id == "{chess}-0"', output_fields=["*"], consistency_level="Strong"
        )
        index.connection.client.upsert(first["generation"], [dict(row) | {"id": f"{chess}-1", "position": 1}])
    with pytest.raises(IndexInconsistent, match=r"texts/chess.txt \(1 surplus\)"):
        await operate.roll_back(home.corpus, None)
    assert len(await texts_of(home)) == 6


async def test_drop_never_takes_the_live_one_nor_one_that_an_alias_names(home: Home) -> None:
    first = await night(home)
    home.write(TEXTS | TEA)
    second = await night(home)
    with pytest.raises(IndexInputError, match="is live, and is never dropped"):
        await operate.drop_generation(home.corpus, None, second["generation"])
    async with open_index(home.corpus.milvus, home.name) as index:
        index.connection.client.create_alias(first["generation"], home.name + "_pinned")
    with pytest.raises(IndexInputError, match="an alias names it"):
        await operate.drop_generation(home.corpus, None, first["generation"])
    async with open_index(home.corpus.milvus, home.name) as index:
        index.connection.client.drop_alias(home.name + "_pinned")
    await operate.drop_generation(home.corpus, None, first["generation"])
    assert await generations_of(home) == [second["generation"]]


def on_a_terminal(types: str, *words: str | Path) -> str:
    """What a command shows on stderr to whoever types so on a terminal."""
    ours, theirs = pty.openpty()
    os.write(ours, types.encode())
    with (
        os.fdopen(theirs, encoding="utf-8") as stdin,
        mock.patch.object(sys, "stdin", stdin),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()) as shown,
        suppress(SystemExit),
    ):
        app([str(word) for word in words])
    os.close(ours)
    return shown.getvalue()


def test_the_commands_of_an_operator(tmp_path: Path) -> None:
    home = Home(tmp_path, "index.db", "operated")
    home.write(TEXTS)
    home.configure()

    def run(*arguments: str) -> Any:
        done = command(arguments[0], home.file, *arguments[1:])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    first = run("run", "--json")["generation"]
    home.write(TEXTS | TEA)
    second = run("run", "--json")["generation"]
    assert run("verify", "--json")["findings"] == []
    assert "all of them whole" in run("verify")
    listed = run("generations", "--json")["generations"]
    assert [(one["name"], one["state"], one["documents"]) for one in listed] == [
        (second, "live", 6),
        (first, "earlier", 5),
    ]
    assert first in run("generations"), "a pipe takes every column"
    shown = on_a_terminal("n\n", "rollback", home.file)
    assert f"Readers see {second} of " in shown
    assert re.search(rf"They would see {first} of [-0-9]+ [0-9:]+ UTC, 5 documents, \d+ nodes\.\n", shown), shown
    assert run("generations", "--json")["generations"] == listed, "an answer of no leaves it as it was"
    on_a_terminal("y\n", "rollback", home.file, "--to", first[:-6])
    assert run("rollback", "--to", second[:-6], "--json")["after"] == second
    several = command("rollback", home.file, "--to", "operated_")
    assert (several.returncode, f"{second} (live), {first} (earlier)" in several.stderr) == (2, True)
    assert run("rollback", "--to", "previous", "--json") | {"nodes": 0} == {
        "alias": "operated",
        "before": second,
        "after": first,
        "documents": 5,
        "nodes": 0,
    }
    refused = command("drop", home.file, "live", "--yes")
    assert refused.returncode == 2
    assert "is live" in refused.stderr
    unsure = command("drop", home.file, second[:-1])
    assert unsure.returncode == 1
    assert f"Drop {second} (" in unsure.stderr
    assert run("drop", second[:-1], "--yes", "--json") == {"dropped": second}


# --- two nights at once


@pytest.mark.milvus
async def test_the_second_of_two_nights_over_a_server_ends_at_once_having_done_nothing(
    milvus_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, milvus_server, f"test_{document_id(str(tmp_path))[:12]}")
    home.write(TEXTS)
    home.configure()
    reached, go_on = asyncio.Event(), asyncio.Event()
    verify = Night.verify

    async def wait(self: Night) -> int:
        reached.set()
        await go_on.wait()
        return await verify(self)

    monkeypatch.setattr(Night, "verify", wait)
    one = asyncio.create_task(night(home))
    await reached.wait()
    with pytest.raises(IndexBusy, match=f"another night over '{home.name}'"):
        await night(home)
    go_on.set()
    assert (await one)["outcome"] == "promoted"
    assert (await night(home))["outcome"] == "unchanged", "the lease is free again"


async def test_of_two_nights_without_a_lease_the_later_wins_and_the_older_stops_writing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    await night(home)
    home.write(TEXTS | TEA)
    settle = Night.settle

    async def meanwhile(self: Night) -> int:
        await self.open_target(384)
        assert self.target is not None
        other = Contents(self.index.connection)
        await other.claim(self.target.name)
        return await settle(self)

    monkeypatch.setattr(Night, "settle", meanwhile)
    with pytest.raises(IndexTaken, match="another night has taken up"):
        await night(home)
    monkeypatch.undo()
    assert len(await texts_of(home)) == 5
    assert (await night(home))["documents"]["added"] == 1


@ON_LITE
async def test_an_older_night_does_not_switch_readers_away_from_a_later_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await night(home)
    home.write(TEXTS | TEA)
    second = await night(home)
    promote = Night.promote

    async def rolled_back_meanwhile(self: Night) -> None:
        proof = {document_id("texts/tea.txt"): None}
        await self.index.promote(first["generation"], proof, instead_of=second["generation"])
        await promote(self)

    monkeypatch.setattr(Night, "promote", rolled_back_meanwhile)
    home.write(TEXTS | {"tea.txt": "Black tea is stronger."})
    with pytest.raises(IndexTaken, match="readers were switched to"):
        await night(home)
    async with open_index(home.corpus.milvus, home.name) as index:
        assert await live_name(index) == first["generation"]


@ON_LITE
async def test_the_claim_of_a_night_is_gone_when_it_is_done(home: Home) -> None:
    await night(home)
    async with open_index(home.corpus.milvus, home.name) as index:
        live = await live_name(index)
        assert index.connection.properties(live)[WRITER] == ""


# --- a switch that stuck


async def test_a_switch_that_stuck_when_its_night_died_is_healed_by_the_next_night(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias names the new generation, and readers get the old one, as a server now and then has it."""
    first = await night(home)
    home.write(TEXTS | TEA)

    async def die(_index: Index, _collection: str, **_options: bool) -> None:
        raise NightFailed("died")

    monkeypatch.setattr(Index, "finish", die)
    with pytest.raises(NightFailed, match="died"):
        await night(home)
    monkeypatch.undo()
    stuck_reads(monkeypatch, home, first["generation"])
    assert (await night(home))["outcome"] == "unchanged"
    assert STUCK == [], "the switch was not made again"


@ON_LITE
async def test_a_switch_that_comes_loose_after_its_proof_is_healed_by_the_next_night(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await night(home)
    home.write(TEXTS | TEA)
    second = await night(home)
    stuck_reads(monkeypatch, home, first["generation"])
    report = await night(home)
    assert (report["outcome"], report["generation"]) == ("unchanged", second["generation"])
    assert "the switch was made again" in report["warnings"][0]
    assert STUCK == []


@ON_SERVER
async def test_a_first_alias_is_proven_by_one_read_and_a_switch_by_three(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is an alias there is no other collection that the server could go on answering from."""
    reads: list[bool] = []
    seen = Index.seen

    async def counted(self: Index, documents: Collection[str], **options: Any) -> Mapping[str, str] | None:
        reads.append(bool(documents))
        return await seen(self, documents, **options)

    monkeypatch.setattr(Index, "seen", counted)
    first = await night(home)
    assert (first["outcome"], reads) == ("promoted", [True])
    home.write(TEXTS | TEA)
    reads.clear()
    await night(home)
    assert reads[1:] == [True] * 3, "the first is that of the switch of last night"


STUCK: list[str] = []
"""The collection that reads through the alias come from, until the alias is altered again."""


def stuck_reads(monkeypatch: pytest.MonkeyPatch, home: Home, collection: str) -> None:
    STUCK[:] = [collection]
    query, alter = MilvusClient.query, MilvusClient.alter_alias

    def query_stuck(self: MilvusClient, collection_name: str, *arguments: Any, **options: Any) -> Any:
        return query(
            self, (STUCK or [home.name])[0] if collection_name == home.name else collection_name, *arguments, **options
        )

    def alter_heals(self: MilvusClient, *arguments: Any, **options: Any) -> None:
        STUCK.clear()
        alter(self, *arguments, **options)

    monkeypatch.setattr(MilvusClient, "query", query_stuck)
    monkeypatch.setattr(MilvusClient, "alter_alias", alter_heals)
