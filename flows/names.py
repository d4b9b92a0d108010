"""How flow runs are called."""

from prefect import runtime

from nightloom.corpus_file import corpus_name
from nightloom.flows.parameters import given_name


def run_name() -> str:
    """Corpus, date and time (UTC), such as "demo 2026-11-22 02:00"."""
    given = runtime.flow_run.parameters
    corpus = corpus_name(given.get("corpus_file"), given_name(given))
    return f"{corpus} {runtime.flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"
