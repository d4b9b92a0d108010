"""What runs the model: the same vectors in every way, the fastest way chosen once, waiting texts embedded together."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightloom import backends, onnx_model
from nightloom.backends import (
    Backend,
    Candidate,
    Encode,
    candidates,
    choose,
    fastest_precision,
    measure,
    measured_elsewhere,
    open_backend,
    working,
)
from nightloom.corpus import EmbedderSettings
from nightloom.embedding import Embedder
from nightloom.engines import batches
from nightloom.errors import EmbedderError, EmbeddingError
from nightloom.local_model import LocalModel
from nightloom.models import Model
from nightloom.vectors import Tokens, Vectors
from tests.nights import MODEL

TEXTS = [f"{'The tide follows the moon, twice a day. ' * (1 + at % 5)} Note {at}." for at in range(23)]
ONNX, TORCH = Candidate("onnx", "fp32"), Candidate("torch", "fp32")
OPENVINO = Candidate("openvino", "fp32")
OPENVINO_INT8, ONNX_INT8 = Candidate("openvino", "int8"), Candidate("onnx", "int8")
OPENVINO_BF16, TORCH_BF16 = Candidate("openvino", "bf16"), Candidate("torch", "bf16")


def settings(**keys: str | int) -> EmbedderSettings:
    return EmbedderSettings.model_validate({"model": MODEL, "precision": "fp32", **keys})


def opened(**keys: str | int) -> Embedder:
    return Embedder(settings(**keys))


def backend_of(embedder: Embedder) -> str:
    assert isinstance(embedder.engine, LocalModel)
    return embedder.engine.backend.name


@pytest.fixture(scope="session")
def model() -> Model:
    return LocalModel(settings()).model


@pytest.fixture(scope="session")
def graph(model: Model) -> Path:
    """The graph of the packaged model, which takes half a minute to make."""
    return onnx_model.onnx_file(model, "fp32")


@pytest.fixture
def cache(tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds that graph alone, here and in processes that are started."""
    folder = tmp_path / "nightloom" / "models"
    folder.mkdir(parents=True)
    (folder / graph.name).symlink_to(graph)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(backends, "CACHE", folder)
    monkeypatch.setattr(onnx_model, "CACHE", folder)
    return folder


# --- vectors


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
async def test_every_backend_gives_the_vectors_of_torch(backend: str) -> None:
    ours, theirs = opened(backend=backend, batch_tokens=200), opened(backend="torch")
    vectors = await ours.embed_texts(TEXTS)
    np.testing.assert_allclose(vectors, await theirs.embed_texts(TEXTS), atol=1e-5)
    assert (backend_of(ours), backend_of(theirs)) == (f"{backend} fp32 on cpu", "torch fp32 on cpu")
    assert ours.identity == theirs.identity


@pytest.mark.parametrize("way", [ONNX, OPENVINO])
async def test_every_core_has_batches_of_its_own(way: Candidate, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "cores", lambda: 5)
    open_backend.cache_clear()
    embedder = opened(backend=way.backend, batch_tokens=64)
    vectors = await embedder.embed_texts(TEXTS)
    names = {thread.name.rpartition("_")[0] for thread in threading.enumerate()}
    open_backend.cache_clear()
    alone = await opened(backend=way.backend, batch_tokens=64).embed_texts(TEXTS)
    assert isinstance(embedder.engine, LocalModel)
    assert (embedder.engine.backend.at_once, "encoder" in names) == (5, True)
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_openvino_has_embedded_before_it_is_given_away(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads whose first embedding is the first of the process wait for each other for ever, once in a while."""
    import openvino  # noqa: PLC0415  seconds

    by: list[str] = []
    infer = openvino.InferRequest.infer

    def spied(*arguments: Any, **more: Any) -> Any:
        by.append(threading.current_thread().name)
        return infer(*arguments, **more)

    monkeypatch.setattr(openvino.InferRequest, "infer", spied)
    backends._opened(model, OPENVINO)
    assert by == [threading.current_thread().name]


def test_openvino_calls_nobody() -> None:
    """Where this package is installed, importing OpenVINO sends word of it; here it is installed, as OpenVINO asks."""
    code = """
import sys
from importlib.util import find_spec
assert find_spec("openvino_telemetry"), "not installed"
from tests.test_backends import OPENVINO, LocalModel, backends, np, settings
backends._opened(LocalModel(settings()).model, OPENVINO)(np.ones((1, 3), dtype=int), np.ones((1, 3), dtype=int))
print(sys.modules["openvino"].__name__, sys.modules["openvino_telemetry"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["openvino", "None"], done.stderr


@pytest.mark.parametrize(
    ("backend", "precision", "least"),
    [("onnx", "int8", 0.98), ("openvino", "int8", 0.995), ("torch", "bf16", 0.999), ("openvino", "bf16", 0.999)],
)
async def test_a_lower_precision_gives_almost_the_same_vectors_and_another_identity(
    embedder: Embedder, backend: str, precision: str, least: float
) -> None:
    exact, rough = await embedder.embed_texts(TEXTS), opened(backend=backend, precision=precision)
    vectors = await rough.embed_texts(TEXTS)
    alike = (vectors * exact).sum(axis=1)
    assert least < alike.min()
    if (backend, precision) != ("openvino", "bf16"):  # which computes with fp32 where the processor has no bf16
        assert alike.min() < 0.99999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert rough.identity != embedder.identity


@pytest.mark.parametrize(("inner", "outer"), [(384, 1536), (312, 100), (33, 7)])
@pytest.mark.parametrize("transposed", [False, True])
def test_layers_of_any_size_compute_almost_the_same_with_8_bits(inner: int, outer: int, transposed: bool) -> None:
    import openvino  # noqa: PLC0415  seconds
    from openvino import opset13  # noqa: PLC0415

    chance = np.random.default_rng(0)
    weights = chance.normal(size=(inner, outer)).astype(np.float32)
    weights[:, 0] = 0  # a channel that says nothing
    given = opset13.parameter([-1, -1, inner], np.float32)
    layer = opset13.matmul(given, opset13.constant(weights.T if transposed else weights), False, transposed)
    graph = openvino.Model([layer], [given])
    backends._narrow(graph)
    kinds = [node.get_element_type().to_string() for node in graph.get_ops() if node.get_type_name() == "Constant"]
    assert any("8" in kind for kind in kinds) == (inner % 4 == 0), kinds
    numbers = chance.normal(size=(2, 9, inner)).astype(np.float32)
    found = openvino.Core().compile_model(graph, "CPU", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": backends.GROUP})(numbers)[0]
    wanted = numbers @ weights
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
    assert not found[..., 0].any()


def test_torch_has_no_int8(model: Model) -> None:
    with pytest.raises(EmbedderError, match=r'embedder\.backend: torch has no int8 here.* set backend = "auto"'):
        open_backend(model, "torch", "int8")
    with pytest.raises(EmbedderError, match=r"embedder\.backend: torch has no int8 here"):
        opened(backend="torch", precision="int8")


# --- the choice


def test_a_machine_has_ways_for_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert candidates("auto", "fp32") == [OPENVINO, ONNX, TORCH]
    assert candidates("auto", "int8") == [OPENVINO_INT8, ONNX_INT8]
    assert candidates("onnx", "fp32") == [ONNX]
    monkeypatch.setattr(backends, "computes_bf16", lambda: True)
    assert candidates("auto", "bf16") == [OPENVINO_BF16, TORCH_BF16]
    monkeypatch.setattr(backends, "computes_bf16", lambda: False)
    assert candidates("auto", "bf16") == [OPENVINO_BF16], "torch would emulate it"
    assert candidates("torch", "bf16") == [TORCH_BF16]
    monkeypatch.setattr(backends, "_has_gpu", lambda: True)
    assert candidates("auto", "fp32") == [Candidate("torch", "fp32", "cuda"), OPENVINO, ONNX, TORCH]
    assert candidates("onnx", "fp32") == [ONNX]
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "openvino" else name)
    assert candidates("openvino", "fp32") == []


@pytest.mark.parametrize(
    ("computes", "bf16_rate", "backend", "precision"),
    [
        (True, 200.0, "auto", "bf16"),
        (True, 115.0, "auto", "bf16"),
        (True, 105.0, "auto", "fp32"),
        (False, 200.0, "auto", "fp32"),
        (True, 200.0, "onnx", "fp32"),
    ],
)
def test_a_new_index_gets_the_precision_that_its_machine_computes_fastest_with(
    cache: Path,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    computes: bool,
    bf16_rate: float,
    backend: str,
    precision: str,
) -> None:
    rates = {str(OPENVINO_BF16): bf16_rate, str(TORCH_BF16): 90.0, str(OPENVINO): 100.0, str(ONNX): 95.0}
    monkeypatch.setattr(backends, "computes_bf16", lambda: computes)
    monkeypatch.setattr(backends, "measured_elsewhere", lambda *_arguments: rates)
    assert fastest_precision(model, backend) == precision
    assert bool(list(cache.glob("*.json"))) == (computes and backend == "auto"), "measured only where there is a choice"
    if precision == "bf16":
        monkeypatch.setattr(backends, "measured_elsewhere", None)
        assert choose(model, candidates("auto", "bf16")) == OPENVINO_BF16, "what was measured then is known now"


@pytest.mark.parametrize(("way", "reference", "other"), [(OPENVINO, TORCH, TORCH), (OPENVINO_INT8, ONNX, ONNX_INT8)])
def test_openvino_that_gives_other_vectors_is_not_chosen(
    model: Model, monkeypatch: pytest.MonkeyPatch, way: Candidate, reference: Candidate, other: Candidate
) -> None:
    opened_rightly = backends._opened

    def opened(model: Model, one: Candidate) -> Encode:
        encode = opened_rightly(model, one)
        return (lambda ids, mask: encode(ids[::-1], mask)) if one == way else encode

    assert isinstance(measure(model, [way, other])[str(way)], float)
    monkeypatch.setattr(backends, "_opened", opened)
    found = measure(model, [way, other])
    assert found[str(way)] == f"{way}: gives other vectors than {reference}"
    assert list(working(model, found)) == [str(other)]


def test_the_fastest_way_is_measured_once_and_kept(
    cache: Path, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[object] = []
    caplog.set_level("INFO", "nightloom")

    def measured(*arguments: object) -> dict[str, float]:
        asked.append(arguments)
        return {"onnx fp32 on cpu": 20.0, "torch fp32 on cpu": 30.0}

    monkeypatch.setattr(backends, "measured_elsewhere", measured)
    assert [choose(model, [ONNX, TORCH]) for _ in range(3)] == [TORCH] * 3
    assert len(asked) == 1
    assert caplog.messages == [
        "measuring, once on this machine, which is the fastest: onnx fp32 on cpu, torch fp32 on cpu",
        "texts a second: onnx fp32 on cpu 20.0, torch fp32 on cpu 30.0",
    ]
    (kept,) = cache.glob("*.json")
    kept.write_text('{"onnx fp32 on cpu": 25.0, "torch fp32 on cpu": 30.0}')
    assert choose(model, [ONNX, TORCH]) == ONNX, "torch has to be faster by what it takes to import"
    kept.write_text("no longer JSON")
    assert choose(model, [ONNX, TORCH]) == TORCH
    assert len(asked) == 2


def test_a_way_that_was_not_there_before_is_measured(
    cache: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {str(ONNX): 20.0, str(TORCH): 10.0}
    monkeypatch.setattr(backends, "measured_elsewhere", lambda *_arguments: rates)
    assert choose(model, [ONNX, TORCH]) == ONNX
    rates[str(on_gpu := Candidate("torch", "fp32", "cuda"))] = 900.0
    assert choose(model, [on_gpu, ONNX, TORCH]) == on_gpu
    assert choose(model, [ONNX, TORCH]) == ONNX
    assert len(list(cache.glob("*.json"))) == 1


def test_of_two_processes_that_measure_at_once_both_go_by_what_was_kept_first(
    cache: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_arguments: object) -> dict[str, float]:
        monkeypatch.setattr(backends, "measured_elsewhere", lambda *_arguments: {str(ONNX): 20.0, str(OPENVINO): 10.0})
        assert choose(model, [ONNX, OPENVINO]) == ONNX, "the other one, which is done first"
        return {str(ONNX): 10.0, str(OPENVINO): 20.0}

    monkeypatch.setattr(backends, "measured_elsewhere", measured)
    assert choose(model, [ONNX, OPENVINO]) == ONNX
    assert choose(model, [ONNX, OPENVINO]) == ONNX
    assert {one.suffix for one in cache.iterdir()} == {".onnx", ".json"}, "nothing half-written is left"


def test_a_way_that_does_not_work_is_not_chosen(cache: Path, graph: Path, model: Model) -> None:
    (cache / graph.name.replace("fp32", "int8")).write_bytes(b"no graph")
    assert choose(model, [ONNX_INT8, ONNX]) == ONNX
    (kept,) = cache.glob("*.json")
    rates = json.loads(kept.read_text())
    assert rates.pop(str(ONNX_INT8)) == 0
    assert list(rates) == [str(ONNX)]


def test_a_way_that_ends_the_process_takes_no_other_with_it(
    cache: Path,
    graph: Path,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "nightloom")
    crash = tmp_path / "first on the path" / "openvino.py"
    crash.parent.mkdir()
    crash.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("PYTHONPATH", str(crash.parent), prepend=os.pathsep)
    assert choose(model, [OPENVINO, ONNX]) == ONNX
    (kept,) = cache.glob("*.json")
    assert json.loads(kept.read_text())[str(OPENVINO)] == 0
    assert "not taken on this machine: openvino fp32 on cpu: its process ended with -9" in caplog.messages
    with pytest.raises(EmbedderError, match="no backend works: openvino fp32 on cpu: its process ended with -9"):
        measured_elsewhere(model, [OPENVINO])


def test_where_no_way_works_the_reason_is_said(model: Model) -> None:
    ways = [Candidate("torch", "fp32", "no-such-device"), Candidate("torch", "fp32", "nor-such")]
    found = measure(model, ways)
    assert [str(way) in str(found[str(way)]) for way in ways] == [True, True]
    with pytest.raises(EmbedderError, match=r"no backend works: .*no-such-device.*; .*nor-such"):
        working(model, found)


def test_a_model_that_cannot_be_exported_says_why(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(ValueError, match="no-such-type"):
        onnx_model.onnx_file(Model(tmp_path / "model", "0" * 64), "fp32", here=True)
    assert not list(cache.glob("0000*")), "nothing half-made stays"


def test_what_goes_wrong_in_another_process_is_said_in_this_one(cache: Path, graph: Path, model: Model) -> None:
    (cache / graph.name).unlink()
    (cache / graph.name).write_bytes(b"no graph")
    with pytest.raises(EmbedderError, match=r"cannot be made an ONNX graph: .*(protobuf|parsing)") as refused:
        onnx_model.onnx_file(model, "int8")
    assert str(model.folder) in str(refused.value)
    assert len(list(cache.glob("*"))) == 1, "nothing half-made stays"


def test_a_graph_that_gives_other_vectors_is_refused(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model, "CLOSE", -1.0)
    monkeypatch.setattr(np, "allclose", lambda *_arguments, **_more: False)
    with pytest.raises(EmbedderError, match="other vectors than the model"):
        onnx_model.export(model.folder, tmp_path / "model.onnx")


# --- batches


def test_batches_hold_texts_of_like_length_within_their_limit() -> None:
    lengths = [7, 300, 5, 5, 8, 100, 9]
    found = list(batches(lengths, 20))
    assert sorted(at for batch in found for at in batch) == list(range(len(lengths)))
    longest = [max(lengths[at] for at in batch) for batch in found]
    assert longest == sorted(longest)
    assert all(len(batch) * most <= 20 or len(batch) == 1 for batch, most in zip(found, longest, strict=True))
    assert found[0] == [2, 3]
    assert list(batches([], 20)) == []


class Held(LocalModel):
    """Counts what is embedded at once, and waits before the first batch until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(settings())
        self.go, self.begun = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        self.fails = False

    @property
    def backend(self) -> Backend:
        return Backend("held", 100_000, self.encode)

    async def embed_texts(self, texts: list[str]) -> Vectors:
        return await self.embed(texts, [self.tokens(text) for text in texts], are_nodes=True)

    def encode(self, ids: Tokens, mask: Tokens) -> Vectors:
        self.begun.set()
        self.go.wait()
        self.sizes.append(len(ids))
        if self.fails:
            raise ValueError("broken")
        return np.stack([ids.sum(axis=1), mask.sum(axis=1)], axis=1).astype(np.float32)


async def begun(embedder: Held, texts: list[str]) -> asyncio.Task[Vectors]:
    task = asyncio.create_task(embedder.embed_texts(texts))
    await asyncio.to_thread(embedder.begun.wait)
    return task


async def test_what_waits_is_embedded_together_and_everybody_gets_their_own() -> None:
    embedder = Held()
    first = await begun(embedder, TEXTS[:2])
    others = [asyncio.create_task(embedder.embed_texts(TEXTS[at : at + 3])) for at in (2, 5, 8)]
    await asyncio.sleep(0)
    embedder.go.set()
    found = [await first, *[await other for other in others]]
    assert embedder.sizes == [2, 9]
    expected = [embedder.tokens(text) for text in TEXTS[:11]]
    assert np.concatenate(found).tolist() == [[one.sum(), len(one)] for one in expected]
    work = embedder.work
    assert (work.backend, work.texts) == ("held", 11)
    assert 0 < work.busy_seconds <= work.whole_seconds


async def test_nobody_is_forgotten_who_comes_while_others_are_embedded(embedder: Embedder) -> None:
    async def ask(name: str) -> list[Vectors]:
        return [await embedder.embed_texts([f"{name} {turn}"]) for turn in range(10)]

    found = await asyncio.gather(*(ask(f"caller {number}") for number in range(8)))
    expected = await embedder.embed_texts(["caller 3 7"])
    np.testing.assert_allclose(found[3][7], expected, atol=1e-5)


async def test_a_caller_that_gives_up_takes_nobody_with_it() -> None:
    embedder = Held()
    first = await begun(embedder, TEXTS[:2])
    second = asyncio.create_task(embedder.embed_texts(TEXTS[2:4]))
    third = asyncio.create_task(embedder.embed_texts(TEXTS[4:5]))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.sleep(0)
    embedder.go.set()
    assert (await third).shape == (1, 2)
    assert embedder.sizes == [2, 1]
    for task in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_error_reaches_everybody_who_waited_and_the_next_is_served() -> None:
    embedder = Held()
    embedder.fails = True
    first = await begun(embedder, TEXTS[:2])
    second = asyncio.create_task(embedder.embed_texts(TEXTS[2:4]))
    embedder.go.set()
    for task in (first, second):
        with pytest.raises(ValueError, match="broken"):
            await task
    embedder.fails = False
    assert (await embedder.embed_texts(TEXTS[:1])).shape == (1, 2)


async def test_a_model_that_gives_too_few_vectors_is_an_error() -> None:
    embedder = Held()
    embedder.go.set()
    embedder.encode = lambda ids, mask: np.ones((len(ids) - 1, 2), dtype=np.float32)  # type: ignore[method-assign]  # noqa: ARG005
    with pytest.raises(EmbeddingError, match="2 texts gave embeddings of shape"):
        await embedder.embed_texts(TEXTS[:2])


async def test_a_text_that_is_too_long_is_read_as_far_as_the_model_reads(embedder: Embedder) -> None:
    long = "moon " * 400
    cut = "moon " * (embedder.max_tokens - embedder.special_tokens)
    vectors = await embedder.embed_queries([long, cut])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
