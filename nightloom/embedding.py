"""The embedder: which model, how much it reads, what identifies it, and texts to vectors."""

import asyncio
import hashlib
import importlib.util
import json
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nightloom.corpus import EmbedderSettings
from nightloom.errors import EmbedderError, EmbeddingError
from nightloom.sources import hash_file

PACKAGE_SCHEME = "package:"
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What a model is made of, README and other formats of the same weights left out."""
UNBOUNDED = 1_000_000
"""Tokenizers without a limit say so with a huge number."""

Vectors = npt.NDArray[np.float32]


class Embedder:
    """A model on disk; its weights are loaded at the first text, so that a night without work never loads them.

    Attributes:
        folder: The model's files.
        max_tokens: Tokens that it reads of a text, special tokens included.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        """Find the model and read its limits.

        Raises:
            EmbedderError: Unknown model, no network for it, or weights that are not safetensors.
        """
        self.settings = settings
        self.folder = find_model(settings.model, settings.revision)
        self.max_tokens = _read_limit(self.folder)
        self._one_caller = threading.Lock()

    @cached_property
    def identity(self) -> str:
        """sha256 over the model's files and the prefix of its texts: equal means comparable vectors."""
        digest = hashlib.sha256(json.dumps({"text_prefix": self.settings.text_prefix}).encode())
        for file in sorted(_model_files(self.folder)):
            digest.update(f"{file.relative_to(self.folder).as_posix()} {hash_file(file)[0]}\n".encode())
        return digest.hexdigest()

    @property
    def description(self) -> str:
        """What `described` opens again: identity and settings as JSON; it is kept with a generation."""
        return json.dumps({"identity": self.identity, "settings": self.settings.model_dump()}, sort_keys=True)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer  # noqa: PLC0415  a night without work needs no tokenizer

        file = self.folder / "tokenizer.json"
        tokenizer: Any
        if file.exists():
            tokenizer = Tokenizer.from_file(str(file))
        else:
            from transformers import AutoTokenizer  # noqa: PLC0415  seconds to import, and few models need it

            tokenizer = getattr(AutoTokenizer.from_pretrained(str(self.folder)), "backend_tokenizer", None)
            if tokenizer is None:
                raise EmbedderError(f"{self.settings.model}: has no fast tokenizer; nodes cannot be measured with it")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def count_tokens(self, text: str) -> int:
        """Tokens that the model would read of a text, special tokens included, prefix not."""
        return len(self._tokenizer.encode(text).ids)

    @cached_property
    def special_tokens(self) -> int:
        """Tokens that the model puts around every text."""
        return self.count_tokens("")

    def truncated_tokens(self, texts: list[str]) -> int:
        """Tokens of the texts, with the prefix, that lie beyond what the model reads."""
        prefix = self.settings.text_prefix
        encodings = self._tokenizer.encode_batch_fast([prefix + text for text in texts])
        return sum(max(0, len(encoding.ids) - self.max_tokens) for encoding in encodings)

    @cached_property
    def _model(self) -> Any:
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding  # noqa: PLC0415  loads torch: seconds
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()

        # The prefixes are put on by us: this class would choose some of its own where an empty one is given.
        return HuggingFaceEmbedding(
            str(self.folder),
            embed_batch_size=self.settings.batch_size,
            max_length=self.max_tokens,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )

    async def embed_texts(self, texts: list[str]) -> Vectors:
        """Embed the texts of nodes.

        Args:
            texts: n texts, each within `max_tokens` with the prefix; more is cut off by the model.

        Returns:
            float32, shape (n, dim), in the order of the texts: rows of unit L2 norm, but for `unusable` ones.

        Raises:
            EmbeddingError: The model gave a wrong count.
        """
        return await self._in_thread([self.settings.text_prefix + text for text in texts])

    async def embed_queries(self, queries: list[str]) -> Vectors:
        """Embed queries; the same as `embed_texts`, with the query prefix.

        Raises:
            EmbeddingError: The model gave a wrong count, or a vector that is zero or not finite.
        """
        vectors = await self._in_thread([self.settings.query_prefix + query for query in queries])
        if (bad := int(unusable(vectors).sum())) > 0:
            raise EmbeddingError(
                f"{self.settings.model}: {bad} of {len(queries)} queries have embeddings that are zero or not finite"
            )
        return vectors

    async def _in_thread(self, texts: list[str]) -> Vectors:
        abandoned = threading.Event()
        try:
            return await asyncio.to_thread(self._embed, texts, abandoned)
        finally:
            abandoned.set()  # cancelled or timed out: the thread ends with its batch

    def _embed(self, texts: list[str], abandoned: threading.Event) -> Vectors:
        # Texts of like length share a batch: padding is what a batch wastes. One caller has all the cores.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        rows: list[list[float]] = []
        with self._one_caller:
            for start in range(0, len(order), self.settings.batch_size):
                if abandoned.is_set():
                    break
                batch = order[start : start + self.settings.batch_size]
                rows += self._model.get_text_embedding_batch([texts[index] for index in batch])
        found = np.asarray(rows, dtype=np.float32)
        vectors = np.empty_like(found)
        if len(found) == len(texts):
            vectors[order] = found
        return checked(vectors, len(texts), self.settings.model)


def described(description: str) -> Embedder | None:
    """The embedder that a generation was made with; None where its model cannot be had any more, or has changed."""
    try:
        kept = json.loads(description)
        embedder = Embedder(EmbedderSettings.model_validate(kept["settings"]))
        return embedder if embedder.identity == kept["identity"] else None
    except (EmbedderError, ValueError, KeyError, TypeError):
        return None


def checked(vectors: Vectors, count: int, model: str) -> Vectors:
    """The vectors, if there are as many as texts.

    Raises:
        EmbeddingError: Not of shape (count, dim).
    """
    if vectors.ndim != 2 or len(vectors) != count:  # noqa: PLR2004  rows and columns
        raise EmbeddingError(f"{model}: {count} texts gave embeddings of shape {vectors.shape}")
    return vectors


def unusable(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Which vectors are zero or not finite: no metric compares them with anything.

    Args:
        vectors: Shape (n, dim).

    Returns:
        Shape (n,).
    """
    return np.asarray(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))


def find_model(name: str, revision: str | None = None, key: str = "embedder.model") -> Path:
    """The folder that holds a model's files, fetched from the hub where it must be.

    Args:
        name: A hub name, an absolute path, or "package:NAME".
        revision: Commit of a hub model.
        key: Of the corpus file, which errors name.

    Raises:
        EmbedderError: Says what is wrong with the name, the network or the files.
    """
    if name.startswith(PACKAGE_SCHEME):
        folder = _package_model(name.removeprefix(PACKAGE_SCHEME), key)
    elif Path(name).is_absolute():
        folder = Path(name)
    else:
        folder = _hub_model(name, revision, key)
    if not folder.is_dir():
        raise EmbedderError(f"{key}: {name}: there is no such folder; mend the path, or give a hub name")
    if not (folder / "config.json").exists():
        raise EmbedderError(f"{key}: {name}: no model in {folder}: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise EmbedderError(
            f"{key}: {name}: its weights are not safetensors, and other formats can run code when loaded;"
            " convert them, or choose a model that has model.safetensors"
        )
    return folder


def _package_model(package: str, key: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise EmbedderError(f"{key}: {PACKAGE_SCHEME}{package}: no such package is installed; install it with pip")
    found = sorted(Path(spec.origin).parent.rglob("config.json"), key=lambda file: len(file.parts))
    if not found:
        raise EmbedderError(f"{key}: {PACKAGE_SCHEME}{package}: the package carries no model")
    return found[0].parent


def _hub_model(name: str, revision: str | None, key: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  only models of the hub need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(MODEL_FILES), ignore_patterns=["onnx/*", "openvino/*"]
            )
        )
    except LocalEntryNotFoundError:
        reason = (
            "it is not in the local cache, and the hub cannot be reached or HF_HUB_OFFLINE is set; check the name and"
            " the network, or give a local folder or package:NAME"
        )
    except HFValidationError:
        reason = "that is no name of a model; a local folder begins with ./ or /"
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        reason = f"the hub answers HTTP {status}: check the name, the revision, and HF_TOKEN for a gated model"
    except OSError as error:
        reason = f"{error}"
    raise EmbedderError(f"{key}: {name}: unknown model or no network for it: {reason}")


def _model_files(folder: Path) -> list[Path]:
    return [
        file
        for pattern in MODEL_FILES
        for file in folder.rglob(pattern)
        if not {"onnx", "openvino"} & set(file.relative_to(folder).parts)
    ]


def _read_limit(folder: Path) -> int:
    """Tokens that the model reads, special tokens included, from the files that say so."""
    places = (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
        ("config.json", "max_position_embeddings"),
    )
    for file, key in places:
        limit = _read_json(folder / file).get(key)
        if isinstance(limit, int) and 0 < limit < UNBOUNDED:
            return limit
    raise EmbedderError(f"{folder}: none of its files says how many tokens the model reads")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EmbedderError(f"{file}: cannot be read as JSON: {error}") from None
    return content if isinstance(content, dict) else {}
