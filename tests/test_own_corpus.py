"""A deployment is for the corpus that it is named after: no flow takes another one from its parameters."""

from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async

from nightloom.errors import CorpusFileError, InputError
from nightloom.flows.nightly_reindex import nightly_reindex
from nightloom.flows.promote import promote
from nightloom.flows.prune import prune
from nightloom.flows.query_evaluation import query_evaluation
from nightloom.flows.rollback import rollback
from nightloom.flows.verify import verify
from nightloom.tasks.own_corpus import is_of, load_own_corpus
from tests.builders import MODEL

FLOWS: list[Flow[..., Any]] = [nightly_reindex, query_evaluation, verify, rollback, promote, prune]


async def run_of(flow: Flow[..., Any], deployment: str, **parameters: Any) -> Any:
    """Run a flow here as a worker would for a deployment."""
    async with get_client() as client:
        made = await client.create_deployment(await client.create_flow(flow), deployment)
        run = await client.create_flow_run_from_deployment(made)
    return await run_flow_async(flow, flow_run=run, parameters=parameters)


def write_corpus(file: Path, name: str) -> Path:
    """A corpus without a document, so that nothing but the refusal can be said first."""
    keys = (
        f'name = "{name}"\n[[sources]]\npath = "nowhere"\n[embedder]\nmodel = "{MODEL}"\n[milvus]\nuri = "{name}.db"\n'
    )
    file.write_text(keys, encoding="utf-8")
    return file


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
async def test_a_deployment_refuses_another_corpus(flow: Flow[..., Any], tmp_path: Path) -> None:
    theirs = write_corpus(tmp_path / "demo.toml", "demo")
    says = r"deployment 'docs-docker' is for the corpus 'docs', and .*demo\.toml is 'demo'"
    with pytest.raises(InputError, match=says):
        await run_of(flow, "docs-docker", corpus_file=theirs, **({"reason": "x"} if flow is promote else {}))


@pytest.mark.usefixtures("prefect_api")
async def test_a_deployment_refuses_another_alias_of_its_own_corpus(tmp_path: Path) -> None:
    ours = write_corpus(tmp_path / "docs.toml", "docs")
    with pytest.raises(InputError, match=r"is for the corpus 'docs', and .* is 'demo'"):
        await run_of(nightly_reindex, "docs", corpus_file=ours, changes={"name": "demo"})
    with pytest.raises(InputError, match="nowhere"):
        await run_of(nightly_reindex, "docs", corpus_file=ours)


async def test_a_run_without_a_deployment_may_have_any_corpus(tmp_path: Path) -> None:
    assert (await load_own_corpus(write_corpus(tmp_path / "x.toml", "docs"))).name == "docs"
    with pytest.raises(CorpusFileError, match="no such file"):
        await load_own_corpus(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("deployment", "theirs"),
    [("docs", True), ("docs-docker", True), ("docs2", False), ("my-docs", False), ("d", False)],
)
def test_the_name_of_a_deployment_says_whose_it_is(deployment: str, *, theirs: bool) -> None:
    assert is_of(deployment, "docs") is theirs
