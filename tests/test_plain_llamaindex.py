"""What a reader without Nightloom sees: plain LlamaIndex opens the live generation and answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nightloom.models import find_model
from tests.nights import MODEL, QUERIES, TEXTS, Home, night

pytestmark = pytest.mark.usefixtures("prefect_api")

READER = """
import asyncio, json, sys
for name in ("nightloom", "flows", "tasks", "prefect"):
    sys.modules[name] = None  # whoever imports it fails

from llama_index.core import VectorStoreIndex
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.milvus import MilvusVectorStore
from pymilvus import MilvusClient

uri, alias, model, question = sys.argv[1:]

async def main():
    client = MilvusClient(uri)
    collection = client.describe_alias(alias)["collection_name"]  # the store cannot open an alias
    client.load_collection(collection)  # Milvus Lite opens every collection unloaded
    store = MilvusVectorStore(
        uri=uri, collection_name=collection, overwrite=False, upsert_mode=True, similarity_metric="COSINE"
    )
    index = VectorStoreIndex.from_vector_store(store, embed_model=HuggingFaceEmbedding(model))
    found = await index.as_retriever(similarity_top_k=2).aretrieve(question)
    print(json.dumps([{"text": hit.node.text, "uri": hit.node.metadata["uri"], "score": hit.score} for hit in found]))

asyncio.run(main())
"""


async def test_plain_llamaindex_opens_the_live_generation_and_answers(home: Home, tmp_path: Path) -> None:
    await night(home)
    arguments = [home.corpus.milvus.uri, home.name, str(find_model(MODEL)), QUERIES["q3"]]
    done = subprocess.run(  # noqa: ASYNC221  nothing else runs meanwhile
        [sys.executable, "-c", READER, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = json.loads(done.stdout)
    assert (first["text"], first["uri"]) == (TEXTS["moon.txt"], "texts/moon.txt")
    assert first["score"] > second["score"]
