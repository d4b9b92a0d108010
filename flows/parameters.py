"""Parameters that several flows have, with the titles under which forms show them."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field


def titled(title: str, **limits: Any) -> Any:
    """What a form calls a parameter; Prefect itself would show its name."""
    return Field(json_schema_extra={"title": title}, **limits)


CorpusFile: TypeAlias = Annotated[Path, titled("Corpus file")]
