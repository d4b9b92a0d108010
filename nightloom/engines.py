"""What an embedder asks of whatever runs its model, on this machine or behind an endpoint."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pydantic import SecretStr

from nightloom.pace import Pace
from nightloom.vectors import Tokens, Vectors


class Access(NamedTuple):
    """What an endpoint is asked with, beside what the corpus file says.

    Attributes:
        key: None where it asks for none.
        pace: Kept together with other processes; None where this one goes by its own.
    """

    key: SecretStr | None = None
    pace: Pace | None = None


NO_ACCESS = Access()


@dataclass
class Work:
    """What embedding took.

    Attributes:
        backend: What ran the model; "" where nothing was embedded.
        texts: Of nodes.
        busy_seconds: With a batch under way.
        whole_seconds: From the first batch to the end of the last.
    """

    backend: str = ""
    texts: int = 0
    busy_seconds: float = 0.0
    whole_seconds: float = 0.0
    _began: float = 0.0

    def add(self, backend: str, texts: int, started: float) -> None:
        """Count texts that were embedded from a moment until now."""
        now = time.monotonic()
        self._began = self._began or started
        self.backend = backend
        self.texts += texts
        self.busy_seconds += now - started
        self.whole_seconds = now - self._began


class Engine(Protocol):
    """Runs one model.

    Attributes:
        work: What embedding nodes took so far.
    """

    work: Work

    @property
    def max_tokens(self) -> int:
        """Tokens that the model reads of a text, special tokens included."""

    @property
    def contents(self) -> str:
        """What makes the model what it is: equal means that it gives the same vectors, but for `traits`."""

    @property
    def traits(self) -> Mapping[str, object]:
        """What else vectors depend on: JSON; empty where it is as usual."""

    @property
    def precision(self) -> str:
        """Of the model's numbers."""

    @property
    def dim(self) -> int:
        """Dimensions of its vectors; 0 where only an answer will tell."""

    def follow(self, precision: str) -> None:
        """Give vectors of a precision, where the corpus file leaves it open.

        Raises:
            EmbedderError: What runs the model has no such precision.
        """

    def tokens(self, text: str) -> Tokens:
        """The tokens of a text, special ones included: as many as there are, read by the model or not."""

    def joined_tokens(self, parts: Sequence[Tokens]) -> Tokens | None:
        """The tokens of texts with white space between them; None where they do not follow from those of each."""

    def open_soon(self) -> None:
        """Begin to open the model, where that takes its time."""

    async def embed(self, texts: Sequence[str], tokens: Sequence[Tokens], *, are_nodes: bool) -> Vectors:
        """Embed texts.

        Args:
            texts: n texts, with what is to be put before them.
            tokens: Of each.
            are_nodes: Whether to count them as work.

        Returns:
            float32, shape (n, dim), in the order of the texts.
        """


def batches(lengths: Sequence[int], most_tokens: int, most_texts: int | None = None) -> Iterator[list[int]]:
    """Positions of texts in batches of like length, the shortest first: padding is what a batch wastes.

    Args:
        lengths: Tokens of each text.
        most_tokens: Of a batch, padding included; a longer text goes alone.
        most_texts: Of a batch; None for any number.
    """
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        if batch and ((len(batch) + 1) * lengths[at] > most_tokens or len(batch) == most_texts):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
