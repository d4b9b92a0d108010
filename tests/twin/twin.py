"""The twin of a named version: which rules it goes by."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.twin.proxy import Call, Proxy
from tests.twin.rules import (
    PARAMETER,
    UNEXPECTED,
    Aliases,
    Backend,
    CachedDescribe,
    DatabaseOfRequests,
    DynamicField,
    Failures,
    FlushRate,
    KeptByAliases,
    Moments,
    OneWriterOnLite,
    OnlyAutoindex,
    Privileges,
    Rule,
    SmallPlan,
    UniqueKeys,
    Version,
)

VERSIONS = ("2.5.27", "2.6.16", "3.0.0")
"""Versions that tests run against."""
ZILLIZ = "Zilliz Cloud"
"""The twin that has the limits of Zilliz Cloud's Free plan; it is one of 2.6."""
NUMBERS = {"2.5.27": (2, 5, 27), "2.6.16": (2, 6, 16), "3.0.0": (3, 0, 0), ZILLIZ: (2, 6, 16)}


class Twin:
    """A Milvus that answers as another version does.

    Attributes:
        version: The version of Milvus that it answers as.
        uri: Where clients find it.
        moments, aliases, cached, dynamic, privileges, failures: Rules that tests turn the screws of.
    """

    def __init__(self, backend: str, version: str, *, is_lite: bool = False) -> None:
        """Start it.

        Args:
            backend: Address of the Milvus behind it.
            version: One of VERSIONS, or ZILLIZ.
            is_lite: Whether that is Milvus Lite.
        """
        number = NUMBERS[version]
        behind = Backend(self._send, is_lite=is_lite)
        self.version = version
        self.moments = Moments(behind)
        self.aliases = Aliases(behind, ignores_the_same=number >= (2, 6, 6))
        self.cached = CachedDescribe(behind, missing_code=100 if number >= (3, 0, 0) else 0)
        self.dynamic = DynamicField(behind, older=number < (2, 6, 8))
        self.privileges = Privileges(behind, database_of_request=number >= (3, 0, 0))
        self.failures = Failures(behind)
        rules: list[Rule] = [
            Version(behind, version),
            self.privileges,
            self.failures,
            FlushRate(behind),
            DatabaseOfRequests(behind),
            OneWriterOnLite(behind),
            self.aliases,
            self.cached,
            self.dynamic,
            KeptByAliases(behind, code=PARAMETER if number >= (2, 6, 19) else UNEXPECTED),
            self.moments,
        ]
        if number >= (2, 6, 8):
            rules.append(UniqueKeys(behind))
        if version == ZILLIZ:
            says = "Zilliz Cloud Vector Database(Compatible with Milvus 2.6)"
            rules[0] = Version(behind, "unknown-20260608-7ea6e3526", connects_as=says, timestamps=False)
            rules += [SmallPlan(behind), OnlyAutoindex(behind)]
        self.rules: tuple[Rule, ...] = tuple(rules)
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
