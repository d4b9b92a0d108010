"""Rollback: the alias back to an earlier generation."""

from pydantic import SecretStr

from nightloom.corpus import Corpus
from nightloom.operate import Switch, roll_back
from tasks.policy import step


@step("rollback", run_name="rollback {corpus.name}", timeout_seconds=600)
async def switch_back(corpus: Corpus, token: SecretStr | None, to: str | None) -> Switch:
    """Switch the alias, and prove it by reads through it."""
    return await roll_back(corpus, token, to)
