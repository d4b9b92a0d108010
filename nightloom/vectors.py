"""Arrays that go through a night: tokens of texts, and their embeddings."""

import numpy as np
import numpy.typing as npt

from nightloom.errors import EmbeddingError

Vectors = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]
"""Of one text, special ones included: shape (n,); of a batch, shape (texts, tokens)."""


def checked(vectors: Vectors, count: int, model: str) -> Vectors:
    """The vectors, if there are as many as texts.

    Raises:
        EmbeddingError: Not of shape (count, dim).
    """
    if vectors.ndim != 2 or len(vectors) != count:  # noqa: PLR2004  rows and columns
        raise EmbeddingError(f"{model}: {count} texts gave embeddings of shape {vectors.shape}")
    return vectors


def unusable(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Which vectors are zero or not finite: no metric compares them with anything.

    Args:
        vectors: Shape (n, dim).

    Returns:
        Shape (n,).
    """
    return np.asarray(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
