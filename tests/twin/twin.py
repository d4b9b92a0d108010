"""The twin of a named version: which rules it goes by."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.twin.proxy import Call, Proxy
from tests.twin.rules import Backend, Moments, OneWriterOnLite, Rule, Version

VERSIONS = ("2.5.27", "2.6.16", "3.0.0")
"""Versions that tests run against."""


class Twin:
    """A Milvus that answers as another version does.

    Attributes:
        version: Which one.
        uri: Where clients find it.
        moments: The rule about timestamps of reads.
    """

    def __init__(self, backend: str, version: str, *, is_lite: bool = False) -> None:
        """Start it.

        Args:
            backend: Address of the Milvus behind it.
            version: One of VERSIONS.
            is_lite: Whether that is Milvus Lite.
        """
        self.version = version
        behind = Backend(self._send, is_lite=is_lite)
        self.moments = Moments(behind)
        self.rules: tuple[Rule, ...] = (Version(behind, f"v{version}"), OneWriterOnLite(behind), self.moments)
        self.proxy = Proxy(backend, self.rules)
        self.uri = self.proxy.uri

    def _send(self, call: Call) -> Any:
        """A request of a rule's own."""
        return self.proxy.pass_on(call)

    def stop(self) -> None:
        """End it; the Milvus behind goes on."""
        self.proxy.stop()


@contextmanager
def without(rule: Rule) -> Iterator[None]:
    """Switch a rule off for the block: a negative control."""
    rule.on = False
    try:
        yield
    finally:
        rule.on = True
