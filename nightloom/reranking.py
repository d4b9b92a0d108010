"""Reranking: a cross-encoder that reads a question and a passage together, and scores how well the one answers the
other: better than any comparison of two vectors, and far too slow for more than the best candidates."""

import asyncio
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nightloom.errors import EmbedderError, EmbeddingError
from nightloom.extras import lacking
from nightloom.models import find_model

BATCH_SIZE = 32

Order = list[tuple[int, float]]
"""Position and score, best first."""


class Reranker:
    """A cross-encoder on disk; its weights are loaded at the first question.

    Attributes:
        name: As the corpus file has it.
        candidates: Passages of a question that it reads.
    """

    def __init__(self, name: str, candidates: int) -> None:
        """Only remember which: `folder` looks for it."""
        self.name = name
        self.candidates = candidates
        self._one_caller = threading.Lock()

    @cached_property
    def folder(self) -> Path:
        """The model's files, fetched from the hub where they must be.

        Raises:
            EmbedderError: Unknown model, no network for it, weights that are not safetensors, or nothing to run it.
        """
        if missing := lacking("local"):
            raise EmbedderError(f"retrieval.reranker: {self.name} runs on this machine, and {missing}")
        return find_model(self.name, key="retrieval.reranker")

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import CrossEncoder  # noqa: PLC0415  loads torch: seconds

        try:
            model = CrossEncoder(
                str(self.folder), trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError, KeyError) as error:
            raise EmbedderError(f"retrieval.reranker: {self.name}: cannot be loaded: {error}") from None
        if model.num_labels != 1:
            raise EmbedderError(
                f"retrieval.reranker: {self.name}: gives {model.num_labels} numbers for a pair of texts, and a reranker"
                " one; choose a cross-encoder that was made for ranking"
            )
        return model

    async def orders(
        self, questions: Sequence[str], passages: Sequence[Sequence[str]]
    ) -> list[list[tuple[int, float]]]:
        """The order of each question's passages, those that answer it best first.

        Args:
            questions: n of them.
            passages: Of each question, best first; the first `candidates` of them are read, and go before the others.

        Returns:
            For each question, position and score of every passage. The others have scores below those that were read.

        Raises:
            EmbedderError: The model cannot be had, or is no reranker.
            EmbeddingError: A score is not finite.
        """
        read = [some[: self.candidates] for some in passages]
        pairs = [(question, text) for question, some in zip(questions, read, strict=True) for text in some]
        scores = iter(await asyncio.to_thread(self._scores, pairs))
        return [_order([next(scores) for _ in some], len(whole)) for some, whole in zip(read, passages, strict=True)]

    def _scores(self, pairs: list[tuple[str, str]]) -> list[float]:
        with self._one_caller:  # who has all the cores
            found = self._model.predict(pairs, batch_size=BATCH_SIZE, show_progress_bar=False) if pairs else []
        scores = np.asarray(found, dtype=np.float32)
        if not np.isfinite(scores).all():
            raise EmbeddingError(f"retrieval.reranker: {self.name}: gave scores that are not finite")
        return [float(score) for score in scores]


def _order(scores: Sequence[float], count: int) -> Order:
    """Positions and scores of `count` passages, of which the first have these scores; equal ones keep their order."""
    read = sorted(enumerate(scores), key=lambda one: -one[1])
    lowest = min(scores, default=0.0)
    return [*read, *((at, lowest - at) for at in range(len(scores), count))]
