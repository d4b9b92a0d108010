"""Secrets come from the environment only, and stay masked until the client that needs them is opened."""

import os
from collections.abc import Mapping

from pydantic import SecretStr

ENVIRONMENT_PREFIX = "NIGHTLOOM_"
MILVUS_TOKEN = "NIGHTLOOM_MILVUS_TOKEN"  # noqa: S105  the variable's name, not a token
ANSWERS_KEY = "NIGHTLOOM_ANSWERS_KEY"
OPENAI_KEY = "OPENAI_API_KEY"
"""Of OpenAI's own client; it is sent to OpenAI's own address and nowhere else."""
SECRET_VARIABLES = frozenset({MILVUS_TOKEN, ANSWERS_KEY})


def milvus_token(environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The token of Milvus ("user:password" or an API key) from NIGHTLOOM_MILVUS_TOKEN; None where it is not set."""
    token = (os.environ if environ is None else environ).get(MILVUS_TOKEN)
    return SecretStr(token) if token else None


def answers_key(*, is_openai: bool, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The key of the model's endpoint from NIGHTLOOM_ANSWERS_KEY; None where it is not set.

    Args:
        is_openai: Whether the endpoint is OpenAI's own, for which OPENAI_API_KEY will do.
        environ: Environment to read; default the process's own.
    """
    found = os.environ if environ is None else environ
    key = found.get(ANSWERS_KEY) or (found.get(OPENAI_KEY) if is_openai else None)
    return SecretStr(key) if key else None
