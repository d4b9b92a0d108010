"""The flow that looks at every row of the live index, and has a night make anew what is not whole."""

from typing import Annotated, Any

from prefect import flow
from prefect.states import Failed

from nightloom.audit import named
from nightloom.errors import IndexInconsistent, NightloomError
from nightloom.flows.ends import completed, ending_in_words
from nightloom.flows.names import run_name
from nightloom.flows.nightly_reindex import nightly_reindex
from nightloom.flows.operating import operating
from nightloom.flows.parameters import CorpusFile, titled
from nightloom.tables import findings_table
from nightloom.tasks.artifacts import show_table
from nightloom.tasks.operate import audit_live


@flow(name="verify", flow_run_name=run_name, persist_result=False, result_serializer="json")
@ending_in_words
async def verify(corpus_file: CorpusFile, repair: Annotated[bool, titled("Repair")] = False) -> dict[str, Any]:
    """Look at every row of the live index, and name the documents with missing, surplus or duplicate rows.

    Counted under Strong consistency. The run fails where a document is not whole, unless it is repaired.

    Args:
        corpus_file: The TOML file, as the worker finds it: relative to the folder that it was started in.
        repair: Run a night that makes those documents anew, where there are any.
    """
    async with operating(corpus_file) as (corpus, token):
        live, found = await audit_live(corpus, token)
        broken = found.findings
        says = f"{live.name}: {found.rows} rows of {len(found.heads)} documents"
        await show_table(corpus.name, "verify", findings_table(broken), f"{says}, {len(broken)} not whole")
        if broken and not repair:
            raise IndexInconsistent(f"{says}, not whole: {named(broken)}; run it with `repair` to make them anew")
        if broken:
            try:
                await nightly_reindex(corpus_file=corpus_file, repair=True)
            except NightloomError as error:  # whoever is to be called has been, by the night's own run
                return Failed(name="Not repaired", message=str(error), data=error)  # type: ignore[return-value]  # raised
            says = f"{says}, {len(broken)} were not whole, and are made anew"
        data = {"generation": live.name, "rows": found.rows, "documents": len(found.heads), "repaired": len(broken)}
        return completed(says, data)
