"""Nights killed at random moments, at named points, and with five random faults each, against a model of the rows.

    python benchmarks/torture.py [--kills 200] [--on lite server 2.5.27 2.6.16 3.0.0] [--seed N]
                                 [--uri http://127.0.0.1:19530] [--update in_place]

The kills are dealt out over Milvus Lite, a Milvus server (one of its own, unless there is an address), and that server
behind the twin of each newer version (tests/twin). Prints what happened. Where the index is ever not what the model
says, it says so with the seed that replays it, and exits with 1.
"""

import argparse
import contextlib
import os
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prefect.settings import get_current_settings

from deployments.local_milvus import local_milvus
from nightloom.flows.prefect_api import prefect_api
from tests.torture.campaign import Torture, settle, summary
from tests.torture.checker import TortureFailed
from tests.torture.child import start_fork_server
from tests.torture.points import FIRST_NIGHT_POINTS, GROUPS, IN_PLACE_POINTS
from tests.torture.setting import Setting
from tests.twin import VERSIONS, Twin

FAULTY_NIGHTS_A_KILL = 0.2
"""Nights with five random faults, for each night that is killed at random."""


@contextlib.contextmanager
def milvus(uri: str | None, folder: Path) -> Iterator[str]:
    """The server that was named, or one of our own."""
    if uri:
        yield uri
        return
    with local_milvus(folder) as server:
        yield server.uri


@contextlib.contextmanager
def address_of(kind: str, server: str) -> Iterator[str]:
    """Where a torture of this kind takes place: a file, the server, or the server behind the twin of a version."""
    if kind not in VERSIONS:
        yield "index.db" if kind == "lite" else server
        return
    twin = Twin(server, kind)
    try:
        yield twin.uri
    finally:
        twin.stop()


def one_torture(setting: Setting, seed: int, kills: int) -> None:
    """Everything, on one Milvus, and a line about it."""
    began = time.monotonic()
    with Torture(setting, seed) as torture:
        torture.kill_at_each(FIRST_NIGHT_POINTS)
        settle(torture)
        torture.kill_at_random(kills)
        torture.whole_night()
        for points in [IN_PLACE_POINTS] if setting.in_place else GROUPS.values():
            torture.kill_at_each(points)
        torture.random_faults(int(kills * FAULTY_NIGHTS_A_KILL))
        torture.change()
        torture.whole_night()
    print(f"{summary(torture)}; {time.monotonic() - began:.0f} s", flush=True)


def main() -> int:
    """Run the torture; exit code 1 where it found anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    kinds = ["lite", "server", *VERSIONS]
    parser.add_argument("--on", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--uri", help="a Milvus server; its collections torture_* are left behind")
    parser.add_argument("--update", choices=["generation", "in_place"], default="generation")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    start_fork_server()
    with tempfile.TemporaryDirectory() as name, prefect_api(), milvus(arguments.uri, Path(name, "milvus")) as uri:
        api = str(get_current_settings().api.url)
        kills = arguments.kills // len(arguments.on)
        try:
            for kind in arguments.on:
                alias = f"torture_{kind.replace('.', '_')}_{os.getpid()}"
                with address_of(kind, uri) as address:
                    setting = Setting(Path(name, kind), address, api, alias, arguments.update)
                    one_torture(setting, arguments.seed, kills)
        except TortureFailed as error:
            print(f"{error}\nreplay: {shlex.join(sys.argv)} --seed {arguments.seed}")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
