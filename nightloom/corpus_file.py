"""How a corpus file becomes one `Corpus`.

Values come, each over the one before, from the file, from the environment (`NIGHTLOOM_SPLITTING__MAX_TOKENS=128`), and
from the parameters of the run, which are plain data.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nightloom.corpus import FORMAT, Corpus, Section, SourceSettings
from nightloom.errors import CorpusFileError
from nightloom.secrets import ANSWERS_KEY, EMBEDDER_KEY, ENVIRONMENT_PREFIX, MILVUS_TOKEN, SECRET_VARIABLES

SHOWN_CHARACTERS = 80
"""Of a wrong value, in a message."""


def load_corpus(
    file: Path | None, sections: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Corpus:
    """Read a corpus file and lay the environment, then the given sections, over it.

    Args:
        file: The TOML file; None when the sections are the whole corpus. Relative paths are relative to its folder
            (without a file: to the working directory).
        sections: Top-level keys and their values, models or plain data. A table is laid over the file's key by key;
            a list, such as `sources`, replaces the file's. None, for a section or a key, counts as not given.
        environ: Environment to read; default the process's own.

    Returns:
        The corpus, every path in it absolute.

    Raises:
        CorpusFileError: Names the file or variable, the key, what is wrong and what to do.
    """
    base = Path.cwd()
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_toml(file)
        base = file.resolve().parent
    origin = str(file) if file is not None else "flow parameters"
    _overlay_environment(values, os.environ if environ is None else environ)
    given = {key: plain for key, value in (sections or {}).items() if (plain := _given(value)) not in (None, {})}
    _overlay_sections(values, given)
    _check_format(values.get("format", FORMAT), origin)
    if file is not None and given:
        origin = f"{file} with the run's parameters ({', '.join(given)})"
    return _with_absolute_paths(check_values(values, origin), base)


def check_values(values: Mapping[str, Any], origin: str) -> Corpus:
    """The corpus that these keys are; its paths are as written.

    Args:
        values: The keys of a corpus file with their values, as reading its TOML gives them.
        origin: What messages call the place that they come from.

    Raises:
        CorpusFileError: As `load_corpus`.
    """
    try:
        return Corpus.model_validate(values)
    except ValidationError as error:
        raise CorpusFileError(_explain(origin, error)) from None


def corpus_name(file: str | Path | None, name: str | None = None) -> str:
    """What to call a corpus that may not load: the name that it gives itself, as far as it can be read.

    Args:
        file: The corpus file, or what was given for one.
        name: That of the run's parameters, which comes first.

    Returns:
        The file's own name, without its ending, where nothing else can be known.
    """
    found: object = name or os.environ.get(f"{ENVIRONMENT_PREFIX}NAME")
    if not found and file:
        with suppress(CorpusFileError):
            found = _read_toml(Path(file)).get("name")
    return found if isinstance(found, str) and found else Path(file or "corpus").stem


def _check_format(found: object, origin: str) -> None:
    """A file of another format has other keys: nothing in it is read, and nothing guessed."""
    if str(found) != str(FORMAT):
        raise CorpusFileError(
            f"{origin}: format = {found!r}: this Nightloom reads format {FORMAT}; take the version of Nightloom that"
            " the file is for, or write the file anew: `nightloom init` makes one"
        )


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorpusFileError(
            f"{file}: there is no such file; `nightloom init` writes one that explains every key"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusFileError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise CorpusFileError(f"{file}: not valid TOML: {error}") from None


def _overlay_environment(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Lay NIGHTLOOM_A__B=value over values["a"]["b"]; digits index a list; JSON lists and objects are understood."""
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in SECRET_VARIABLES:
            continue
        *parents, last = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        known = (parents or [last])[0]
        if known not in Corpus.model_fields:
            raise CorpusFileError(f"environment: {variable}: no key {known!r} in a corpus file{_nearest(known)}")
        target: Any = values
        for part in parents:
            target = _step(target, part, variable)
        text = environ[variable]
        _assign(target, last, json.loads(text) if _is_json(text) else text, variable)


def _step(container: Any, part: str, variable: str) -> Any:
    key = _key_in(container, part, variable)
    if isinstance(container, dict) and not isinstance(container.get(key), dict | list):
        container[key] = {}
    return container[key]


def _assign(container: Any, part: str, value: Any, variable: str) -> None:
    container[_key_in(container, part, variable)] = value


def _key_in(container: Any, part: str, variable: str) -> Any:
    if isinstance(container, dict):
        return part
    if not isinstance(container, list):
        raise CorpusFileError(
            f"environment: {variable}: the corpus file has {container!r} there, and no {part!r} in it"
        )
    if part.isascii() and part.isdigit() and int(part) < len(container):
        return int(part)
    raise CorpusFileError(f"environment: {variable}: {part!r} is no position in a list of {len(container)}")


def _is_json(text: str) -> bool:
    if not text.startswith(("[", "{")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _overlay_sections(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if not isinstance(value, dict):
            values[key] = value
        elif isinstance(table := values.setdefault(key, {}), dict):  # else validation says what is wrong in the file
            table.update(value)


def _given(value: Any) -> Any:
    """Models as plain data of the keys that were given, so that validation runs once, over everything."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, list | tuple):
        return [_given(item) for item in value]
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if item is not None}
    return value


SECRETS = {
    "milvus.token": MILVUS_TOKEN,
    "embedder.api_key": EMBEDDER_KEY,
    "answers.api_key": ANSWERS_KEY,
}
"""Keys that people write from habit, and the variable in which the secret belongs."""


def _explain(origin: str, error: ValidationError) -> str:
    lines = []
    problems = error.errors()
    # A list that lost its wrong items is then too short as well: only the items are wrong.
    inner = {problem["loc"][:depth] for problem in problems for depth in range(1, len(problem["loc"]))}
    for problem in problems:
        if problem["loc"] in inner:
            continue
        location = ".".join(str(part + 1) if isinstance(part, int) else part for part in problem["loc"])
        match problem["type"]:
            case "extra_forbidden" if location in SECRETS:
                lines.append(
                    f"{location}: secrets do not stand in this file; put it into the environment as"
                    f" {SECRETS[location]}, or into a Prefect Secret block that {location}_block names"
                )
            case "extra_forbidden":
                lines.append(f"{location}: unknown key{_nearest(str(problem['loc'][-1]))}")
            case "missing":
                lines.append(f"{location}: this key must be given")
            case "string_pattern_mismatch" if problem["loc"] == ("name",):
                lines.append(
                    f"name: Milvus refuses {problem['input']!r} as an alias; use letters, digits and underscores,"
                    " not a digit first"
                )
            case "value_error":
                lines.append(f"{location}: {problem['ctx']['error']}")
            case "model_type":
                lines.append(f"{location}: a table: write [{location}], and its keys below; found {_shown(problem)}")
            case "tuple_type" if problem["loc"] == ("sources",):
                lines.append(
                    f"sources: a list of tables: write [[sources]], with two brackets; found {_shown(problem)}"
                )
            case _:
                says = problem["msg"].replace("Input should", "this should")
                lines.append(f"{location}: {says}; found {_shown(problem)}")
    listed = "\n  ".join(lines)
    return f"{origin}: {listed}" if len(lines) == 1 else f"{origin}:\n  {listed}"


def _shown(problem: ErrorDetails) -> str:
    whole = problem["loc"] in {("milvus",), ("answers",), ("embedder",)}
    if whole or {"header_env", "options", "options_env", "base_url"} & set(problem["loc"]):
        return "what is not repeated here, as it may hold a password"
    text = repr(problem["input"])
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _nearest(key: str) -> str:
    known: set[str] = set(Corpus.model_fields)
    for section in Section.__subclasses__():
        known.update(section.model_fields)
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "; a file that `nightloom init` writes explains every key"


def _with_absolute_paths(corpus: Corpus, base: Path) -> Corpus:
    def absolute(path: Path | None) -> Path | None:
        try:
            return None if path is None else Path(os.path.normpath(base / path.expanduser()))
        except RuntimeError as error:
            raise CorpusFileError(f"{path}: {error}") from None

    def located(source: SourceSettings) -> SourceSettings:
        written = source.file or source.git_folder
        name = source.name or _default_name(source, written)
        paths = {kind: absolute(getattr(source, kind)) for kind in ("path", "jsonl", "csv", "parquet")}
        git = str(absolute(source.git_folder)) if source.git_folder else source.git
        return source.model_copy(update={**paths, "git": git, "name": name})

    sources = tuple(located(source) for source in corpus.sources)
    updates: dict[str, Any] = {"sources": sources, "reports": absolute(corpus.reports)}
    milvus: dict[str, Any] = {"ca_file": absolute(corpus.milvus.ca_file)}
    if corpus.milvus.file:
        milvus["uri"] = str(absolute(corpus.milvus.file))
    updates["milvus"] = corpus.milvus.model_copy(update=milvus)
    if corpus.evaluation:
        files = {key: absolute(getattr(corpus.evaluation, key)) for key in ("queries", "qrels", "folder")}
        updates["evaluation"] = corpus.evaluation.model_copy(update=files)

    def located_model(name: str) -> str:
        is_folder = name.startswith((".", "/", "~")) or (base / name).is_dir()
        return str(absolute(Path(name))) if is_folder else name

    key = "tokenizer" if corpus.embedder.is_remote else "model"
    if model := getattr(corpus.embedder, key):
        updates["embedder"] = corpus.embedder.model_copy(update={key: located_model(model)})
    if corpus.retrieval.reranker:
        reranker = located_model(corpus.retrieval.reranker)
        updates["retrieval"] = corpus.retrieval.model_copy(update={"reranker": reranker})
    return corpus.model_copy(update=updates)


def _default_name(source: SourceSettings, written: Path | None) -> str | None:
    """What the URIs of a source begin with, where it has no name of its own; None where they are addresses."""
    if written and written.name == "..":
        raise CorpusFileError(
            f"sources: {source.kind} = {str(written)!r}: give the source a name, as its URIs begin with it"
        )
    if source.git:
        return re.split(r"[/:]", source.git.rstrip("/"))[-1].removesuffix(".git") or None
    return written.name if written else None
