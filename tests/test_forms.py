"""Forms in which the UI asks for the parameters of a run: a title and help for each, choices where there are some."""

from typing import Any

import pytest
from prefect import Flow

from nightloom.flows.nightly_reindex import nightly_reindex
from nightloom.flows.prune import prune
from nightloom.flows.query_evaluation import query_evaluation
from nightloom.flows.rollback import rollback
from nightloom.flows.verify import verify

FLOWS: tuple[Flow[..., Any], ...] = (nightly_reindex, query_evaluation, rollback, verify, prune)
CHOICES = {
    ("query-evaluation", "missed_floor"): ["hold", "warn"],
    ("prune", "which"): ["seen", "all"],
}
"""Of parameters; those of the keys of a section are in test_corpus_file.py."""


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_parameter_has_a_title_and_help(flow: Flow[..., Any]) -> None:
    assert flow.description
    for name, field in flow.parameters.properties.items():
        assert field["title"] != name, "Prefect's own title"
        assert field["title"][0].isupper()
        assert field["description"].endswith("."), name
        assert CHOICES.get((flow.name, name)) == field.get("enum")


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_nothing_but_the_corpus_file_must_be_filled_in(flow: Flow[..., Any]) -> None:
    assert set(flow.parameters.required) <= {"corpus_file"}
    assert all("default" in field for name, field in flow.parameters.properties.items() if name != "corpus_file")


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_section_is_offered_by_the_name_that_it_has_in_the_corpus_file(flow: Flow[..., Any]) -> None:
    """Prefect shows the title of a section as the choice beside None: the name of a class says nothing there."""
    for name, field in flow.parameters.properties.items():
        for kind in field.get("anyOf", ()):
            if "$ref" in kind and name != "sources":
                section = flow.parameters.definitions[kind["$ref"].rpartition("/")[2]]
                assert section["title"] == f"Keys of [{name}]"
