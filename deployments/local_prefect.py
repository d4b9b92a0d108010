"""A Prefect server with a work pool and a worker, to try the deployments out, and for their tests and screenshots.

`prefect_stack` runs one for a `with` block: on loopback, on a free port, with a PREFECT_HOME of its own, so that it
neither sees nor touches a server, profile or database that is there already, and with a password, as a server should be
run. Nothing calls out, and nothing is left running: server and worker are process groups of their own, which end with
the block however it ends.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

Result = TypeVar("Result")

ROOT = Path(__file__).resolve().parent.parent
"""The clone: prefect.yaml lies there, and the worker must be started there."""

POOL = "nightloom"
START_SECONDS = 120
STOP_SECONDS = 20
COMMAND_SECONDS = 180
ANSWER_SECONDS = 120
"""For one answer of the API. SQLite now and then keeps the server waiting for a lock for a minute, or it says 503."""
PAUSE_SECONDS = 0.2
LOG_CHARACTERS = 4000

FOREIGN = ("PREFECT_", "NIGHTLOOM_")
"""Variables of the caller that are not handed on: they would point at another server or corpus."""

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})


class LocalPrefectFailed(RuntimeError):
    """A part did not start, or a condition was not met in time; the message ends with the end of the logs."""


@dataclass(frozen=True, slots=True)
class LocalPrefect:
    """A running server with its worker.

    Attributes:
        url: Where the UI is; the API is below it.
        folder: PREFECT_HOME and the logs.
        environment: What a process needs to speak to this server and no other.
        auth: "user:password" of the server.
    """

    url: str
    folder: Path
    environment: Mapping[str, str]
    auth: str

    @property
    def api(self) -> str:
        """Address of the API."""
        return f"{self.url}/api"

    @property
    def database(self) -> Path:
        """The server's SQLite file."""
        return self.folder / "home" / "prefect.db"

    @property
    def worker_log(self) -> Path:
        """What the worker and its flow runs print."""
        return self.folder / "worker.log"

    def prefect(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Prefect's, as an operator would in the clone, and wait for its end."""
        return self._command("prefect", "--no-prompt", *words)

    def nightloom(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of Nightloom's in the clone, and wait for its end."""
        return self._command("nightloom.flows.console", *map(str, words))

    def bootstrap(self, *words: str | Path) -> str:
        """Create what the server needs once, with `nightloom bootstrap`; return what it printed.

        Raises:
            LocalPrefectFailed: With what the command printed.
        """
        ended = self.nightloom("bootstrap", *words)
        if ended.returncode:
            raise LocalPrefectFailed(f"nightloom bootstrap failed:\n{ended.stdout}{ended.stderr}")
        return ended.stdout

    def _command(self, module: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603  our own interpreter, our own words
            [sys.executable, "-m", module, *words],
            cwd=ROOT,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def done(self, *words: str) -> str:
        """Run a command of Prefect's that must succeed; return what it printed.

        Raises:
            LocalPrefectFailed: With what the command printed.
        """
        ended = self.prefect(*words)
        if ended.returncode:
            raise LocalPrefectFailed(f"prefect {' '.join(words)} failed:\n{ended.stdout}{ended.stderr}")
        return ended.stdout

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask the API: GET, or POST where there is a body.

        Raises:
            httpx.HTTPStatusError: The server refused.
        """
        answer = self._request("GET" if body is None else "POST", path, body)
        return answer.json() if answer.content else None

    def delete(self, path: str) -> None:
        """Delete what the API has there.

        Raises:
            httpx.HTTPStatusError: The server refused.
        """
        self._request("DELETE", path, None)

    def _request(self, verb: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """Ask, and again while its database is busy."""
        user, _, password = self.auth.partition(":")

        def answered() -> httpx.Response | None:
            found = httpx.request(verb, f"{self.api}{path}", json=body, auth=(user, password), timeout=ANSWER_SECONDS)
            return None if found.status_code == httpx.codes.SERVICE_UNAVAILABLE else found

        return wait_until(answered, f"an answer to {verb} {path}", ANSWER_SECONDS, self.log_end).raise_for_status()

    def start_run(
        self, deployment: str, parameters: Mapping[str, Any] | None = None, *, flow: str = "nightly-reindex"
    ) -> str:
        """Ask for a run of a deployment now; return its id."""
        found = self.ask(f"/deployments/name/{flow}/{deployment}")
        run = self.ask(f"/deployments/{found['id']}/create_flow_run", {"parameters": dict(parameters or {})})
        return str(run["id"])

    def run_when(self, run: str, states: frozenset[str] = ENDED, timeout_seconds: float = 240) -> dict[str, Any]:
        """Wait until a flow run is in one of these states.

        Raises:
            LocalPrefectFailed: It did not get there in time.
        """

        def arrived() -> dict[str, Any] | None:
            found: dict[str, Any] = self.ask(f"/flow_runs/{run}")
            return found if found["state_type"] in states else None

        return wait_until(arrived, f"flow run {run} in {sorted(states)}", timeout_seconds, self.log_end)

    def log_end(self) -> str:
        """The last lines of server and worker."""
        return "\n".join(
            f"--- {file.name}\n{file.read_text('utf-8', 'replace')[-LOG_CHARACTERS:]}"
            for file in sorted(self.folder.glob("*.log"))
        )


def wait_until(
    condition: Callable[[], Result | None], what: str, timeout_seconds: float, log_end: Callable[[], str]
) -> Result:
    """Ask again and again until the answer is not None; a connection that fails is "not yet".

    Raises:
        LocalPrefectFailed: It took longer than `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = condition()
            if answer is not None:
                return answer
        time.sleep(PAUSE_SECONDS)
    raise LocalPrefectFailed(f"not within {timeout_seconds:g} s: {what}\n{log_end()}")


@contextlib.contextmanager
def prefect_stack(folder: Path, worker_environment: Mapping[str, str] | None = None) -> Iterator[LocalPrefect]:
    """Run server and worker for the block, bootstrapped, with everything deployed that prefect.yaml names.

    Args:
        folder: Made if missing; holds PREFECT_HOME and the logs.
        worker_environment: Variables for the worker and its flow runs only, such as NIGHTLOOM_MILVUS_TOKEN.

    Raises:
        LocalPrefectFailed: A part did not start; nothing is left running.
    """
    (folder / "home").mkdir(parents=True, exist_ok=True)
    port = _free_port()
    auth = f"operator:{secrets.token_urlsafe(24)}"
    stack = LocalPrefect(f"http://127.0.0.1:{port}", folder, _environment(folder, port, auth), auth)
    with contextlib.ExitStack() as running:
        server = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        guarded = {**stack.environment, "PREFECT_SERVER_API_AUTH_STRING": auth}
        running.enter_context(_process(stack, "server", server, guarded))
        wait_until(lambda: _healthy(stack), "the server answers", START_SECONDS, stack.log_end)
        stack.bootstrap()
        stack.done("deploy", "--all")  # before the worker: beside one, SQLite now and then makes it wait a minute
        worker = ["worker", "start", "--pool", POOL, "--name", "local"]
        environment = {**stack.environment, **(worker_environment or {})}
        running.enter_context(_process(stack, "worker", worker, environment))
        wait_until(lambda: _online(stack), "the worker is online", START_SECONDS, stack.log_end)
        yield stack


def _environment(folder: Path, port: int, auth: str) -> dict[str, str]:
    api = f"http://127.0.0.1:{port}/api"
    own = {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": api,
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_CLI_COLORS": "false",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    return {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)} | own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(stack: LocalPrefect) -> bool | None:
    return httpx.get(f"{stack.api}/health", timeout=5).is_success or None


def _online(stack: LocalPrefect) -> bool | None:
    workers = stack.ask(f"/work_pools/{POOL}/workers/filter", {})
    return any(worker["status"] == "ONLINE" for worker in workers) or None


@contextlib.contextmanager
def _process(stack: LocalPrefect, name: str, words: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    with (stack.folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  our own interpreter, our own words
            [sys.executable, "-m", "prefect", *words],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that its children can be ended with it, by the group's id
        )
    try:
        yield
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its children. A worker ends its flow runs itself, unless it is too slow or already dead."""
    flow_runs = children(process.pid)  # each the leader of a group of its own
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    for group in (process.pid, *(run for run in flow_runs if process.returncode is None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; macOS has the second for a zombie
            os.killpg(group, signal.SIGKILL)
    process.wait()


def children(parent: int) -> list[int]:
    """Ids of the processes that a process has started."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
    pairs = (line.split() for line in listing.stdout.splitlines())
    return [int(pid) for pid, its_parent in pairs if int(its_parent) == parent]
