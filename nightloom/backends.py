"""What runs a model on this machine: batches of tokens to vectors, by onnxruntime, OpenVINO or torch."""

import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nightloom.errors import EmbedderError
from nightloom.models import Model
from nightloom.onnx_model import CACHE, CLOSE, onnx_file, run_elsewhere
from nightloom.vectors import Tokens, Vectors

LOGGER = logging.getLogger(__name__)

Encode = Callable[[Tokens, Tokens], Vectors]
"""Tokens and mask, each of shape (texts, tokens), to float32 of shape (texts, dim)."""

BATCH_TOKENS = {"cpu": 2_048, "cuda": 65_536}
"""Of a batch, padding included: what the caches of a processor hold, and what keeps a GPU busy."""
CORE_TOKENS = 1_024
"""Of a batch that one core embeds alone, while the others have batches of their own."""
MOST_AT_ONCE = 16
"""Batches: each takes memory of its own."""
TRIAL_TEXTS, TRIAL_TOKENS, TRIAL_RUNS = 8, 128, 6
TORCH_WORTH = 0.8
"""Of its rate: it takes ten seconds and most of a gigabyte to import, in every process."""
BF16_WORTH = 0.9
"""Of its rate: what is hardly faster is not worth another precision than the model was published in."""
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux calls the instructions of x86 and ARM."""
PRECISIONS = {"openvino": ("fp32", "bf16", "int8"), "onnx": ("fp32", "int8"), "torch": ("fp32", "bf16")}
"""Of each backend on a processor."""
MODULES = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}
"""Of each backend: OpenVINO is not built for every platform."""
ROUNDING = {"fp32": CLOSE, "bf16": 0.02, "int8": 0.02}
"""How far two ways may be from each other in any number of a unit vector, and from unit length."""
GROUP = 128
"""Numbers between the layers that OpenVINO rounds to 8 bits with one scale, for each text and token: with 384 it is
hardly faster and loses twice as much, with 32 it is no faster than bf16."""
INT8_STEPS = 127
ALIGNED = 4
"""Numbers that a layer sums over: of an odd count, OpenVINO's products of bytes are wrong at bf16, and the layer stays
exact."""


@dataclass(frozen=True)
class Backend:
    """A model that is open.

    Attributes:
        name: For people: "onnx fp32 on cpu".
        batch_tokens: What suits the device, padding included.
        at_once: Batches that it embeds at the same time, each by a thread that calls `encode`.
    """

    name: str
    batch_tokens: int
    encode: Encode
    at_once: int = 1


@dataclass(frozen=True)
class Candidate:
    """A way to run a model."""

    backend: str
    precision: str
    device: str = "cpu"

    def __str__(self) -> str:
        """Its name, for people."""
        return f"{self.backend} {self.precision} on {self.device}"


EXACT = Candidate("onnx", "fp32")
"""What int8 by OpenVINO is compared with: what onnx rounds is further from the model than this may be."""


@lru_cache(maxsize=2)
def open_backend(model: Model, backend: str, precision: str) -> Backend:
    """Open a model, in the way that is the fastest on this machine where the way is left open.

    Args:
        model: It.
        backend: "auto", "torch", "onnx" or "openvino".
        precision: "fp32", "bf16" or "int8".

    Raises:
        EmbedderError: The model cannot be run so.
    """
    check_ways(backend, precision)
    chosen = choose(model, candidates(backend, precision))
    at_once = batches_at_once(chosen)
    tokens = CORE_TOKENS if at_once > 1 else BATCH_TOKENS[chosen.device]
    return Backend(str(chosen), tokens, _opened(model, chosen), at_once)


def batches_at_once(way: Candidate) -> int:
    """A batch for each core needs no core to wait for another within a batch; torch has one pool for all."""
    return 1 if way.backend == "torch" else min(cores(), MOST_AT_ONCE)


def candidates(backend: str, precision: str) -> list[Candidate]:
    """The ways in which this machine can run a model, those that are usually faster first."""
    found = [
        Candidate(name, precision)
        for name, precisions in PRECISIONS.items()
        if precision in precisions and backend in {"auto", name} and find_spec(MODULES[name])
    ]
    if precision == "bf16" and len(found) > 1 and not computes_bf16():
        found = [one for one in found if one.backend != "torch"]  # it would emulate it, a hundred times as slow
    on_gpu = backend in {"auto", "torch"} and precision in PRECISIONS["torch"] and _has_gpu()
    return [Candidate("torch", precision, "cuda"), *found] if on_gpu else found


def check_ways(backend: str, precision: str) -> None:
    """Refuse a precision that a backend has not.

    Raises:
        EmbedderError: Says what to do.
    """
    if not candidates(backend, precision):
        raise EmbedderError(
            f"embedder.backend: {backend} has no {precision} here, which embedder.precision or the live index asks for;"
            ' set backend = "auto", or another precision, which embeds every document again'
        )


def fastest_precision(model: Model, backend: str) -> str:
    """What a new index is best made with on this machine: measured once, and kept.

    Returns:
        "bf16" where the machine computes with it, and embeds a ninth more texts in a second; else "fp32".

    Raises:
        EmbedderError: No backend works.
    """
    rough = candidates(backend, "bf16")
    if not rough or not (computes_bf16() or _has_gpu()):
        return "fp32"
    return choose(model, [*rough, *candidates(backend, "fp32")]).precision


def computes_bf16() -> bool:
    """Whether the processor has instructions for it."""
    try:
        return not BF16_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False


def choose(model: Model, ways: Sequence[Candidate]) -> Candidate:
    """The fastest of some ways; measured once on a machine, and kept.

    Raises:
        EmbedderError: None of them works.
    """
    if len(ways) == 1:
        return ways[0]
    file = CACHE / f"{model.weights[:32]}-{_machine()}.json"
    names = [str(way) for way in ways]
    rates = _read_rates(file)
    if not rates.keys() >= set(names):  # nothing is kept yet, or there is a GPU now
        LOGGER.info("measuring, once on this machine, which is the fastest: %s", ", ".join(names))
        measured = measured_elsewhere(model, ways)
        LOGGER.info("texts a second: %s", ", ".join(f"{name} {rate:.1f}" for name, rate in measured.items()))
        rates = _read_rates(file)  # as another process may have kept them meanwhile: all shall choose by the same ones
        if not rates.keys() >= set(names):
            rates = {**rates, **dict.fromkeys(names, 0.0), **measured}
            _keep_rates(file, rates)
    return max(ways, key=lambda way: rates[str(way)] * _worth(way))


def _worth(way: Candidate) -> float:
    """Of its rate."""
    return (TORCH_WORTH if way.backend == "torch" else 1) * (BF16_WORTH if way.precision == "bf16" else 1)


def measured_elsewhere(model: Model, ways: Sequence[Candidate]) -> Mapping[str, float]:
    """Texts a second of each way that works, measured by a process of its own: torch is not loaded here for that.

    Raises:
        EmbedderError: None works.
    """
    return working(model, _measured_elsewhere(model, ways))


def _measured_elsewhere(model: Model, ways: Sequence[Candidate]) -> Mapping[str, float | str]:
    """As `measure`; of ways that end the process, each by itself."""
    arguments = [json.dumps([way.backend, way.precision, way.device]) for way in ways]
    done = run_elsewhere("nightloom.backends", str(model.folder), model.weights, *arguments)
    if done.returncode and len(ways) > 1:
        return {name: found for way in ways for name, found in _measured_elsewhere(model, [way]).items()}
    try:
        found: Mapping[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        reason = done.stderr[-500:].strip() or f"its process ended with {done.returncode}"
        return {str(way): f"{way}: {reason}" for way in ways}
    return found


def working(model: Model, found: Mapping[str, float | str]) -> Mapping[str, float]:
    """The rates of what `measure` found to work; of the rest, the log says why not.

    Raises:
        EmbedderError: Nothing did.
    """
    rates = {name: rate for name, rate in found.items() if isinstance(rate, float)}
    failed = "; ".join(why for why in found.values() if isinstance(why, str))
    if not rates:
        raise EmbedderError(f"{model.folder}: no backend works: {failed}")
    if failed:
        LOGGER.info("not taken on this machine: %s", failed)
    return rates


def measure(model: Model, ways: Sequence[Candidate]) -> dict[str, float | str]:
    """Texts a second of each way, by its name, in turns; of one that does not work, why."""
    ids = np.random.default_rng(0).integers(5, 100, size=(TRIAL_TEXTS, TRIAL_TOKENS))
    batch = ids, np.ones_like(ids)
    found: dict[str, float | str] = {}
    opened: dict[Candidate, Encode] = {}
    vectors: dict[Candidate, Vectors] = {}
    for way in ways:
        try:
            if way.backend in {"onnx", "openvino"}:
                onnx_file(model, way.precision if way.backend == "onnx" else "fp32", here=True)
            encode = _opened(model, way)
            vectors[way] = encode(*batch)
            if way == Candidate("openvino", "int8"):
                vectors[EXACT] = _opened(model, EXACT)(*batch)
            opened[way] = encode
        except Exception as error:  # noqa: BLE001  then it is none
            found[str(way)] = f"{way}: {type(error).__name__}: {error}".splitlines()[0]
    for way in list(opened):
        other = EXACT if way.precision == "int8" else replace(way, backend="torch")
        if way.backend == "openvino" and not _agree(vectors[way], vectors.get(other), way.precision):
            found[str(way)] = f"{way}: gives other vectors than {other}"
            del opened[way]
    seconds: dict[Candidate, list[float]] = {way: [] for way in opened}
    for _ in range(TRIAL_RUNS):
        for way, encode in opened.items():
            with ThreadPoolExecutor(batches_at_once(way)) as pool:
                started = time.perf_counter()
                list(pool.map(lambda _: encode(*batch), range(batches_at_once(way))))  # noqa: B023  awaited here
                seconds[way].append((time.perf_counter() - started) / batches_at_once(way))
    return found | {str(way): TRIAL_TEXTS / min(some) for way, some in seconds.items()}


def _agree(vectors: Vectors, others: Vectors | None, precision: str) -> bool:
    """Whether vectors are the same but for rounding, and each nearest to its own, where there are others."""
    if others is None:
        return True
    nearest = (vectors @ others.T).argmax(axis=1)
    return bool(np.allclose(vectors, others, atol=ROUNDING[precision]) and (nearest == np.arange(len(others))).all())


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _opened(model: Model, way: Candidate) -> Encode:
    return OPEN[way.backend](model, way)


def _open_onnx(model: Model, way: Candidate) -> Encode:
    import onnxruntime  # noqa: PLC0415  a night without work needs none

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores() // batches_at_once(way)
    options.log_severity_level = 3
    file = onnx_file(model, way.precision)
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def encode(ids: Tokens, mask: Tokens) -> Vectors:
        (vectors,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        return np.asarray(vectors, dtype=np.float32)

    return encode


def _open_openvino(model: Model, way: Candidate) -> Encode:
    # Importing OpenVINO tells its makers so by this package, unless it cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no module, as import takes it
    import openvino  # noqa: PLC0415  a night without work needs none

    core = openvino.Core()
    graph = core.read_model(str(onnx_file(model, "fp32")))
    settings: dict[str, int | str] = {"INFERENCE_NUM_THREADS": cores(), "NUM_STREAMS": batches_at_once(way)}
    if way.precision == "int8":
        _narrow(graph)
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = GROUP
    is_rough = way.precision == "bf16" or (way.precision == "int8" and computes_bf16())
    settings["INFERENCE_PRECISION_HINT"] = "bf16" if is_rough else "f32"
    compiled = core.compile_model(graph, "CPU", settings)
    own = threading.local()

    def encode(ids: Tokens, mask: Tokens) -> Vectors:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        vectors = own.request.infer({"input_ids": ids, "attention_mask": mask})[0]
        return _of_length_one(np.array(vectors, dtype=np.float32), way.precision)

    # By one thread: of two that meet in its first access to arrays, each can wait for what the other holds, for ever.
    encode(np.ones((1, 1), dtype=np.int64), np.ones((1, 1), dtype=np.int64))
    return encode


def _narrow(graph: Any) -> None:
    """Give the layers of a graph of OpenVINO weights of 8 bits, each channel with a scale of its own."""
    from openvino import opset13  # noqa: PLC0415  as above

    for node in graph.get_ops():
        weights = node.input_value(1).get_node() if node.get_type_name() == "MatMul" else None
        if weights is None or weights.get_type_name() != "Constant" or len(weights.get_output_shape(0)) != 2:  # noqa: PLR2004
            continue  # no layer: numbers of a text by numbers of the same text
        exact = np.asarray(weights.get_data(), dtype=np.float32)
        summed = int(node.get_attributes()["transpose_b"])
        if exact.shape[summed] % ALIGNED:
            continue
        scales = np.abs(exact).max(axis=summed, keepdims=True) / INT8_STEPS
        scales[scales == 0] = 1
        narrow = opset13.convert(opset13.constant(np.round(exact / scales).astype(np.int8)), "f32")
        node.input(1).replace_source_output(opset13.multiply(narrow, opset13.constant(scales)).output(0))


def _open_torch(model: Model, way: Candidate) -> Encode:
    import torch  # noqa: PLC0415  seconds
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    torch.set_num_threads(cores())
    dtype = "bfloat16" if way.precision == "bf16" else "float32"
    embedding = HuggingFaceEmbedding(
        str(model.folder),
        device=way.device,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True, "dtype": dtype},
    )
    transformer = embedding._model  # noqa: SLF001  it tokenizes once more, and one batch at a time goes by count

    def encode(ids: Tokens, mask: Tokens) -> Vectors:
        batch = {"input_ids": ids, "attention_mask": mask}
        tensors = {name: torch.from_numpy(values).to(way.device) for name, values in batch.items()}
        with torch.inference_mode():
            found = transformer(tensors)["sentence_embedding"]
        return _of_length_one(found.float().cpu().numpy(), way.precision)

    return encode


OPEN = {"onnx": _open_onnx, "openvino": _open_openvino, "torch": _open_torch}


def _of_length_one(vectors: Vectors, precision: str) -> Vectors:
    """Vectors of a model that gives unit length, which rounding leaves almost so; others as they are."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    almost = precision != "fp32" and bool((np.abs(norms - 1) < ROUNDING[precision]).all())
    return vectors / norms if almost else vectors


def _has_gpu() -> bool:
    """Whether torch can use one; it is asked only where there may be one."""
    if not Path("/dev/nvidia0").exists():
        return False
    import torch  # noqa: PLC0415  seconds

    return bool(torch.cuda.is_available())


def _machine() -> str:
    """What decides which way is the fastest, as the name of a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        kind = platform.processor()
    libraries = [f"{name}{version(name)}" for name in ("torch", "onnxruntime", "openvino") if find_spec(name)]
    parts = [kind or platform.machine(), f"{cores()}cores", *libraries]
    return "".join(letter if letter.isalnum() or letter == "." else "_" for letter in "-".join(parts))


def _keep_rates(file: Path, rates: Mapping[str, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    whole = file.with_suffix(f".{os.getpid()}")  # what others read is never half a file
    whole.write_text(json.dumps(rates), encoding="utf-8")
    whole.replace(file)


def _read_rates(file: Path) -> Mapping[str, float]:
    try:
        found: Mapping[str, float] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


if __name__ == "__main__":
    folder, weights, *some = sys.argv[1:]
    print(json.dumps(measure(Model(Path(folder), weights), [Candidate(*json.loads(one)) for one in some])))  # noqa: T201  the answer
