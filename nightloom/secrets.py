"""Secrets come from the environment only, and stay masked until the client that needs them is opened."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from pydantic import SecretStr

ENVIRONMENT_PREFIX = "NIGHTLOOM_"
MILVUS_TOKEN = "NIGHTLOOM_MILVUS_TOKEN"  # noqa: S105  the variable's name, not a token
ANSWERS_KEY = "NIGHTLOOM_ANSWERS_KEY"
EMBEDDER_KEY = "NIGHTLOOM_EMBEDDER_KEY"
OPENAI_KEY = "OPENAI_API_KEY"
"""Of OpenAI's own client; it is sent to OpenAI's own address and nowhere else."""
SECRET_VARIABLES = frozenset({MILVUS_TOKEN, ANSWERS_KEY, EMBEDDER_KEY})


class SecretPlace(NamedTuple):
    """Where a secret may stand.

    Attributes:
        variables: Of the environment; the first that is set wins.
        block: Name of a Prefect Secret block, where there is one.
        key: Of the corpus file, which names the block.
    """

    variables: tuple[str, ...]
    block: str | None
    key: str

    def __str__(self) -> str:
        """For people."""
        first, *others = self.variables
        return f"{first}{''.join(f' (or {other})' for other in others)}, or the block of {self.key}"


def from_environment(place: SecretPlace, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """A secret from the environment; None where no variable of its is set.

    Args:
        place: Where it may stand.
        environ: Environment to read; default the process's own.
    """
    found = os.environ if environ is None else environ
    secret = next((found[name] for name in place.variables if found.get(name)), None)
    return SecretStr(secret) if secret else None
