"""A model as an ONNX graph: made once on a machine, from the model's own files, and kept in the user's cache.

    python -m nightloom.onnx_model SOURCE PRECISION FILE    # what a process of its own does, which needs torch

A night that finds the graph there needs no torch, which takes ten seconds to import and most of a gigabyte.
"""

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from nightloom.errors import EmbedderError
from nightloom.models import Model

EXPORT_VERSION = 2
"""Part of a file's name: raise it whenever the graph that comes of the same model changes."""
OPSET = 17
CACHE = Path(platformdirs.user_cache_dir("nightloom")) / "models"
CLOSE = 1e-3
"""How far a number of a unit vector may be from what torch makes of it, at fp32."""
SHAPES = ((1, 3), (2, 17), (5, 64))
"""Texts and tokens of the batches that a graph is tried with: none of them is what it was traced with."""
TRACED = (3, 11)


def onnx_file(model: Model, precision: str, *, here: bool = False) -> Path:
    """The graph of a model, made where it is not in the cache yet.

    Args:
        model: It.
        precision: "fp32", or "int8": weights of 8 bits, each channel with a scale of its own.
        here: Make it in this process, which then has torch; else in one that ends with it.

    Raises:
        EmbedderError: The model cannot be exported; torch can run it.
    """
    file = CACHE / f"{model.weights[:32]}-{precision}-{EXPORT_VERSION}.onnx"
    if file.exists():
        return file
    source = model.folder if precision == "fp32" else onnx_file(model, "fp32", here=here)
    CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=CACHE) as working:
        made = Path(working) / "model.onnx"
        if here:
            make(source, precision, made)
        else:
            done = run_elsewhere(__name__, str(source), precision, str(made))
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise EmbedderError(f"{model.folder}: cannot be made an ONNX graph: {last}")
        made.replace(file)  # at once: another process sees it whole, or not at all
    return file


def run_elsewhere(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a module of ours in a process of its own, which ends with all that it has loaded, and fetches nothing."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  ours


def make(source: Path, precision: str, file: Path) -> None:
    """Write a graph: of a model's folder at fp32, and of the graph at fp32 at any other precision."""
    if precision == "fp32":
        export(source, file)
    else:
        quantize(source, file)


def export(folder: Path, file: Path) -> None:
    """Write the graph of a model: from tokens to a vector, pooling and norm included.

    Raises:
        EmbedderError: What it computes is not what the model does.
    """
    import torch  # noqa: PLC0415  only this process needs it
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    model = SentenceTransformer(
        str(folder),
        device="cpu",
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "attn_implementation": "eager", "dtype": "float32"},
    )

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]

    whole = Whole().eval()
    axes = {0: "texts", 1: "tokens"}
    torch.onnx.export(
        whole,
        tuple(map(torch.from_numpy, _some(TRACED))),
        str(file),
        input_names=["input_ids", "attention_mask"],
        output_names=["embedding"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "embedding": {0: "texts"}},
        opset_version=OPSET,
        dynamo=False,  # the newer way needs a shape for every axis, which models of the hub do not agree on
    )
    import onnxruntime  # noqa: PLC0415  after torch, as both bring threads of their own

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        ids, mask = _some(shape)
        with torch.inference_mode():
            wanted = whole(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        if found.shape != wanted.shape or not np.allclose(found, wanted, atol=CLOSE):
            raise EmbedderError("the graph gives other vectors than the model")


def _some(shape: tuple[int, int]) -> tuple[Any, Any]:
    """Tokens and mask of a batch in which every text but the first is padded."""
    texts, tokens = shape
    ids = np.random.default_rng(texts).integers(5, 100, size=shape)
    mask = (np.arange(tokens) < tokens - np.arange(texts)[:, None]).astype(np.int64)
    return ids.astype(np.int64), mask


def quantize(exact: Path, file: Path) -> None:
    """Write a graph with weights of 8 bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    quantize_dynamic(
        exact,
        file,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=_widest(exact),
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Weights of 7 bits: on processors without VNNI a sum of two products of 8 bits does not fit where it goes.
        reduce_range=True,
    )


def _widest(file: Path) -> list[str]:
    """The way back from the wide half of the first layer, which stays exact: a few of the numbers that it reads are
    so large that nothing of the others is left in 8 bits. That is a twentieth of the work, and most of the loss."""
    import onnx  # noqa: PLC0415  only this process needs it

    graph = onnx.load(str(file)).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    for node in graph.node:
        shape = next((shapes[name] for name in node.input if node.op_type == "MatMul" and name in shapes), ())
        if len(shape) == 2 and shape[0] > shape[1]:  # noqa: PLR2004  rows and columns
            return [node.name]
    return []


def main() -> int:
    """Make a graph, as the arguments say; an error is the last line of stderr."""
    source, precision, file = sys.argv[1:]
    warnings.simplefilter("ignore")
    try:
        make(Path(source), precision, Path(file))
    except Exception as error:  # noqa: BLE001  any reason means that torch has to do it
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)  # noqa: T201  the caller reads it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
