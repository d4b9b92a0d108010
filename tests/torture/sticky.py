"""An alias that sticks, as a server's does about once in a hundred switches."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from tests.torture.calls import Due, wrap

ALIAS_STICKS = "alias sticks"
"""A fault whose nth is how many switches do nothing."""


class AliasMemory:
    """An alias that sticks: describe_alias names the new collection, and reads answer from the old one.

    The same alter_alias made again changes nothing, as on servers from 2.6.6 on; an alter_alias to another collection
    heals it. The file outlives the process, as the server's state would.
    """

    def __init__(self, file: Path) -> None:
        """Remember in a file."""
        self._file = file

    def install(self, swallowed: int, due: Due | None = None) -> None:
        """Swallow the first calls of alter_alias; in every child, answer questions as the server would."""
        calls = itertools.count()

        def alter(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if next(calls) < swallowed:
                if due is not None:
                    due.fired()
                self._file.write_text(json.dumps([args[2], args[1]]))
                return None
            if self.named(args[2]) == args[1]:
                return None
            result = original(*args, **kwargs)
            self._file.unlink(missing_ok=True)
            return result

        def describe(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return original(*args, **kwargs) | ({"collection_name": named} if (named := self.named(args[1])) else {})

        def list_aliases(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            found = original(*args, **kwargs)
            if not (self._file.exists() and args[1:] and args[1]):
                return found
            alias, named = json.loads(self._file.read_text())
            others = [each for each in found["aliases"] if each != alias]
            return found | {"aliases": [*others, *([alias] if named == args[1] else [])]}

        wrap(MilvusClient, "alter_alias", alter)
        wrap(MilvusClient, "describe_alias", describe)
        wrap(MilvusClient, "list_aliases", list_aliases)

    def named(self, alias: str) -> str | None:
        """What describe_alias says of a stuck alias; None where it is not stuck."""
        if not self._file.exists():
            return None
        stuck, named = json.loads(self._file.read_text())
        return str(named) if stuck == alias else None
