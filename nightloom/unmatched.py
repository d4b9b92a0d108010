"""Why a filter finds nothing: a key that no document has, a value that none has, or values that none has together."""

from collections.abc import Mapping, Sequence

from nightloom.corpus import FilterValue, SourceSettings
from nightloom.documents import Scalar
from nightloom.filters import FILTERED, condition
from nightloom.index import Index
from nightloom.metadata import RESERVED
from nightloom.rows import HEADS

SAMPLE_DOCUMENTS = 1_000
"""Documents whose metadata are looked at."""
SHOWN_VALUES = 10
"""A key with more values than these has too many to name."""
SHOWN_CHARACTERS = 60

Known = dict[str, set[Scalar]]


async def why_nothing(
    index: Index, collection: str, filters: Mapping[str, FilterValue], sources: Sequence[SourceSettings]
) -> str:
    """Say which filter no passage meets, and what there is instead, in a sentence.

    Args:
        index: Open.
        collection: That was asked.
        filters: That nothing was found with.
        sources: Of the corpus, for their tags.
    """
    connection = index.connection

    def look() -> tuple[Known, bool, list[str]]:
        known, is_whole = _known(index, collection)
        unmet = [
            key
            for key, value in filters.items()
            if not connection.count_now(collection, condition({key: value}, sources))
        ]
        return known, is_whole, unmet

    await connection.count(collection)
    known, is_whole, unmet = await connection.call(look)
    if not known:
        return "the index has no passage"
    if not unmet:
        pairs = " and ".join(_pair(key, value) for key, value in filters.items())
        return f"no passage has {pairs} at once; each alone finds some" if len(filters) > 1 else "nothing was found"
    return "; ".join(_unmet(key, filters[key], known, is_whole=is_whole) for key in unmet)


def _known(index: Index, collection: str) -> tuple[Known, bool]:
    """Values by key of some documents, and whether these are all that there are."""
    known: Known = {}
    looked = 0
    for batch in index.connection.scan(collection, HEADS, ("*",)):
        for row in batch:
            looked += 1
            for key, value in row.items():
                if key in FILTERED or (key not in RESERVED and not key.startswith("$")):
                    known.setdefault(key, set()).add(value)
        if looked >= SAMPLE_DOCUMENTS:
            return known, False
    return known, True


def _unmet(key: str, value: FilterValue, known: Known, *, is_whole: bool) -> str:
    if key not in known and key not in FILTERED:
        keys = sorted(known, key=lambda name: (name not in FILTERED, name))
        who = "no row has" if is_whole else f"no row of the {SAMPLE_DOCUMENTS} documents looked at has"
        return f"{who} {key!r}; there are {', '.join(keys)}"
    values = sorted(map(_shown, known.get(key, ())))
    there = f"; there are {', '.join(values)}" if 0 < len(values) <= SHOWN_VALUES and is_whole else ""
    return f"no passage has {_pair(key, value)}{there}"


def _pair(key: str, value: FilterValue) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return f"{key} = {' or '.join(repr(_shown(one)) for one in values)}"


def _shown(value: Scalar) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
