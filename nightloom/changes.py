"""Sections of the corpus file as parameters of one run: the same keys, each of which may be left to the file."""

import functools
import operator
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args

from pydantic import Field, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema

from nightloom.corpus import (
    AnswersSettings,
    EmbedderSettings,
    EvaluationSettings,
    GateSettings,
    IndexSettings,
    MilvusSettings,
    ReadingSettings,
    RetrievalSettings,
    Section,
    ShardSettings,
    SplittingSettings,
)

AsTheFileSays: TypeAlias = SkipJsonSchema[None]
"""What a key is where nobody gives it; the form does not offer it as a choice."""


def changes_of(section: type[Section], name: str) -> type[Section]:
    """The keys of a section, each None unless it is given: None stands for what the corpus file says.

    A form shows titles, help and choices, and no value: were there one, opening a section would send it. What the
    keys must be together is checked once they lie over the file's.

    Args:
        section: Of the corpus file.
        name: Of its table there, by which a form offers it.
    """
    fields: dict[str, Any] = {name: _optional(field) for name, field in section.model_fields.items()}
    kind = section.__name__.replace("Settings", "Changes")
    told: dict[str, Any] = {"__doc__": section.__doc__, "__module__": __name__}
    return create_model(kind, __base__=Section, __cls_kwargs__={"title": f"Keys of [{name}]"}, **told, **fields)


def _optional(field: FieldInfo) -> tuple[Any, Any]:
    plain = _without_none(field.annotation)  # whoever leaves a key empty gives none: the form has one field for it
    kind: Any = Annotated[(plain, *field.metadata)] if field.metadata else plain
    info = Field(None, title=field.title, description=field.description, json_schema_extra=_without_default)
    return kind | AsTheFileSays, info


def _without_none(kind: Any) -> Any:
    kinds = get_args(kind)
    some = [one for one in kinds if one is not NoneType]
    return functools.reduce(operator.or_, some) if NoneType in kinds else kind


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


if TYPE_CHECKING:  # a type checker takes no class that is made at run time
    ReadingChanges: TypeAlias = Section
    SplittingChanges: TypeAlias = Section
    EmbedderChanges: TypeAlias = Section
    MilvusChanges: TypeAlias = Section
    IndexChanges: TypeAlias = Section
    RetrievalChanges: TypeAlias = Section
    EvaluationChanges: TypeAlias = Section
    AnswersChanges: TypeAlias = Section
    GateChanges: TypeAlias = Section
    ShardChanges: TypeAlias = Section
else:
    ReadingChanges = changes_of(ReadingSettings, "reading")
    SplittingChanges = changes_of(SplittingSettings, "splitting")
    EmbedderChanges = changes_of(EmbedderSettings, "embedder")
    MilvusChanges = changes_of(MilvusSettings, "milvus")
    IndexChanges = changes_of(IndexSettings, "index")
    RetrievalChanges = changes_of(RetrievalSettings, "retrieval")
    EvaluationChanges = changes_of(EvaluationSettings, "evaluation")
    AnswersChanges = changes_of(AnswersSettings, "answers")
    GateChanges = changes_of(GateSettings, "gate")
    ShardChanges = changes_of(ShardSettings, "shards")
