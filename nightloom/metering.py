"""What requests to a model may cost, how fast they may follow each other, and what they took."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nightloom.corpus import AnswersSettings
from nightloom.errors import CorpusFileError, CostLimit
from nightloom.pace import LocalPace

Price = Callable[[int, int], float]
"""US dollars for so many tokens of input and output."""

BYTES_PER_TOKEN = 3
"""Of UTF-8, at least, in nearly all text: tokens that are estimated are more than there are."""
MILLION = 1_000_000


@dataclass(slots=True)
class Usage:
    """What requests took so far.

    Attributes:
        requests: Sent, those that failed included.
        cost_usd: None where no price is known.
        estimated: Whether the endpoint left some of the tokens uncounted.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    estimated: bool = False


def tokens_in(text: str) -> int:
    """About how many tokens a text has, rather more than fewer."""
    return math.ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)


def price_of(settings: AnswersSettings) -> Price | None:
    """What tokens cost: as the corpus file says, or as published for the model at that address; None if unknown."""
    given = settings.usd_per_million_input_tokens, settings.usd_per_million_output_tokens
    if given[0] is not None and given[1] is not None:
        per_input, per_output = given[0] / MILLION, given[1] / MILLION
        return lambda inputs, outputs: inputs * per_input + outputs * per_output
    from genai_prices import Usage as Tokens  # noqa: PLC0415  few need the table of prices
    from genai_prices import calc_price  # noqa: PLC0415

    def published(inputs: int, outputs: int) -> float:
        tokens = Tokens(input_tokens=inputs, output_tokens=outputs)
        return float(calc_price(tokens, settings.model, provider_api_url=settings.base_url).total_price)

    try:
        published(1, 1)
    except LookupError:
        return None
    return published


class Meter:
    """Holds requests to the limits of [answers], and counts what they took."""

    def __init__(self, settings: AnswersSettings) -> None:
        """Nothing has been asked yet.

        Raises:
            CorpusFileError: The cost is to be limited, and no price is known.
        """
        self.usage = Usage()
        self._most_usd = settings.max_cost_usd
        self._price = price_of(settings)
        self._reserved_usd = 0.0
        self._pace = LocalPace(settings.requests_per_minute)
        if self._price:
            self.usage.cost_usd = 0.0
        elif self._most_usd is not None:
            raise CorpusFileError(
                f"answers.max_cost_usd: no price is known for {settings.model!r} at {settings.base_url}; give"
                " answers.usd_per_million_input_tokens and answers.usd_per_million_output_tokens (0 where it costs"
                " nothing), or remove max_cost_usd"
            )

    @contextmanager
    def reserve(self, input_tokens: int, output_tokens: int) -> Iterator[None]:
        """Set aside what a request can cost at most, while it is under way.

        Raises:
            CostLimit: That is more than what is left.
        """
        cost = self._price(input_tokens, output_tokens) if self._price else 0.0
        spent = self.usage.cost_usd or 0.0
        if self._most_usd is not None and spent + self._reserved_usd + cost > self._most_usd:
            raise CostLimit(
                f"a request that can cost ${cost:.4f} was not sent: of answers.max_cost_usd = {self._most_usd:g},"
                f" ${spent:.4f} are spent and ${self._reserved_usd:.4f} set aside for what is under way"
            )
        self._reserved_usd += cost
        try:
            yield
        finally:
            self._reserved_usd -= cost

    async def turn(self) -> None:
        """Wait until one more request may be sent, and count it."""
        await self._pace.turn()
        self.usage.requests += 1

    def hold(self, seconds: float) -> None:
        """Send nothing for so long, as the endpoint asks."""
        self._pace.hold(seconds)

    def count(self, input_tokens: int, output_tokens: int, *, estimated: bool = False) -> None:
        """Take what a request took into the usage."""
        self.usage.input_tokens += input_tokens
        self.usage.output_tokens += output_tokens
        self.usage.estimated |= estimated
        if self._price:
            self.usage.cost_usd = (self.usage.cost_usd or 0.0) + self._price(input_tokens, output_tokens)
