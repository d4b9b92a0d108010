"""Write the reference pages of docs/ from the code: every key of a corpus file, every command.

    make reference

A test compares them, so that neither can be forgotten.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from nightloom.corpus import Corpus
from nightloom.flows.console import app

DOCS = Path(__file__).resolve().parent.parent / "docs"
Schema = Mapping[str, Any]

CORPUS_FILE = """# The corpus file

Every key of a corpus file, made from the code by `make reference`. [corpora/template.toml](../corpora/template.toml)
has the same keys with an example and a word on when to change them. Any key can be set from the environment:
`NIGHTLOOM_` and the keys in capitals, two underscores between levels, such as `NIGHTLOOM_SPLITTING__MAX_TOKENS=128`. A
key that is not here is refused by name, with the nearest that there is. Secrets never stand in the file.
"""
COMMANDS = """# Commands

Every command with its options, made from the code by `make reference`. Exit codes: 0 done, 1 failed, 2 bad input, 3
held by the gate.
"""


def corpus_file_page() -> str:
    """The page of the keys of a corpus file."""
    schema = Corpus.model_json_schema()
    sections = schema["$defs"]
    own = {name: key for name, key in schema["properties"].items() if _section(key) is None}
    parts = [CORPUS_FILE, "## At the top\n", *_table(own, schema.get("required", ()))]
    for name, key in schema["properties"].items():
        if section := _section(key):
            found = sections[section]
            title = f"[[{name}]]" if key.get("type") == "array" else f"[{name}]"
            parts += [f"\n## {title}\n", f"{_words(found['description'])}\n"]
            parts += _table(found["properties"], found.get("required", ()))
    return "\n".join(parts) + "\n"


def commands_page() -> str:
    """The page of the commands."""
    command = typer.main.get_command(app)
    written: str = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="nightloom"), name="nightloom")
    _, _, commands = written.partition("## `")
    return f"{COMMANDS}\n## `{commands.rstrip()}\n"


PAGES = {"corpus-file.md": corpus_file_page, "commands.md": commands_page}


def _section(key: Schema) -> str | None:
    """The section that a key of the file opens; None for a plain value."""
    kinds = [key, key.get("items", {}), *key.get("anyOf", ())]
    found = next((kind["$ref"] for kind in kinds if "$ref" in kind), None)
    return found.rpartition("/")[2] if found else None


def _table(keys: Mapping[str, Schema], required: object) -> list[str]:
    rows = ["| Key | Value | Default | What it is |", "|---|---|---|---|"]
    for name, key in keys.items():
        default = "required" if name in (required or ()) else _default(key)  # type: ignore[operator]
        cells = (f"`{name}`", _value(key), default, _words(key.get("description", "")))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return rows


def _value(key: Schema) -> str:
    """What may stand behind the equals sign."""
    if "anyOf" in key:
        return " or ".join(dict.fromkeys(_value(kind) for kind in key["anyOf"] if kind.get("type") != "null"))
    if "enum" in key:
        return ", ".join(f'`"{value}"`' for value in key["enum"])
    if "const" in key:
        return f'`"{key["const"]}"`'
    kind = str(key.get("type", "value"))
    words = {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "table"}
    if kind == "array":
        return f"list of {_value(key['items'])}" if "items" in key else "list"
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    said = [f"{word} {key[bound]:,}" for bound, word in bounds.items() if bound in key]
    return " ".join([words.get(kind, kind), *said])


def _default(key: Schema) -> str:
    default = key.get("default")
    return "" if default is None or default in ("", [], {}) else f"`{json.dumps(default)}`"


def _words(text: str) -> str:
    return " ".join(text.split())


def main() -> None:
    """Write both."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
