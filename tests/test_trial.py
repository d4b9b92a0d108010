"""Nights that build something worse than what readers see are held with the right reason, and harmless ones pass."""

import asyncio
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from nightloom import operate
from nightloom.contents import Contents
from nightloom.embedding import Embedder
from nightloom.errors import EmbeddingError, Held, IndexInconsistent, IndexInputError, NightFailed
from nightloom.index import open_index
from nightloom.models import find_model
from nightloom.night import Night
from nightloom.splitting import Node, Splitter
from nightloom.vectors import Vectors
from tests.builders import MODEL, command
from tests.nights import Home, live_name, night

pytestmark = pytest.mark.usefixtures("prefect_api")

NAMES = sorted(name for name in topics if len(topics[name]) > 1_000 and name.isalpha())[:36]
TEXTS = {f"{name}.txt": " ".join(topics[name].split())[:900] for name in NAMES}
ASKED = NAMES[::3]
REBUILT = "text_prefix = ' '\n"
"""Another fingerprint, with which every document is embedded again, to the same vectors."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    """The folder of a corpus, and of an index that one night has made of it."""
    folder = tmp_path_factory.mktemp("built")
    home = Home(folder, "index.db", "trial")
    home.write(TEXTS)
    configure(home)
    assert command("run", home.file).returncode == 0
    return folder


@pytest.fixture
def home(built: Path, tmp_path: Path) -> Home:
    """A copy of it."""
    shutil.copytree(built, tmp_path / "copy")
    return Home(tmp_path / "copy", "index.db", "trial")


def configure(home: Home, more: str = "", *, model: str = MODEL, golden: bool = True) -> None:
    """A corpus file with a question for every third document."""
    lines = [json.dumps({"_id": name, "text": f"What is said about {name}?"}) for name in ASKED]
    (home.folder / "queries.jsonl").write_text("\n".join(lines))
    (home.folder / "qrels.tsv").write_text("".join(f"{name}\t{name}.txt\t1\n" for name in ASKED))
    evaluation = '[evaluation]\nqueries = "queries.jsonl"\nqrels = "qrels.tsv"\n' if golden else ""
    home.file.write_text(
        f'name = "trial"\n[[sources]]\npath = "texts"\n[milvus]\nuri = "index.db"\n'
        f'{evaluation}[embedder]\nmodel = "{model}"\n{more}'
    )


async def held(home: Home) -> str:
    """Why the gate holds the next night, and that readers see what they saw before."""
    before = await home.rows()
    with pytest.raises(Held) as stopped:
        await night(home)
    assert await home.rows() == before
    return str(stopped.value)


# --- what is worse is held


def of_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors in a space that no question is in."""
    turned, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((384, 384)))
    change_vectors(monkeypatch, lambda vectors: vectors @ turned)


def shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of other texts."""
    change_vectors(monkeypatch, lambda vectors: np.random.default_rng(7).permutation(vectors))


def constant(monkeypatch: pytest.MonkeyPatch) -> None:
    change_vectors(monkeypatch, lambda vectors: np.full_like(vectors, vectors.shape[1] ** -0.5))


def longer(monkeypatch: pytest.MonkeyPatch) -> None:
    change_vectors(monkeypatch, lambda vectors: vectors * 3)


def change_vectors(monkeypatch: pytest.MonkeyPatch, change: Callable[[Vectors], Any]) -> None:
    embed = Embedder.embed_texts

    async def changed(self: Embedder, texts: list[str], *more: Any) -> Vectors:
        return np.asarray(change(await embed(self, texts, *more)), dtype=np.float32)

    monkeypatch.setattr(Embedder, "embed_texts", changed)


def truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of which most of the text is lost."""
    split = Splitter.split

    def cut(self: Splitter, document: Any, version: str) -> list[Node]:
        nodes = split(self, document, version)
        return [
            Node(node.id, document, version, node.position, node.total, node.text[:50], node.place) for node in nodes
        ]

    monkeypatch.setattr(Splitter, "split", cut)


PROBES = r"\d+ of \d+ probes, which are sentences of the corpus, do not find their document"
LOST = r"\d+ of \d+ sentences that readers see today are not in tonight's text"


@pytest.mark.parametrize("golden", [True, False], ids=["golden queries", "no labels"])
@pytest.mark.parametrize(("broken", "reason"), [(of_another_model, PROBES), (shuffled, PROBES), (truncated, LOST)])
async def test_a_worse_generation_is_held_by_its_probes_and_by_golden_queries(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    golden: bool,
) -> None:
    configure(home, REBUILT, golden=golden)
    broken(monkeypatch)
    says = await held(home)
    assert re.search(reason, says)
    if reason == PROBES:  # the beginnings that are left of nodes answer easy questions
        assert bool(re.search(r"nDCG@10 is 0\.\d+, 0\.\d+ below the live generation's", says)) == golden


@pytest.mark.parametrize(
    ("broken", "says"), [(constant, "are one and the same"), (longer, "a vector that is not of unit length")]
)
async def test_vectors_that_no_embedder_gives_are_held(
    home: Home, monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None], says: str
) -> None:
    configure(home, REBUILT)
    broken(monkeypatch)
    assert says in await held(home)


def lose_rows(monkeypatch: pytest.MonkeyPatch, step: str, lost: str = "every tenth row") -> None:
    """Rows are gone after a step of the night: "every tenth row", "a document", or "a head" alone."""
    do = getattr(Contents, step)

    async def lossy(self: Contents, collection: str, *rest: Any, **more: Any) -> Any:
        done = await do(self, collection, *rest, **more)
        client = self.connection.client
        rows = client.query(collection, filter="position >= 0", output_fields=["document_id", "position"], limit=10_000)
        long = next(row["document_id"] for row in rows if row["position"])
        some = {
            "every tenth row": rows[::10],
            "a document": [row for row in rows if row["document_id"] == long],
            "a head": [row for row in rows if row["document_id"] == long and not row["position"]],
        }[lost]
        client.delete(collection, ids=[row["id"] for row in some])
        return done

    monkeypatch.setattr(Contents, step, lossy)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("every tenth row", r"\S*texts/\w+\.txt \(1 missing"),
        ("a document", r"not of tonight's version: \S*texts/\w+\.txt"),
        ("a head", r"\S*texts/\w+\.txt \(1 missing, \d+ surplus\)"),
    ],
)
async def test_documents_whose_rows_are_lost_while_it_is_built_are_named(
    home: Home, monkeypatch: pytest.MonkeyPatch, lost: str, says: str
) -> None:
    configure(home, REBUILT)
    before = await home.rows()
    lose_rows(monkeypatch, "upsert", lost)
    with pytest.raises(IndexInconsistent, match=f"wrong documents: {says}"):
        await night(home)
    assert await home.rows() == before


async def test_rows_that_are_lost_after_they_were_counted_are_missed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home, REBUILT)
    lose_rows(monkeypatch, "verify")
    assert re.search(r"\d+ of \d+ rows that were looked at are not there", await held(home))


ON_TORCH = 'backend = "torch"\n'
"""For a model that nobody has seen before: making it a graph takes longer than all that it embeds."""


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the packaged one's shape that has learnt nothing."""
    folder = tmp_path_factory.mktemp("untrained")
    known = find_model(MODEL)
    config = AutoModel.from_pretrained(known).config
    assert isinstance(config, BertConfig)
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(known).save_pretrained(folder)
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        if (known / name).exists():
            shutil.copy(known / name, folder)
    for part in known.glob("*_*"):
        if part.is_dir():
            shutil.copytree(part, folder / part.name)
    return folder


async def test_an_untrained_embedder_is_held_against_what_the_trained_one_finds(home: Home, untrained: Path) -> None:
    configure(home, ON_TORCH, model=str(untrained))
    says = await held(home)
    assert "below the live generation's" in says
    assert "95 % interval" in says, "the live generation was asked with its own embedder"


async def test_golden_queries_are_embedded_while_rows_are_verified_and_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    embedded_by_then: list[int] = []
    embed, verify = Embedder.embed_queries, Night.verify

    async def counted(self: Embedder, queries: list[str]) -> Vectors:
        vectors = await embed(self, queries)
        if self.settings.text_prefix:  # not that of the live generation, which is asked too
            asked.append(len(queries))
        return vectors

    async def verified(self: Night) -> int:
        rows = await verify(self)
        embedded_by_then.append(sum(asked))
        return rows

    monkeypatch.setattr(Embedder, "embed_queries", counted)
    monkeypatch.setattr(Night, "verify", verified)
    configure(home, REBUILT)
    assert (await night(home))["outcome"] == "promoted"
    assert embedded_by_then == [len(ASKED)]
    assert asked.count(len(ASKED)) == 1


@pytest.mark.parametrize("night_number", [1, 2])
async def test_passages_of_what_was_loaded_are_embedded_while_rows_are_verified(
    home: Home, monkeypatch: pytest.MonkeyPatch, night_number: int
) -> None:
    """All that is drawn is new: in a first night, and in one to which every document has changed."""
    configure(home, golden=False)
    if night_number == 1:
        home.file.write_text(home.file.read_text().replace('name = "trial"', 'name = "fresh"'))
    else:
        home.write({name: f"{text} Another end, which nobody has seen." for name, text in TEXTS.items()})
    asked: list[str] = []
    asked_by_then: list[str] = []
    embed, verify = Embedder.embed_queries, Night.verify

    async def noted(self: Embedder, queries: list[str]) -> Vectors:
        asked.extend(queries)
        return await embed(self, queries)

    async def verified(self: Night) -> int:
        rows = await verify(self)
        asked_by_then.extend(asked)
        return rows

    monkeypatch.setattr(Embedder, "embed_queries", noted)
    monkeypatch.setattr(Night, "verify", verified)
    report = await night(home)
    assert report["probes"]["asked"] == len(asked) == len(set(asked)) >= 30
    assert asked_by_then == asked, "what is drawn from the index is what was taken from the nodes"


async def test_golden_queries_that_failed_while_rows_were_verified_are_embedded_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = Embedder.embed_queries
    failures = iter(["the first time"])

    async def unlucky(self: Embedder, queries: list[str]) -> Vectors:
        if (failure := next(failures, None)) is not None:
            raise EmbeddingError(failure)
        return await embed(self, queries)

    monkeypatch.setattr(Embedder, "embed_queries", unlucky)
    configure(home, REBUILT)
    report = await night(home)
    assert (report["outcome"], report["warnings"]) == ("promoted", [])
    assert next(failures, None) is None


async def test_where_the_live_embedder_is_gone_its_scores_still_count(home: Home, untrained: Path) -> None:
    configure(home, ON_TORCH, model=str(untrained))
    with pytest.MonkeyPatch.context() as gone:
        gone.setattr(Embedder, "other", lambda *_: None)
        assert re.search(r"nDCG@10 .* below the live generation's .* \(not paired\)", await held(home))


async def test_the_first_generation_is_held_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path, "index.db", "trial")
    home.write(TEXTS)
    configure(home, golden=False)
    shuffled(monkeypatch)
    with pytest.raises(Held, match="probes"):
        await night(home)
    async with open_index(home.corpus.milvus, "trial") as index:
        (only,) = await index.generations()
        assert not only.live
        assert "probes" in only.held


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ("floor = { 'nDCG@10' = 1.01 }", r"^nDCG@10 is \d\.\d+, and gate.floor asks for 1.01 at least"),
        ("floor = 1.01", r"nDCG@10 is .*; R@10 is .*; RR@10 is "),
        ("tolerance = { 'RR@10' = -1 }", r"^RR@10 is .* and gate.tolerance allows -1"),
        ("probe_recall = 0.8", ""),
    ],
)
async def test_the_gate_asks_what_the_corpus_file_says(home: Home, gate: str, says: str) -> None:
    configure(home, f"{REBUILT}[gate]\n{gate}\n")
    if says:
        assert re.search(says, await held(home))
    else:
        assert (await night(home))["outcome"] == "promoted"


# --- what is harmless passes


async def test_a_harmless_rebuild_is_promoted_twenty_times_of_twenty(tmp_path: Path) -> None:
    home = Home(tmp_path, "index.db", "trial")
    home.write({name: TEXTS[name] for name in sorted(TEXTS)[:9]})
    for turn in range(21):
        configure(
            home,
            f"batch_tokens = {400 + 40 * turn}\ntext_prefix = '{' ' * (turn % 2)}'\n[index]\nkeep = 0\n",
            golden=False,
        )
        assert (await night(home))["outcome"] == "promoted", turn


async def test_the_report_compares_with_what_is_live(home: Home) -> None:
    configure(home, REBUILT)
    report = await night(home)
    assert [entry["metric"] for entry in report["comparison"]] == ["nDCG@10", "R@10", "RR@10"]
    for entry in report["comparison"]:
        assert entry["paired"]
        assert entry["difference"] == pytest.approx(entry["candidate"] - entry["live"])
        assert entry["low"] <= entry["difference"] <= entry["high"]
    assert report["probes"]["asked"] >= 30
    assert report["probes"]["found"] >= 0.9 * report["probes"]["asked"]
    assert report["vectors"] | {"alike": 0} == {
        "sampled": report["vectors"]["sampled"],
        "absent": 0,
        "unusable": 0,
        "not_unit": 0,
        "alike": 0,
        "duplicate_rate": 0,
        "index_recall": None,
    }
    page = Path(report["file"]).read_text()  # noqa: ASYNC240  nothing else runs meanwhile
    assert "| Metric | Tonight | Live |" in page
    assert "## Probes" in page


# --- overruling


async def test_an_operator_can_overrule_the_gate_and_reports_say_so(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home, REBUILT)
    with monkeypatch.context() as broken:
        shuffled(broken)
        reason = await held(home)
    before, candidate = await generations(home)
    assert (before.state, candidate.state) == ("live", "held")
    assert candidate.held in reason

    promoted = await asyncio.to_thread(command, "promote", home.file, candidate.name, "--yes", "--json")
    assert promoted.returncode == 0, promoted.stderr
    report = json.loads(promoted.stdout)
    assert "an operator promoted it over the gate" in report["reason"]
    assert candidate.held in report["reason"]
    assert Path(report["file"]).exists()  # noqa: ASYNC240  likewise
    async with open_index(home.corpus.milvus, "trial") as index:
        assert await live_name(index) == candidate.name
    shown = (await asyncio.to_thread(command, "generations", home.file)).stdout
    assert "promoted by an operator over the gate" in shown

    again = await night(home)
    assert again["outcome"] == "unchanged"
    assert any("promoted by an operator over the gate" in warning for warning in again["warnings"])


async def generations(home: Home) -> list[operate.Contained]:
    """Oldest first."""
    return (await operate.list_generations(home.corpus, None))[::-1]


async def test_only_what_a_night_found_whole_and_the_gate_held_is_promoted(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (only,) = await generations(home)
    for name, says in ((only.name, "is live already"), ("nothing", "no generation of 'trial'")):
        with pytest.raises(IndexInputError, match=says):
            await operate.promote_held(home.corpus, None, name)
    configure(home, REBUILT)
    with monkeypatch.context() as broken:
        broken.setattr(Contents, "verify", fail)
        with pytest.raises(NightFailed):
            await night(home)
    _, half = await generations(home)
    assert half.state == "half-built"
    with pytest.raises(IndexInputError, match="is half-built"):
        await operate.promote_held(home.corpus, None, half.name)
    await night(home)
    earlier, live = await generations(home)
    assert live.name == half.name
    with pytest.raises(IndexInputError, match="was live once: `nightloom rollback --to"):
        await operate.promote_held(home.corpus, None, earlier.name)


async def fail(*_: Any, **__: Any) -> None:
    raise NightFailed("no")


async def test_a_held_night_ends_in_a_state_of_that_name(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(home, REBUILT)
    shuffled(monkeypatch)
    says = await held(home)
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_="trial ")))
    (state,) = [run.state for run in runs if run.state and says in (run.state.message or "")]
    assert (state.name, state.type.value) == ("Held", "FAILED")
