"""Secrets: from the environment, or from a Prefect Secret block that the corpus file names."""

from typing import Any

from prefect.blocks.system import Secret
from pydantic import SecretStr

from nightloom.corpus import MilvusSettings
from nightloom.errors import CorpusFileError
from nightloom.secrets import MILVUS_TOKEN
from nightloom.secrets import milvus_token as token_from_environment


async def milvus_token(settings: MilvusSettings) -> SecretStr | None:
    """The token of Milvus; the environment wins over the block.

    Raises:
        CorpusFileError: The block that the corpus file names does not exist.
    """
    token = token_from_environment()
    if token is not None or settings.token_block is None:
        return token
    try:
        block: Any = await Secret.aload(settings.token_block)
    except ValueError:
        raise CorpusFileError(
            f"milvus.token_block: there is no Prefect Secret block {settings.token_block!r}; create it, or set"
            f" {MILVUS_TOKEN}"
        ) from None
    return SecretStr(str(block.get()))
