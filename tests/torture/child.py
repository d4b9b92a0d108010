"""A child process that runs one night, and may be killed at any moment.

Children are forked from a server that has everything imported: a night begins within tens of milliseconds, and no child
has threads or connections of its parent.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from nightloom import index as index_module
from nightloom import night as night_module
from nightloom.errors import NightloomError
from nightloom.flows.nightly_reindex import nightly_reindex
from tests.torture.calls import Fault
from tests.torture.faults import install
from tests.torture.model import HashEmbedder, NearReaders
from tests.torture.sticky import AliasMemory

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = ("tests.torture.warm",)
BEGIN_SECONDS = 60
RETRY_SECONDS = 0.05
LOG_CHARACTERS = 4000

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to do.

    Attributes:
        corpus_file: Whose night.
        api: Address of the Prefect API.
        folder: Of the torture: the child's log, and what the alias is said to name.
        faults: In the child; see `tests.torture.faults`.
        sabotages: How the product is broken; none but in negative controls.
    """

    corpus_file: Path
    api: str
    folder: Path
    faults: tuple[Fault, ...] = ()
    sabotages: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """What the child prints."""
        return self.folder / "child.log"

    @property
    def journal(self) -> Path:
        """Where the child writes down which faults came about."""
        return self.folder / "fired.txt"

    @property
    def alias(self) -> AliasMemory:
        """What the alias is said to name."""
        return AliasMemory(self.folder / "stuck.json")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a night ended.

    Attributes:
        outcome: As the run report says it, or "killed", or "broken" where the torture itself is at fault.
        reason: In words.
        seconds: From its begin.
        generation: That the report is about.
    """

    outcome: str
    reason: str
    seconds: float = 0.0
    generation: str = ""


class Child:
    """A night that runs in a process of its own."""

    def __init__(self, work: Callable[[Any, Connection], None], order: Any) -> None:
        """Start it, and wait until it has begun."""
        receiver, sender = _context.Pipe(duplex=False)
        start_fork_server()
        self._process = _context.Process(target=work, args=(order, sender))  # no daemon, as those may have no children
        self._process.start()
        sender.close()
        self._receiver = receiver
        if not receiver.poll(BEGIN_SECONDS):
            self.kill()
            raise TimeoutError("a child process did not begin")
        receiver.recv()
        self._began = time.monotonic()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within that time."""
        self._process.join(seconds)
        return not self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone and reaped."""
        self._process.kill()
        self._process.join()

    def answer(self) -> Any:
        """What it sent before it ended; `Ended` as killed where it sent nothing."""
        seconds = time.monotonic() - self._began
        try:
            answer = self._receiver.recv()  # first: a long answer does not fit into the pipe at once
            self._process.join()
        except EOFError:
            self._process.join()
            killed = self._process.exitcode == -signal.SIGKILL
            answer = Ended("killed" if killed else "broken", f"exit code {self._process.exitcode}", seconds)
        self._receiver.close()
        self._process.close()
        return answer


FORK_SERVER_ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),  # it finds our modules wherever the tests were started
    "PREFECT_LOGGING_LEVEL": "WARNING",  # a child's log says what went wrong
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def start_fork_server() -> None:
    """Start it, unless it runs; it imports while its starter goes on."""
    before = {name: os.environ.get(name) for name in FORK_SERVER_ENVIRONMENT}
    os.environ.update(FORK_SERVER_ENVIRONMENT)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_night(order: Order, sender: Connection) -> None:
    """The work of a child: one night, as a worker would run it, and how it ended."""
    _write_to(order.log)
    try:
        _prepare(order)
    except Exception:  # noqa: BLE001  told to who started this
        sender.send("begun")
        sender.send(Ended("broken", traceback.format_exc()))
        os._exit(1)
    sender.send("begun")
    began = time.monotonic()
    with temporary_settings({PREFECT_API_URL: order.api, PREFECT_LOGGING_TO_API_ENABLED: False}):
        outcome, reason, generation = asyncio.run(_night(order.corpus_file))
    sender.send(Ended(outcome, reason, time.monotonic() - began, generation))
    os._exit(0)


def _prepare(order: Order) -> None:
    setattr(night_module, "Embedder", HashEmbedder)  # noqa: B010  the one place that makes a night's embedder
    setattr(night_module, "Readers", NearReaders)  # noqa: B010  likewise
    setattr(index_module, "PROOF_PAUSE_SECONDS", RETRY_SECONDS)  # noqa: B010
    for task in _tasks():
        task.retry_delay_seconds = [RETRY_SECONDS]
        task.retry_jitter_factor = None
    install(order.faults, order.sabotages, order.alias, order.journal)


def _tasks() -> Sequence[Task[Any, Any]]:
    modules = [module for name, module in sys.modules.items() if name.startswith("nightloom.tasks.")]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Task)]


async def _night(corpus_file: Path) -> tuple[str, str, str]:
    try:
        report: dict[str, Any] = await nightly_reindex(corpus_file=corpus_file)
    except NightloomError as error:
        return error.outcome, str(error), ""
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  any end is an end
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}", ""
    return report["outcome"], report["reason"], report["generation"] or ""


def _write_to(log: Path) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.close(stream)


def log_end(order: Order) -> str:
    """The end of what a child printed."""
    return order.log.read_text(errors="replace")[-LOG_CHARACTERS:] if order.log.exists() else ""
