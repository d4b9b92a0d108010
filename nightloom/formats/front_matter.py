"""Front matter: the fields that Markdown may begin with, as YAML between `---` or as TOML between `+++`."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

from nightloom.documents import Scalar

MAX_CHARACTERS = 16_000
"""Front matter with more characters than these is taken as text of the document."""
VALUE_CHARACTERS = 1_000
"""A field with more characters than these is no value to filter on, and is taken as text of the document."""
UNREADABLE = "front matter that cannot be read, taken as text"

FRONT_MATTER = re.compile(
    r"\A(?P<fence>---|\+\+\+)[ \t]*(?:\r\n|\r|\n)(?P<fields>.*?)(?:(?<=\n)|\r\n|\r|\n)(?P=fence)[ \t]*(?=\r|\n|\Z)",
    re.DOTALL,
)
YAML_TITLE = re.compile(r"^title[ \t]*:(.*)$", re.MULTILINE)
YAML_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?", re.ASCII)
YAML_NULLS = frozenset({"", "~", "null"})
BOOLEANS = frozenset({"true", "false"})


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """What a document says of itself before it begins.

    Attributes:
        end: Where it ends in the text, in characters; 0 where it stays text of the document.
        fields: To filter on.
        texts: Values that are too long for that.
        note: What was done about it, in words for the run report; "" for nothing.
    """

    end: int = 0
    title: str = ""
    fields: dict[str, Scalar] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    note: str = ""


def read_front_matter(text: str) -> FrontMatter:
    """What front matter says; of a text without any, nothing.

    Only single values, and lists of them as one text, are fields: what is nested is left out. Dates and booleans are
    text as ISO 8601 and YAML 1.2 write them. YAML with aliases, which can grow without end, is not read.
    """
    found = FRONT_MATTER.match(text)
    if found is None:
        return FrontMatter()
    fence, block = found["fence"], found["fields"]
    try:
        if len(block) > MAX_CHARACTERS:
            raise ValueError("too long")
        pairs = dict(_toml(block) if fence == "+++" else _yaml(block)) if block.strip() else {}
    except _NoFields:
        return FrontMatter()
    except (ValueError, RecursionError):
        return FrontMatter(title=_title(block) if fence == "---" else "", note=UNREADABLE)
    title = str(pairs.pop("title", ""))
    fields, texts = dict[str, Scalar](), list[str]()
    for name, value in pairs.items():
        if isinstance(value, str) and len(value) > VALUE_CHARACTERS:
            texts.append(value)
        elif name and value != "":
            fields[name] = value
    return FrontMatter(found.end(), title, fields, tuple(texts))


class _NoFields(Exception):
    """What stands between the lines is no mapping: a paragraph between two rules."""


def _yaml(block: str) -> Iterator[tuple[str, Scalar]]:
    """Fields of YAML, told from its nodes: nothing is constructed, and `no` and `2026-01-02` stay what was written."""
    from yaml import MappingNode, ScalarNode, YAMLError  # noqa: PLC0415  only front matter needs it

    try:
        top = _composed(block)
    except YAMLError as error:
        raise ValueError("no YAML") from error
    if not isinstance(top, MappingNode):
        raise _NoFields
    for key, node in top.value:
        value = _yaml_value(node)
        if isinstance(key, ScalarNode) and value is not None:
            yield key.value, value


def _composed(block: str) -> Any:
    import yaml  # noqa: PLC0415  only front matter needs it

    class Loader(yaml.SafeLoader):
        """Refuses aliases."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("holds aliases")
            return super().compose_node(parent, index)

    loader = Loader(block)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _yaml_value(node: Any) -> Scalar | None:
    from yaml import ScalarNode, SequenceNode  # noqa: PLC0415  only front matter needs it

    if isinstance(node, SequenceNode):
        return _joined([_yaml_value(one) if isinstance(one, ScalarNode) else None for one in node.value])
    if not isinstance(node, ScalarNode):
        return None
    text = str(node.value).strip()
    if node.style is not None:  # quoted, or a block: text
        return text
    if text.lower() in YAML_NULLS:
        return None
    if YAML_NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text.lower() if text.lower() in BOOLEANS else text


def _toml(block: str) -> Iterator[tuple[str, Scalar]]:
    for name, value in tomllib.loads(block.replace("\r\n", "\n").replace("\r", "\n")).items():
        held = _joined([_toml_value(one) for one in value]) if isinstance(value, list) else _toml_value(value)
        if held is not None:
            yield name, held


def _toml_value(value: object) -> Scalar | None:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return value
        case str():
            return value.strip()
        case datetime() | date() | time():
            return value.isoformat()
    return None


def _joined(values: list[Scalar | None]) -> str:
    """A list as one text; "" where it holds more than single values."""
    return "" if None in values else ", ".join(map(str, values))


def _title(block: str) -> str:
    """The title of YAML that cannot be read: most often it is the title, with a colon in it."""
    found = YAML_TITLE.search(block)
    title = found[1].strip() if found else ""
    is_quoted = len(title) > 1 and title[0] == title[-1] and title[0] in "\"'"
    return title[1:-1] if is_quoted else title
