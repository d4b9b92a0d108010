"""Imported once by the fork server: all that a night would import or set up first, so that its children need not."""

import gc

import fastapi  # noqa: F401  Prefect imports it with the first flow run
import llama_index.vector_stores.milvus  # noqa: F401
import milvus_lite.adapter.grpc.server
import milvus_lite.server_manager  # noqa: F401
from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer

import tests.torture.checker
import tests.torture.child  # noqa: F401

split_by_sentence_tokenizer()("One sentence. Another one.")
gc.collect()
gc.freeze()  # a child's collector need not go through all this again
