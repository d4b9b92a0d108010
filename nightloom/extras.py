"""Packages that only some corpora need: the extras of the installation, and what to say where one is missing."""

from importlib.util import find_spec

MODULES = {"local": ("torch", "transformers", "sentence_transformers", "onnx", "onnxruntime"), "lite": ("milvus_lite",)}
"""What each extra must bring. OpenVINO is not among them: it is not built for every platform."""


def lacking(extra: str) -> str:
    """What to install before a model can run here ("local"), or an index can live in a file ("lite").

    Returns:
        Such as "torch is not installed: pip install 'nightloom[local]'"; "" where nothing is missing.
    """
    missing = [name for name in MODULES[extra] if find_spec(name) is None]
    verb = "is" if len(missing) == 1 else "are"
    return f"{', '.join(missing)} {verb} not installed: pip install 'nightloom[{extra}]'" if missing else ""
