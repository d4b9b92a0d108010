"""Parameters that several flows have, with the titles under which forms show them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema


def titled(title: str, **limits: Any) -> Any:
    """What a form calls a parameter; Prefect itself would show its name."""
    return Field(json_schema_extra={"title": title}, **limits)


def given_name(parameters: Mapping[str, Any]) -> str | None:
    """The name that the changes of a run give its corpus; None where they give it none."""
    changes = parameters.get("changes") or {}
    return changes.get("name")


CorpusFile: TypeAlias = Annotated[Path, titled("Corpus file")]
LeftEmpty: TypeAlias = SkipJsonSchema[None]
"""What a parameter is where nobody gives it; a form does not offer it as a choice, and has one field for the other."""
