"""Where the token of Milvus comes from, and that it stays masked."""

import pytest
from prefect.blocks.system import Secret

from nightloom.corpus import MilvusSettings
from nightloom.errors import CorpusFileError
from nightloom.secrets import MILVUS_TOKEN
from nightloom.tasks.secrets import find_secret

BLOCK = "milvus-token-of-a-test"


@pytest.mark.usefixtures("prefect_api")
async def test_the_token_comes_from_the_block_that_the_corpus_file_names() -> None:
    await Secret(value="from:the-block").asave(BLOCK, overwrite=True)
    token = await find_secret(MilvusSettings(token_block=BLOCK).secret)
    assert token is not None
    assert token.get_secret_value() == "from:the-block"
    assert "from" not in repr(token)


async def test_the_environment_wins_over_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MILVUS_TOKEN, "from:the-environment")
    token = await find_secret(MilvusSettings(token_block="is-not-asked").secret)
    assert token is not None
    assert token.get_secret_value() == "from:the-environment"


@pytest.mark.usefixtures("prefect_api")
async def test_a_block_that_does_not_exist_is_named() -> None:
    with pytest.raises(CorpusFileError, match=r"milvus.token_block.*'nobody'.*create it"):
        await find_secret(MilvusSettings(token_block="nobody").secret)


async def test_without_either_there_is_no_token() -> None:
    assert await find_secret(MilvusSettings().secret) is None
