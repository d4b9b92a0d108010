"""The corpus of a run: a deployment is for the corpus that it is named after, and refuses another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from nightloom.corpus import Corpus
from nightloom.corpus_file import load_corpus
from nightloom.errors import InputError
from nightloom.tasks.policy import patience


def is_of(deployment: str, corpus: str) -> bool:
    """Whether a deployment of this name is for this corpus: it bears its name, or that, a hyphen and more.

    The name of a corpus has no hyphen in it, so that a deployment is for one corpus alone.
    """
    return deployment.partition("-")[0] == corpus


async def load_own_corpus(file: Path | None, sections: Mapping[str, Any] | None = None) -> Corpus:
    """Load the corpus of the flow run that this is called in; a run without a deployment may have any.

    The steps of the run are tried again for as long as the corpus says.

    Args:
        file: As for `load_corpus`.
        sections: As for `load_corpus`.

    Raises:
        CorpusFileError: As `load_corpus`.
        InputError: The deployment of the run is for another corpus.
    """
    corpus = load_corpus(file, sections)
    patience.set(corpus.retry.minutes)
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run and run.deployment_id:
        async with get_client() as client:
            deployment = (await client.read_deployment(run.deployment_id)).name
        if not is_of(deployment, corpus.name):
            raise InputError(
                f"the deployment {deployment!r} is for the corpus {deployment.partition('-')[0]!r}, and"
                f" {file or 'the parameters'} is {corpus.name!r}; run the deployment {corpus.name!r}, or name this one"
                f" {corpus.name!r} or {corpus.name + '-...'!r} in prefect.yaml"
            )
    return corpus
