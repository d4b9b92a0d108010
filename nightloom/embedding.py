"""The embedder: how much it reads, what identifies it, and texts to vectors."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property

from nightloom.corpus import EmbedderSettings
from nightloom.engines import NO_ACCESS, Access, Engine, Work
from nightloom.errors import EmbedderError, EmbeddingError
from nightloom.extras import lacking
from nightloom.vectors import Tokens, Vectors, unusable


class Embedder:
    """A model, wherever it runs, and what is put before texts and queries.

    Attributes:
        settings: As the corpus file says.
        engine: What runs the model.
    """

    def __init__(self, settings: EmbedderSettings, access: Access = NO_ACCESS) -> None:
        """Find the model, or its tokenizer where it runs behind an endpoint; nothing is loaded or sent yet.

        Raises:
            EmbedderError: Unknown model, no network for it, weights that are not safetensors, or nothing to run it.
            EndpointRefused: The key is none.
        """
        self.settings = settings
        self._access = access
        self.engine: Engine = _engine(settings, access)

    @property
    def max_tokens(self) -> int:
        """Tokens that the model reads of a text, special tokens included."""
        return self.engine.max_tokens

    @property
    def dim(self) -> int:
        """Dimensions of its vectors; 0 where only an endpoint's answer will tell. It may have to open the model.

        Raises:
            EmbedderError: The model cannot be opened.
        """
        return self.engine.dim

    @property
    def work(self) -> Work:
        """What embedding nodes took so far."""
        return self.engine.work

    @property
    def precision(self) -> str:
        """Of the model's numbers: given, followed, or this machine's own choice."""
        return self.engine.precision

    def follow(self, descriptions: Iterable[str]) -> None:
        """Give vectors that go together with those of an index, where the corpus file leaves the precision open.

        Before anything is made of `identity`: a precision that nobody made an index with is this machine's own choice.

        Args:
            descriptions: Of the embedders of its generations, the one to follow first.

        Raises:
            EmbedderError: The backend that the corpus file names has not their precision.
        """
        made_with = (kept for one in descriptions if (kept := _settings_of(one)) and kept.model == self.settings.model)
        if (first := next(made_with, None)) and first.precision != "auto":
            self.engine.follow(first.precision)

    @property
    def identity(self) -> str:
        """sha256 over the model, the prefix of its texts and the precision: equal means comparable vectors."""
        given = {"text_prefix": self.settings.text_prefix, **self.engine.traits}
        return hashlib.sha256((json.dumps(given) + self.engine.contents).encode()).hexdigest()

    @property
    def description(self) -> str:
        """What `other` opens again: identity and settings as JSON; it is kept with a generation."""
        settings = self.settings.model_dump() | {"precision": self.precision}
        return json.dumps({"identity": self.identity, "settings": settings}, sort_keys=True)

    def other(self, description: str) -> "Embedder | None":
        """The embedder that a generation was made with; None where its model cannot be had any more, or has changed.

        It is this one itself where that gives the same vectors.
        An endpoint at another address than this embedder's is not asked: its key is not known here.
        """
        try:
            kept = json.loads(description)
            if kept["identity"] == self.identity:
                return self
            settings = EmbedderSettings.model_validate(kept["settings"])
            if settings.is_remote and not (self.settings.is_remote and settings.base_url == self.settings.base_url):
                return None
            embedder = Embedder(settings, self._access)
            return embedder if embedder.identity == kept["identity"] else None
        except (EmbedderError, ValueError, KeyError, TypeError):
            return None

    def tokens(self, text: str) -> Tokens:
        """The tokens of a text, special ones included, prefix not: as many as there are, read by the model or not."""
        return self.engine.tokens(text)

    def joined_tokens(self, parts: Sequence[Tokens]) -> Tokens | None:
        """The tokens of texts that stand behind each other with white space between them, prefix not included.

        Args:
            parts: `tokens` of each of them.

        Returns:
            None where they do not follow from those of the parts.
        """
        return self.engine.joined_tokens(parts)

    def count_tokens(self, text: str) -> int:
        """How many `tokens` a text has."""
        return len(self.tokens(text))

    @cached_property
    def special_tokens(self) -> int:
        """Tokens that the model puts around every text."""
        return self.count_tokens("")

    def truncated_tokens(self, tokens: Sequence[Tokens]) -> int:
        """Tokens of texts that lie beyond what the model reads."""
        return sum(max(0, len(one) - self.max_tokens) for one in tokens)

    def open_soon(self) -> None:
        """Begin to open the model, while whoever needs it has something else to do."""
        self.engine.open_soon()

    async def embed_texts(self, texts: list[str], tokens: Sequence[Tokens] | None = None) -> Vectors:
        """Embed the texts of nodes.

        Args:
            texts: n texts; of one with more than `max_tokens` with the prefix, the model reads so many.
            tokens: Of the n texts with the prefix, where they are known already.

        Returns:
            float32, shape (n, dim), in the order of the texts: as the model gives them, `unusable` ones among them.

        Raises:
            EmbeddingError: The model gave a wrong count, or an endpoint what is no embedding.
            EndpointUnavailable: An endpoint gave no answer.
            EndpointRefused: An endpoint refuses the key, or does not know the model.
        """
        prefixed = [self.settings.text_prefix + text for text in texts]
        known = [self.tokens(text) for text in prefixed] if tokens is None else tokens
        return await self.engine.embed(prefixed, known, are_nodes=True)

    async def embed_queries(self, queries: list[str]) -> Vectors:
        """Embed queries; the same as `embed_texts`, with the query prefix.

        Raises:
            EmbeddingError: As `embed_texts`, or a vector is zero or not finite.
            EndpointUnavailable: As `embed_texts`.
            EndpointRefused: As `embed_texts`.
        """
        prefixed = [self.settings.query_prefix + query for query in queries]
        vectors = await self.engine.embed(prefixed, [self.tokens(query) for query in prefixed], are_nodes=False)
        if (bad := int(unusable(vectors).sum())) > 0:
            raise EmbeddingError(
                f"{self.settings.model}: {bad} of {len(queries)} queries have embeddings that are zero or not finite"
            )
        return vectors


def read_ahead(settings: EmbedderSettings) -> None:
    """Hash the files of a model that lies on this disk, so that its `identity` is there when it is asked for.

    What is wrong with them is not said here: `Embedder` says it when its turn comes.
    """
    from nightloom.models import contents_of, find_model, is_of_hub  # noqa: PLC0415  as in `_engine`

    if not settings.is_remote and not is_of_hub(settings.model):
        with suppress(EmbedderError, OSError):
            contents_of(find_model(settings.model))


def _settings_of(description: str) -> EmbedderSettings | None:
    """What a generation was made with; None where it does not say, or says what is no longer understood."""
    try:
        return EmbedderSettings.model_validate(json.loads(description)["settings"])
    except (ValueError, KeyError, TypeError):
        return None


def _engine(settings: EmbedderSettings, access: Access) -> Engine:
    if settings.is_remote:
        from nightloom.remote_model import RemoteModel  # noqa: PLC0415  few need a client

        return RemoteModel(settings, access)
    if missing := lacking("local"):
        raise EmbedderError(
            f"embedder.model: {settings.model} runs on this machine, and {missing}; or set embedder.backend ="
            ' "openai" and embedder.base_url, to ask an endpoint'
        )
    from nightloom.local_model import LocalModel  # noqa: PLC0415  those who ask an endpoint need no backends

    return LocalModel(settings)
