"""Every error that Nightloom raises on purpose.

The tree says what to do about an error, which is all that a caller needs to know::

    NightloomError
    ├── TransientError            a retry can mend it; tasks retry these and nothing else
    │   ├── SourceUnavailable     a source did not answer, or cut its answer short
    │   ├── IndexUnavailable      Milvus did not answer, refused for now, or timed out
    │   └── EndpointUnavailable   the endpoint of the model did not answer, or not with what can be read
    ├── InputError                what the user gave is wrong: exit code 2, nothing written
    │   ├── CorpusFileError       the corpus file, or a value that overrides it
    │   ├── SourceError           a source cannot be listed, or lists a document twice
    │   ├── EvaluationInputError  queries or qrels
    │   ├── EmbedderError         the model is unknown, unsafe, or too small for the nodes
    │   ├── IndexInputError       Milvus cannot be read, or holds something of another owner
    │   │   └── IndexUnreachable  nothing answers where Milvus should be
    │   ├── IndexBusy             another night over the same index is under way
    │   ├── EndpointRefused       the endpoint of the model refuses the key, or does not know the model
    │   └── PrefectUnavailable    the Prefect API that is configured does not answer
    ├── DocumentError             one document cannot be taken: quarantined, the night goes on
    ├── NothingFound              no passage has the metadata that a question asks for: exit code 1
    ├── NoAnswer                  the model gave no answer to one question; others may fare better
    ├── CostLimit                 the next request could cost more than answers.max_cost_usd leaves
    ├── NightFailed               the night cannot end well; the live index is untouched: exit code 1
    │   ├── Unforeseen            an error that nobody foresaw, which is its cause
    │   ├── EmbeddingError        the embedder answered with something that is no embedding
    │   │   └── TextsDeclined     the endpoint of the model declines some texts: their documents are quarantined
    │   ├── IndexRefused          Milvus refuses a request for good
    │   ├── IndexInconsistent     rows or alias are not what was written
    │   └── IndexTaken            another night, or a rollback, went over this one
    └── Held                      the gate stopped the night; the live index is untouched: exit code 3
"""

from collections.abc import Mapping
from typing import Literal

Outcome = Literal["promoted", "unchanged", "held", "failed", "refused"]
"""How a night can end."""


class NightloomError(Exception):
    """Root of the tree; its text says what is wrong, where, and what to do."""

    exit_code = 1
    outcome: Outcome = "failed"
    report: object = None
    """The run report of the night that this ended, once there is one."""
    corpus: str = ""
    """Name of the corpus of another flow run that this ended."""
    readers: str = ""
    """What readers of that corpus saw then, in a sentence."""


class TransientError(NightloomError):
    """A retry can mend it."""


class SourceUnavailable(TransientError):
    """A source did not answer, answered "later", or cut its answer short.

    Attributes:
        retry_after_seconds: How long it asked to be left alone; 0 where it did not say.
        whole_host: Whether other documents of its host would fare no better: it cannot be reached, or asks for peace.
    """

    def __init__(self, says: str, *, retry_after_seconds: float = 0, whole_host: bool = False) -> None:
        """Keep what the next request should know."""
        super().__init__(says)
        self.retry_after_seconds = retry_after_seconds
        self.whole_host = whole_host


class IndexUnavailable(TransientError):
    """Milvus did not answer in time, or refused for now."""


class EndpointUnavailable(TransientError):
    """The endpoint of the model did not answer, answered "later", broke off, or sent what is no answer.

    Attributes:
        retry_after_seconds: How long to wait before another try; None where another try would fare no better.
    """

    def __init__(self, says: str, *, retry_after_seconds: float | None = None) -> None:
        """Keep what the next request should know."""
        super().__init__(says)
        self.retry_after_seconds = retry_after_seconds


class InputError(NightloomError):
    """What the user gave is wrong; nothing was written."""

    exit_code = 2
    outcome: Outcome = "refused"


class CorpusFileError(InputError):
    """The corpus file, or a value that overrides it, is wrong; the text names the file and the key."""


class SourceError(InputError):
    """A source cannot be listed, or the same document is listed twice; the text names both."""


class EvaluationInputError(InputError):
    """Queries or qrels are wrong; the text names the file and the line."""


class EmbedderError(InputError):
    """The model cannot be had, is not safe to load, or reads less than the nodes hold."""


class IndexInputError(InputError):
    """Milvus cannot be reached or read as configured, or something of another owner is in the way."""


class IndexUnreachable(IndexInputError):
    """Nothing answers where Milvus should be: it is away for a while, or the address is wrong."""


class IndexBusy(InputError):
    """Another night over the same index is under way, and goes on."""


class EndpointRefused(InputError):
    """The endpoint of the model refuses the key, does not know the model, or leads elsewhere; every request fails."""


class PrefectUnavailable(InputError):
    """The Prefect API that PREFECT_API_URL names does not answer."""


class DocumentError(NightloomError):
    """One document cannot be taken; it is quarantined with this text as the reason."""


class NothingFound(NightloomError):
    """No passage has the metadata that a question asks for; the text says which there are."""


class NoAnswer(NightloomError):
    """The model refused, said nothing, or not what it was asked for; another question may fare better."""


class CostLimit(NightloomError):
    """The next request could cost more than what is left of answers.max_cost_usd; it was not sent."""


class NightFailed(NightloomError):
    """The night cannot end well; what readers see is untouched."""


class Unforeseen(NightFailed):
    """What nobody foresaw, by its own words; its cause is the error itself, whose traceback is worth a look."""


class EmbeddingError(NightFailed):
    """The embedder gave a wrong count or dim, or a vector that is zero or not finite."""


class TextsDeclined(EmbeddingError):
    """The endpoint embeds other texts, and not these.

    Attributes:
        reasons: What it says of each, by its place in what was to be embedded.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        """Its text is the first reason."""
        super().__init__(next(iter(reasons.values())))
        self.reasons = reasons


class IndexRefused(NightFailed):
    """Milvus refuses a request, and would refuse it again."""


class IndexInconsistent(NightFailed):
    """Rows or alias are not what was written; the text names the documents."""


class IndexTaken(NightFailed):
    """Another night has taken up what this one wrote, or readers were switched meanwhile; this one stops writing."""


class Held(NightloomError):
    """The gate stopped the night; the text names the check and by how much it failed."""

    exit_code = 3
    outcome: Outcome = "held"
