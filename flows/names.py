"""How flow runs are called."""

from pathlib import Path

from prefect import runtime

from nightloom.corpus import load_corpus
from nightloom.errors import CorpusFileError


def run_name() -> str:
    """Corpus, date and time (UTC), such as "demo 2026-11-22 02:00"."""
    given = runtime.flow_run.parameters
    corpus = given.get("name")
    if corpus is None:
        file = Path(str(given.get("corpus_file")))
        try:
            corpus = load_corpus(file).name
        except CorpusFileError:
            corpus = file.stem
    return f"{corpus} {runtime.flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"
