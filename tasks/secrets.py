"""Secrets: from the environment, or from a Prefect Secret block that the corpus file names."""

from typing import Any

from prefect.blocks.system import Secret
from pydantic import SecretStr

from nightloom.corpus import AnswersSettings, MilvusSettings
from nightloom.errors import CorpusFileError
from nightloom.secrets import ANSWERS_KEY, MILVUS_TOKEN
from nightloom.secrets import answers_key as key_from_environment
from nightloom.secrets import milvus_token as token_from_environment


async def milvus_token(settings: MilvusSettings) -> SecretStr | None:
    """The token of Milvus; the environment wins over the block.

    Raises:
        CorpusFileError: The block that the corpus file names does not exist.
    """
    token = token_from_environment()
    if token is not None or settings.token_block is None:
        return token
    return await _from_block(settings.token_block, "milvus.token_block", MILVUS_TOKEN)


async def answers_key(settings: AnswersSettings) -> SecretStr | None:
    """The key of the model's endpoint; the environment wins over the block. None for an endpoint that asks for none.

    Raises:
        CorpusFileError: The block that the corpus file names does not exist.
    """
    key = key_from_environment(is_openai=settings.is_openai)
    if key is not None or settings.api_key_block is None:
        return key
    return await _from_block(settings.api_key_block, "answers.api_key_block", ANSWERS_KEY)


async def _from_block(name: str, key: str, variable: str) -> SecretStr:
    try:
        block: Any = await Secret.aload(name)
    except ValueError:
        raise CorpusFileError(
            f"{key}: there is no Prefect Secret block {name!r}; create it, or set {variable}"
        ) from None
    value = str(block.get())
    if not value:
        raise CorpusFileError(f"{key}: the Prefect Secret block {name!r} is still empty; fill it in, or set {variable}")
    return SecretStr(value)
