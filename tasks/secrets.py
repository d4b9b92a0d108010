"""Secrets: from the environment, or from a Prefect Secret block that the corpus file names."""

from typing import Any

from pydantic import SecretStr

from nightloom.errors import CorpusFileError
from nightloom.secrets import SecretPlace, from_environment


async def find_secret(place: SecretPlace) -> SecretStr | None:
    """A token or key; the environment wins over the block. None where neither is given.

    Raises:
        CorpusFileError: The block that the corpus file names does not exist, or is still empty.
    """
    secret = from_environment(place)
    if secret is not None or place.block is None:
        return secret
    from prefect.blocks.system import Secret  # noqa: PLC0415  seconds to import, and only a block needs it

    try:
        block: Any = await Secret.aload(place.block)
    except ValueError:
        raise CorpusFileError(
            f"{place.key}: there is no Prefect Secret block {place.block!r}; create it, or set {place.variables[0]}"
        ) from None
    value = str(block.get())
    if not value:
        raise CorpusFileError(
            f"{place.key}: the Prefect Secret block {place.block!r} is still empty; fill it in, or set"
            f" {place.variables[0]}"
        )
    return SecretStr(value)
