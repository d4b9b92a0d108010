"""How texts are measured: a model's own tokenizer, or an encoding of OpenAI's."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nightloom.errors import EmbedderError
from nightloom.vectors import Tokens

Tokenize = Callable[[str], Tokens]
"""The tokens of a text, special ones included: as many as there are, read by the model or not."""

ENCODINGS = ("cl100k_base", "o200k_base")
"""Of OpenAI's models, by name; their files come with LlamaIndex."""


def tokenizer_in(folder: Path, name: str) -> Tokenize:
    """The tokenizer among the files of a model.

    Raises:
        EmbedderError: It has none that is fast; the text names the model.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415  a night without work needs no tokenizer

    file = folder / "tokenizer.json"
    tokenizer: Any
    if file.exists():
        tokenizer = Tokenizer.from_file(str(file))
    else:
        from transformers import AutoTokenizer  # noqa: PLC0415  seconds to import, and few models need it

        tokenizer = getattr(AutoTokenizer.from_pretrained(str(folder)), "backend_tokenizer", None)
        if tokenizer is None:
            raise EmbedderError(f"{name}: has no fast tokenizer; nodes cannot be measured with it")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: np.array(tokenizer.encode(text).ids, dtype=np.int64)


def tokenizer_of_encoding(name: str) -> Tokenize:
    """One of `ENCODINGS`; what looks like a special token in a text is text."""
    import tiktoken  # noqa: PLC0415  few need it

    package = importlib.util.find_spec("llama_index.core")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "_static" / "tiktoken_cache"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))  # else it is fetched from the network
    encoding = tiktoken.get_encoding(name)
    return lambda text: np.array(encoding.encode(text, disallowed_special=()), dtype=np.int64)
