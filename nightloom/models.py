"""Models on disk: where their files are, how much they read, and what identifies them."""

import importlib.util
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nightloom.errors import EmbedderError
from nightloom.sources import hash_file

PACKAGE_SCHEME = "package:"
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What a model is made of, README and other formats of the same weights left out."""
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")
"""What a tokenizer is made of."""
HASHES = 100
"""Of files, that are remembered."""
UNBOUNDED = 1_000_000
"""Tokenizers without a limit say so with a huge number."""


class Model(NamedTuple):
    """A model on disk, and what tells it from what may lie there tomorrow.

    Attributes:
        weights: Of all its files: hex digits.
    """

    folder: Path
    weights: str


def find_model(name: str, revision: str | None = None, key: str = "embedder.model") -> Path:
    """The folder that holds a model's files, fetched from the hub where it must be.

    Args:
        name: A hub name, an absolute path, or "package:NAME".
        revision: Commit of a hub model.
        key: Of the corpus file, which errors name.

    Raises:
        EmbedderError: Says what is wrong with the name, the network or the files.
    """
    folder = _find(name, revision, key, MODEL_FILES)
    if not (folder / "config.json").exists():
        raise EmbedderError(f"{key}: {name}: no model in {folder}: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise EmbedderError(
            f"{key}: {name}: its weights are not safetensors, and other formats can run code when loaded;"
            " convert them, or choose a model that has model.safetensors"
        )
    return folder


def find_tokenizer(name: str, key: str) -> Path:
    """The folder that holds a model's tokenizer, fetched from the hub where it must be; its weights are not.

    Args:
        name: As for `find_model`.
        key: Of the corpus file, which errors name.

    Raises:
        EmbedderError: Says what is wrong with the name, the network or the files.
    """
    folder = _find(name, None, key, ("*.json", "*.txt", *TOKENIZER_FILES))
    if not _tokenizer_files(folder):
        raise EmbedderError(f"{key}: {name}: no tokenizer in {folder}: it has no tokenizer.json")
    return folder


def _find(name: str, revision: str | None, key: str, files: tuple[str, ...]) -> Path:
    if name.startswith(PACKAGE_SCHEME):
        folder = _package_model(name.removeprefix(PACKAGE_SCHEME), key)
    elif is_of_hub(name):
        folder = _hub_model(name, revision, key, files)
    else:
        folder = Path(name)
    if not folder.is_dir():
        raise EmbedderError(f"{key}: {name}: there is no such folder; mend the path, or give a hub name")
    return folder


def is_of_hub(name: str) -> bool:
    """Whether a model is fetched by its name, and may be another one tomorrow."""
    return not name.startswith(PACKAGE_SCHEME) and not Path(name).is_absolute()


def _package_model(package: str, key: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise EmbedderError(f"{key}: {PACKAGE_SCHEME}{package}: no such package is installed; install it with pip")
    found = sorted(Path(spec.origin).parent.rglob("config.json"), key=lambda file: len(file.parts))
    if not found:
        raise EmbedderError(f"{key}: {PACKAGE_SCHEME}{package}: the package carries no model")
    return found[0].parent


def _hub_model(name: str, revision: str | None, key: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  only models of the hub need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(files), ignore_patterns=["onnx/*", "openvino/*"]
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


def _tokenizer_files(folder: Path) -> list[Path]:
    return [file for pattern in TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()]


def pad_token(folder: Path) -> int:
    """What stands where a text of a batch has no token: some models tell by it where their texts end."""
    found = _read_json(folder / "config.json").get("pad_token_id")
    return found if isinstance(found, int) else 0


def contents_of(folder: Path) -> str:
    """Every file of a model by name and hash, a line each: equal means the same model."""
    return _hashed(folder, _model_files(folder))


def tokenizer_of(folder: Path) -> str:
    """Every file of a tokenizer by name and hash, a line each: equal means the same tokenizer."""
    return _hashed(folder, _tokenizer_files(folder))


def _hashed(folder: Path, files: Iterable[Path]) -> str:
    return "".join(f"{file.relative_to(folder).as_posix()} {_hash(file)}\n" for file in sorted(set(files)))


def _hash(file: Path) -> str:
    state = file.stat()
    return _hash_once(file, state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(HASHES)
def _hash_once(file: Path, *_state: int) -> str:
    """A file that is as it was is read once a process."""
    return hash_file(file)[0]


def read_limit(folder: Path) -> int:
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
