"""Secrets come from the environment only, and stay masked until the client that needs them is opened."""

import os
from collections.abc import Mapping

from pydantic import SecretStr

ENVIRONMENT_PREFIX = "NIGHTLOOM_"
MILVUS_TOKEN = "NIGHTLOOM_MILVUS_TOKEN"  # noqa: S105  the variable's name, not a token
SECRET_VARIABLES = frozenset({MILVUS_TOKEN})


def milvus_token(environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The token of Milvus ("user:password" or an API key) from NIGHTLOOM_MILVUS_TOKEN; None where it is not set."""
    token = (os.environ if environ is None else environ).get(MILVUS_TOKEN)
    return SecretStr(token) if token else None
