"""What the rules of sources leave out of a night, counted by rule and kind, so that nobody misses it unawares."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

KINDS = 200
"""Kinds of a rule that are told apart; the rest are others."""
SHOWN_KINDS = 5
"""Kinds that a sentence names."""
NO_ENDING = "without an ending"
OTHERS = "others"

_SUFFIX = re.compile(r"\.\w{1,12}")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Files, or whatever else a source has, that one rule leaves out.

    Attributes:
        rule: A key of the corpus file, such as include; ".gitignore", "robots.txt", or why by a word of its own.
        unit: What is counted: files, folders, pages, links.
        kinds: How many of each; of files by the ending of their names.
    """

    rule: str
    unit: str
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """What the rule leaves out, as a sentence such as "34 files left out by include: 6 .docx, 28 others"."""
        most = sorted(((kind, count) for kind, count in self.kinds.items() if kind != OTHERS), key=_by_count)
        shown = most[: SHOWN_KINDS if len(self.kinds) > SHOWN_KINDS + 1 else SHOWN_KINDS + 1]
        total = self.kinds.total()
        rest = total - sum(count for _, count in shown)
        words = [f"{count} {kind}" for kind, count in [*shown, *([(OTHERS, rest)] if rest else [])]]
        unit = self.unit.removesuffix("s") if total == 1 else self.unit
        says = f"{total} {unit} left out by {self.rule}"
        return f"{says}: {', '.join(words)}" if self.unit == "files" else says


def _by_count(kind: tuple[str, int]) -> tuple[int, str]:
    return -kind[1], kind[0]


class LeftOutCounter:
    """Counts what a source leaves out, in memory that does not grow with it."""

    def __init__(self) -> None:
        """Count nothing yet."""
        self._found: dict[tuple[str, str], Counter[str]] = {}

    def file(self, rule: str, name: str) -> None:
        """Count a file, or a page, under the ending of its name."""
        suffix = PurePosixPath(name).suffix.lower()
        self.add(rule, "files", suffix if _SUFFIX.fullmatch(suffix) else NO_ENDING)

    def add(self, rule: str, unit: str, kind: str = "", count: int = 1) -> None:
        """Count so many of a kind."""
        kinds = self._found.setdefault((rule, unit), Counter())
        kinds[kind if kind in kinds or len(kinds) < KINDS else OTHERS] += count

    @property
    def found(self) -> tuple[LeftOut, ...]:
        """What was counted, by rule."""
        return tuple(LeftOut(rule, unit, kinds) for (rule, unit), kinds in sorted(self._found.items()))


def together(parts: Iterable[tuple[LeftOut, ...]]) -> tuple[LeftOut, ...]:
    """What several sources leave out, as one."""
    whole = LeftOutCounter()
    for left in (one for part in parts for one in part):
        for kind, count in left.kinds.items():
            whole.add(left.rule, left.unit, kind, count)
    return whole.found
