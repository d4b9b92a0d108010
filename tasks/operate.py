"""Operate: what is done with an index beside its nights, each with the retries of a step."""

from pydantic import SecretStr

from nightloom import live, operate
from nightloom.audit import Audit
from nightloom.corpus import Corpus
from nightloom.generations import Generation
from nightloom.live import Asked
from nightloom.operate import Switch
from nightloom.report import RunReport
from nightloom.tasks.events import announce, promotion, way_back
from nightloom.tasks.pace import access_to
from nightloom.tasks.policy import step


@step("rollback", run_name="rollback {corpus.name}", timeout_seconds=600)
async def switch_back(corpus: Corpus, token: SecretStr | None, to: str | None, seen: str) -> Switch:
    """Switch the alias from what readers saw, and prove it by reads through it."""
    made = await operate.roll_back(corpus, token, to, seen or None)
    announce(way_back(made))
    return made


@step("promote held", run_name="promote a held generation of {corpus.name}", timeout_seconds=600)
async def promote_held(
    corpus: Corpus, token: SecretStr | None, name: str, reason: str, seen: str
) -> tuple[Switch, RunReport]:
    """Switch the alias to a generation that the gate has held, and prove it by reads through it."""
    made, report = await operate.promote_held(corpus, token, name, reason, seen)
    announce(promotion(report, made.before or None))
    return made, report


@step("ask", run_name="ask the golden queries of {corpus.name}", timeout_seconds=3600)
async def ask_live(corpus: Corpus, token: SecretStr | None) -> Asked:
    """Ask the golden queries of the live generation."""
    return await live.evaluate_live(corpus, token, corpus.evaluation, access=await access_to(corpus.embedder))


@step("audit", run_name="look at every row of {corpus.name}", timeout_seconds=3600)
async def audit_live(corpus: Corpus, token: SecretStr | None) -> tuple[Generation, Audit]:
    """Look at every row of the live generation."""
    return await operate.verify_live(corpus, token)


@step("drop", run_name="drop generations of {corpus.name}", timeout_seconds=600)
async def drop_generations(
    corpus: Corpus, token: SecretStr | None, *, unseen: bool = False, dry_run: bool = False
) -> list[str]:
    """Drop the generations beyond index.keep; of a dry run, only their names."""
    return await operate.prune(corpus, token, unseen=unseen, dry_run=dry_run)


@step("list", run_name="list the generations of {corpus.name}", timeout_seconds=600)
async def list_generations(corpus: Corpus, token: SecretStr | None) -> list[Generation]:
    """Every generation of an index, oldest first."""
    return await operate.all_generations(corpus, token)


async def what_is_live(corpus: Corpus, token: SecretStr | None) -> str:
    """The name of what readers see before a switch, to which every try of it is held; "" where they see none."""
    return next((one.name for one in await list_generations(corpus, token) if one.live), "")
