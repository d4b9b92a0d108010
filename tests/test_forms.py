"""Forms in which the UI asks for the parameters of a run: a title and help for each, choices where there are some."""

import json
from typing import Any

import pytest
from prefect import Flow

from nightloom.flows.nightly_reindex import nightly_reindex
from nightloom.flows.promote import promote
from nightloom.flows.prune import prune
from nightloom.flows.query_evaluation import query_evaluation
from nightloom.flows.rollback import rollback
from nightloom.flows.verify import verify

FLOWS: tuple[Flow[..., Any], ...] = (nightly_reindex, query_evaluation, rollback, promote, verify, prune)
CHOICES = {
    ("query-evaluation", "missed_floor"): ["hold", "warn"],
    ("prune", "which"): ["seen", "all"],
}
"""Of parameters."""


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_parameter_has_a_title_and_help(flow: Flow[..., Any]) -> None:
    assert flow.description
    for name, field in flow.parameters.properties.items():
        assert field["title"] != name, "Prefect's own title"
        assert field["title"][0].isupper()
        assert field["description"].endswith("."), name
        assert CHOICES.get((flow.name, name)) == field.get("enum")


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_nothing_but_the_corpus_file_and_a_reason_must_be_filled_in(flow: Flow[..., Any]) -> None:
    needed = {"corpus_file", "reason"} if flow is promote else {"corpus_file"}
    assert set(flow.parameters.required) <= needed
    assert all("default" in field for name, field in flow.parameters.properties.items() if name not in needed)


NUMBERS_LEFT_EMPTY = {"keep", "floor"}
"""A form sends null for a number that is left empty, and Prefect takes that only where the type says so."""


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_no_row_of_a_form_is_of_the_type_none(flow: Flow[..., Any]) -> None:
    shown = [field for name, field in flow.parameters.properties.items() if name not in NUMBERS_LEFT_EMPTY]
    assert "null" not in json.dumps(shown).replace('"default": null', "")
    assert not flow.parameters.definitions, "a section that is opened sends all of its keys"


def test_the_form_of_a_night_begins_with_what_operators_need() -> None:
    assert list(nightly_reindex.parameters.properties) == ["corpus_file", "allow_removals", "repair", "changes"]
