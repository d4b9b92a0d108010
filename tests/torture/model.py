"""The corpus of a torture, how it changes between nights, and the rows that the index must then hold.

The model computes ids, versions, nodes and vectors by itself, from what the design says, and not with the product's own
functions: a mistake of the product is no mistake of the model. Its texts are made so that each sentence is a node.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nightloom.documents import Document, DocumentRef
from nightloom.embedding import Embedder
from nightloom.errors import DocumentError
from nightloom.readers import Readers
from nightloom.vectors import Tokens, Vectors

SOURCE = "texts"
DIM = 64
MAX_TOKENS = 16
SENTENCE_WORDS = (8, 13)
"""Of MAX_TOKENS two are taken by special tokens: no two sentences share a node, and no sentence needs two."""

WORDS = (
    *(
        "amber",
        "harbour",
        "lantern",
        "meadow",
        "granite",
        "whisper",
        "orchard",
        "thunder",
        "velvet",
        "compass",
        "ember",
    ),
    *(
        "größe",
        "naïve",
        "жёлтый",
        "夜空",
        "λόγος",
        "שלום",
        "don't",
        'so-called"quoted"',
        "back\\slash",
        "{brace}",
        "%s",
    ),
)
HOSTILE_NAMES = (
    "it's.txt",
    'say "hi".txt',
    "back\\slash.txt",
    "new\nline.txt",
    "Grüße 夜空 🌙.txt",
    "' or position >= 0 or id == '.txt",
    '"] or document_id in ["x.txt',
    "sub folder/{braces} %s #hash.txt",
    "\u202egnp.txt",
    " leading space.txt",
)
FIRST_DOCUMENTS = 14
FEWEST_FULL = 8
"""Documents that always have a text: a night in which every document is quarantined fails, and should."""


class HashEmbedder(Embedder):
    """Measures in words and embeds by hash: no model is loaded, and a vector tells which text it belongs to."""

    identity = "vectors are hashes of their texts"
    precision = "fp32"
    dim = DIM

    def tokens(self, text: str) -> Tokens:
        """As many as there are words, and the two special tokens that the packaged tokenizer would add."""
        return np.zeros(len(text.split()) + 2, dtype=np.int64)

    def open_soon(self) -> None:
        """Nothing: there is no model."""

    async def embed_texts(self, texts: list[str], tokens: Sequence[Tokens] | None = None) -> Vectors:  # noqa: ARG002
        """A unit vector for each text."""
        return np.stack([vector_of(text) for text in texts])

    async def embed_queries(self, queries: list[str]) -> Vectors:
        """The same for queries."""
        return await self.embed_texts(queries)


class NearReaders(Readers):
    """Reads in the night's own process: a night of a few documents begins without waiting for others to start."""

    def read(self, refs: Sequence[DocumentRef]) -> Iterator[Document | DocumentError]:
        """The same as the real ones for documents that do no harm."""
        return (self.read_here(ref) for ref in refs)


def vector_of(text: str) -> Vectors:
    """The unit vector of a text: float32, shape (DIM,)."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def short_hash(text: str) -> str:
    """The first 32 hex digits of sha256: of a URI the document id, of content and fingerprint the version."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What one row must hold, its vector aside, which follows from the text."""

    id: str
    document_id: str
    version: str
    position: int
    total: int
    uri: str
    text: str


@dataclass(frozen=True)
class State:
    """What readers see of these documents.

    Attributes:
        texts: Text by file name; none is empty.
        fingerprint: Of the generation.
    """

    texts: Mapping[str, str]
    fingerprint: str

    @cached_property
    def rows(self) -> dict[str, ModelRow]:
        """Every row, by primary key."""
        return {row.id: row for name, text in self.texts.items() for row in _rows(name, text, self.fingerprint)}

    @cached_property
    def heads(self) -> dict[str, str]:
        """Version by document id."""
        return {row.document_id: row.version for row in self.rows.values()}

    @cached_property
    def sentences(self) -> frozenset[str]:
        """The texts of all nodes."""
        return frozenset(row.text for row in self.rows.values())


def _rows(name: str, text: str, fingerprint: str) -> list[ModelRow]:
    uri = f"{SOURCE}/{name}"
    document = short_hash(uri)
    version = short_hash(f"{hashlib.sha256(text.encode()).hexdigest()}\n{fingerprint}")
    nodes = text.split("\n")
    return [ModelRow(f"{document}-{at}", document, version, at, len(nodes), uri, node) for at, node in enumerate(nodes)]


class ModelCorpus:
    """Documents that change between nights, the same way for the same seed. An emptied document has the text ""."""

    def __init__(self, rng: random.Random) -> None:
        """The documents of the first night, hostile names among them."""
        self._rng = rng
        self._counter = 0
        self._older: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        for name in HOSTILE_NAMES:
            self.texts[name] = self._text()
        while len(self.texts) < FIRST_DOCUMENTS:
            self._add()

    def change(self, times: int, *, may_empty: bool = True) -> list[str]:
        """Change the corpus that many times; what was done, in words."""
        kinds: dict[str, Callable[[], None]] = {
            "added": self._add,
            "changed": self._change,
            "grown": self._grow,
            "shrunk": self._shrink,
            "removed": self._remove,
            "renamed": self._rename,
            "reverted": self._revert,
        }
        if may_empty:
            kinds["emptied"] = self._empty
        done = [self._rng.choice(sorted(kinds)) for _ in range(times)]
        for kind in done:
            kinds[kind]()
        return done

    def add_large(self) -> None:
        """Add a document of several nodes, so that a night has some of every kind to write."""
        self._counter += 1
        self.texts[f"large {self._counter}.txt"] = "\n".join(self._sentence() for _ in range(4))

    def rewrite(self) -> None:
        """Change every document that has a text."""
        for name in self._full():
            self.texts[name] = self._text()

    def shorten(self) -> None:
        """Leave of every document of several nodes all but the last."""
        for name in self._full():
            nodes = self.texts[name].split("\n")
            self.texts[name] = "\n".join(nodes[:-1] or nodes)

    def state(self, live: State | None, fingerprint: str) -> State:
        """What a whole night over these documents leaves: an emptied document keeps the text that is live."""
        kept = live.texts if live else {}
        texts = {name: text or kept.get(name, "") for name, text in self.texts.items()}
        return State({name: text for name, text in texts.items() if text}, fingerprint)

    def write(self, folder: Path) -> None:
        """Make the files of a folder exactly these documents."""
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {folder / name: text for name, text in self.texts.items()}
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file not in wanted:
                file.unlink()
        for file, text in wanted.items():
            file.parent.mkdir(exist_ok=True)
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                file.write_text(text, encoding="utf-8", newline="")

    def _sentence(self) -> str:
        self._counter += 1
        middle = self._rng.choices(WORDS, k=self._rng.randint(*SENTENCE_WORDS) - 4)
        return f"Sentence {self._counter} says {' '.join(middle)} tonight."

    def _text(self) -> str:
        return "\n".join(self._sentence() for _ in range(self._rng.randint(1, 5)))

    def _full(self) -> list[str]:
        return [name for name, text in self.texts.items() if text]

    def _some(self) -> str:
        return self._rng.choice(self._full())

    def _add(self) -> None:
        gone = [name for name in HOSTILE_NAMES if name not in self.texts]
        name = self._rng.choice(gone) if gone and self._rng.random() < 0.5 else f"note {self._counter}.txt"
        self.texts[name] = self._text()

    def _change(self) -> None:
        name = self._some()
        self._older[name] = self.texts[name]
        self.texts[name] = self._text()

    def _grow(self) -> None:
        name = self._some()
        self.texts[name] += "\n" + self._text()

    def _shrink(self) -> None:
        name = self._some()
        nodes = self.texts[name].split("\n")
        self.texts[name] = "\n".join(nodes[: self._rng.randint(1, len(nodes))])

    def _remove(self) -> None:
        if len(self._full()) > FEWEST_FULL:
            del self.texts[self._some()]

    def _rename(self) -> None:
        name = self._some()
        text = self.texts.pop(name)
        self._counter += 1
        self.texts[f"{name.replace('/', ' ')[:40]} now {self._counter}.txt"] = text

    def _empty(self) -> None:
        if len(self._full()) > FEWEST_FULL:
            self.texts[self._some()] = ""

    def _revert(self) -> None:
        empty = [name for name, text in self.texts.items() if not text]
        if empty:
            self.texts[self._rng.choice(empty)] = self._text()
        elif self._older:
            name, text = self._older.popitem()
            if name in self.texts:
                self.texts[name] = text
