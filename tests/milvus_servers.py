"""Which Milvus the tests marked `milvus` ask: servers that are given, or Milvus 2.3.5, which is started for them.

Given ones are of 2.5 or later, hold nothing, and are neither started nor stopped here. Those who give them set

- NIGHTLOOM_TEST_MILVUS: the address of one that asks for no password;
- NIGHTLOOM_TEST_MILVUS_GUARDED: that of one which does, over TLS, and whose root has the password that everybody knows;
- NIGHTLOOM_TEST_MILVUS_CA: a PEM file, the certificate of the second, which is for 127.0.0.1 and signs itself.

Tests marked `own_server` kill their server, configure it, or are about 2.3.5: they start that one, whatever is given.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from deployments.local_milvus import LocalMilvus, LocalMilvusUnavailable, start

KEPT = "GIVEN_TO_TESTS_"
"""What the names of the three begin with once they are read: a corpus file would refuse NIGHTLOOM_TEST_MILVUS, and the
processes of pytest-xdist, which read them as well, have what is left of the environment."""


def _given(name: str) -> str:
    value = os.environ.pop(f"NIGHTLOOM_TEST_{name}", "") or os.environ.get(f"{KEPT}{name}", "")
    if value:
        os.environ[f"{KEPT}{name}"] = value
    return value


GIVEN = _given("MILVUS")
GIVEN_GUARDED = _given("MILVUS_GUARDED")
GIVEN_CA = _given("MILVUS_CA")


@contextmanager
def started(folder: Path, more: Mapping[str, object] = MappingProxyType({})) -> Iterator[LocalMilvus]:
    """A Milvus 2.3.5 for a block, with more settings; where there is none for this machine, the test is skipped."""
    try:
        server = start(folder, more=more)
    except LocalMilvusUnavailable as error:
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.kill()  # nobody needs what it holds


def if_given(name: str) -> list[Any]:
    """A parameter of a test that 2.3.5 cannot pass, as it makes no keywords: only where another server is given."""
    return [pytest.param(name, marks=pytest.mark.milvus)] if GIVEN else []
