"""Imported once by the fork server: all that a night would import or set up first, so that its children need not."""

import gc
import ssl
from importlib import import_module
from typing import Any

import prefect.artifacts
from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer
from prefect.client.schemas import actions, objects
from prefect.events import Event

MODULES = (
    "tests.torture.child",
    "tests.torture.checker",
    "anyio._backends._asyncio",
    "fastapi",
    "grpc._channel",
    "grpc._server",
    "llama_index.vector_stores.milvus",
    "milvus_lite.adapter.grpc.server",
    "milvus_lite.search.filter.cache",
    "milvus_lite.search.indexed_filter",
    "milvus_lite.server_manager",
    "prefect.concurrency.services",
    "prefect.engine",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.utilities.visualization",
    "pyarrow.dataset",
)
"""What the product, Prefect and Milvus Lite import when they first need it."""

for module in MODULES:
    import_module(module)
split_by_sentence_tokenizer()("One sentence. Another one.")
for model in (
    prefect.artifacts.MarkdownArtifact,
    prefect.artifacts.ProgressArtifact,
    prefect.artifacts.TableArtifact,
    actions.ArtifactCreate,
    actions.ArtifactUpdate,
    actions.FlowCreate,
    actions.FlowRunCreate,
    actions.FlowRunUpdate,
    objects.Artifact,
    objects.ConcurrencyLeaseHolder,
    objects.FlowRun,
    objects.FlowRunPolicy,
    objects.ServerDefaultResultStorage,
    Event,
):
    model.model_rebuild()

_certificates = ssl.create_default_context()


def _known_certificates(*_args: Any, **_kwargs: Any) -> ssl.SSLContext:
    """Every client reads all certificates of this machine first, and no address here needs one."""
    return _certificates


setattr(ssl, "create_default_context", _known_certificates)  # noqa: B010  mypy knows it as a function that nobody sets
gc.collect()
gc.freeze()  # a child's collector need not go through all this again
