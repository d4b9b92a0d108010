"""Endpoints that speak OpenAI's protocol: their client, what is sent again, and their errors as ours."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
import openai
from pydantic import SecretStr
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

from nightloom.corpus import AnswersSettings, EmbedderSettings, is_openai
from nightloom.errors import EndpointRefused, EndpointUnavailable, NightloomError
from nightloom.report import plain

Reply = TypeVar("Reply")

ATTEMPTS = 3
PAUSE_SECONDS = 1.0
"""Before the second attempt, where the endpoint asks for no longer one; twice as long before the third."""
LONGEST_PAUSE_SECONDS = 60.0
"""That an endpoint can make us wait."""
CONNECT_SECONDS = 10.0
SHOWN_CHARACTERS = 300
"""Of what an endpoint says of an error."""

LATER = frozenset({408, 409, 425, 429})
"""Statuses below 500 that pass."""
REFUSES_ALL = frozenset({401, 402, 403, 404})
"""What an endpoint says of a key, an address or a model, and would say of every other request."""
OUT_OF_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes of a 429 that does not pass."""

_NOT_OF_THE_PROTOCOL = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What the clients raise over an answer that is none: they look into it as if it were."""


class BrokeOff(Exception):
    """A request that the endpoint may have taken, and charges for, and that gave nothing."""


class Declined(Exception):
    """A request that the endpoint cannot take; others may fare better."""


class Contact:
    """One endpoint, as a section of the corpus file names it."""

    def __init__(
        self, section: str, settings: AnswersSettings | EmbedderSettings, key: SecretStr | None, gives: str
    ) -> None:
        """Nothing is sent yet.

        Args:
            section: Of the corpus file, which errors name.
            settings: Where it is, and its limits.
            key: None for an endpoint that asks for none.
            gives: What it is asked for, for messages.

        Raises:
            EndpointRefused: The key is none.
        """
        self._section = section
        self._settings = settings
        self._gives = gives
        self._key = key.get_secret_value().strip() if key else ""
        if not (self._key.isascii() and self._key.isprintable()):  # clients would quote it in their errors
            raise EndpointRefused(f"the key holds characters that no key has: see {settings.secret}")

    def client(self) -> openai.AsyncOpenAI:
        """One that has the key and sends everything once; the caller closes it."""
        limit = self._settings.timeout_seconds
        timeout = httpx.Timeout(limit, connect=min(CONNECT_SECONDS, limit))
        # No redirect is followed: texts go to the address in the corpus file and nowhere else.
        http = openai.DefaultAsyncHttpxClient(timeout=timeout, follow_redirects=False)
        client = openai.AsyncOpenAI(
            api_key=self._key or "none", base_url=self._settings.base_url, max_retries=0, http_client=http
        )
        if not is_openai(self._settings.base_url):  # the client takes these from variables that are meant for OpenAI
            client.organization = client.project = None
        return client

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Errors of the clients as ours, without what they carry: it may hold the key.

        Raises:
            EndpointUnavailable: No connection, or "later".
            EndpointRefused: The key, the model or the address is wrong.
            Declined: This request cannot be taken.
            BrokeOff: No answer in time, or one that broke off or is none.
        """
        try:
            yield
        except NightloomError:
            raise
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except (TimeoutError, openai.APITimeoutError, httpx.TimeoutException):
            limit = f"{self._section}.timeout_seconds = {self._settings.timeout_seconds:g}"
            raise BrokeOff(self.says(f"did not answer within {limit}")) from None
        except openai.APIConnectionError as error:
            reason = self.quoted(str(error.__cause__ or error))
            raise EndpointUnavailable(
                self.says(f"cannot be reached: {reason}; see {self._section}.base_url"), retry_after_seconds=0
            ) from None
        except (openai.OpenAIError, httpx.HTTPError, httpx.StreamError) as error:
            raise BrokeOff(self.says(f"broke off in the middle of its answer: {self.quoted(str(error))}")) from None
        except _NOT_OF_THE_PROTOCOL as error:
            kind = type(error).__name__
            raise BrokeOff(self.says(f"sent what is no {self._gives} ({kind}); see {self._section}.base_url")) from None

    def says(self, what: str) -> str:
        """What to say of the endpoint."""
        return f"{self._settings.base_url} {what}"

    def quoted(self, text: str) -> str:
        """What somebody else wrote, on one line, without the key."""
        line = " ".join(plain(text.replace(self._key, "***") if self._key else text).split())
        return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."

    def _status_error(self, error: openai.APIStatusError) -> Exception:
        status = error.status_code
        body = error.body if isinstance(error.body, dict) else {}
        reason = self.quoted(str(body.get("message") or error.response.text))
        says = self.says(f"answers {status}{': ' * bool(reason)}{reason}")
        if error.code in OUT_OF_MONEY or status in REFUSES_ALL or status < 400:  # noqa: PLR2004  redirects
            return EndpointRefused(f"{says}; {self._advice(status)}")
        if status in LATER or status >= 500:  # noqa: PLR2004  all that a server calls its own fault
            after = _retry_after(error.response.headers)
            if after > LONGEST_PAUSE_SECONDS:
                return EndpointUnavailable(f"{says}; it asks to be left alone for {after:.0f} s")
            return EndpointUnavailable(says, retry_after_seconds=after)
        return Declined(says)

    def _advice(self, status: int) -> str:
        if status == httpx.codes.NOT_FOUND:
            return f"see {self._section}.model = {self._settings.model!r} and {self._section}.base_url"
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            return f"{'check the key in' if self._key else 'no key was sent: set'} {self._settings.secret}"
        if status < httpx.codes.BAD_REQUEST:
            return f"no redirect is followed: see {self._section}.base_url"
        return "see your account there"


async def persist(send: Callable[[], Awaitable[Reply]]) -> Reply:
    """Send a request again while it fails with what passes.

    Raises:
        EndpointUnavailable: It failed for too long, or with what does not pass soon.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception(_passes),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(PAUSE_SECONDS),
        reraise=True,
    )
    reply: Reply = await retrying(send)
    return reply


def _passes(error: BaseException) -> bool:
    return isinstance(error, EndpointUnavailable) and error.retry_after_seconds is not None


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that an answer asks to wait; 0 where it does not say."""
    try:
        return max(0.0, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0  # a date: clocks differ, and our own pauses do as well
