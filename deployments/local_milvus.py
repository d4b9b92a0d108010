"""A real Milvus standalone server without Docker, to try Nightloom out and for its tests. Not for production.

`python deployments/local_milvus.py [--port 19530] [--data data/milvus]` runs one until Ctrl+C; `local_milvus` runs one for
a `with` block. The server is the binary in the PyPI package `milvus`, with the configuration shipped beside it. That
package's own launcher is not used: its embedded etcd always takes the ports 2379 and 2380, so that a second server on the
machine dies; it unpacks 257 MB into every data folder; and it gives the server one second to stop.

Every variable in a Milvus server's environment is one of its settings (`PROXY_PORT` is `proxy.port`), so the settings made
here travel as its whole environment, and none of the caller's variables reaches it.

**What cannot be bound to loopback**: etcd's two ports are on 127.0.0.1, and the parts of the server call one another there,
but Milvus 2.3 listens on all interfaces for its clients (`port`), for metrics and health, and for its seven internal
services: its `<component>.ip` only says which address is announced. Nothing asks for a password. Use a firewall where
others can reach the machine.

The binary also writes a few bytes to /run/milvus, where it may, and to /tmp/milvus, whatever it is told.
"""

import contextlib
import importlib.metadata
import importlib.util
import lzma
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Where free ports are looked for: below the ephemeral ports, of which an outgoing connection could take one before the
server listens on it (Milvus then moves to another port without a word)."""

SERVICES = ("proxy.internalPort",) + tuple(
    f"{name}.port" for name in ("rootCoord", "queryCoord", "queryNode", "dataCoord", "dataNode", "indexNode")
)
LOG_LINES = 20
"""How many of the last lines of the log an error carries."""

UNAVAILABLE = (
    "There is no Milvus server to start: the package `milvus` is not installed, or has no binary for this platform "
    "({platform}). Install it with `pip install 'nightloom[milvus]'`, on Linux x86-64 or macOS only; elsewhere, run Milvus "
    "in a container."
)
READY = """Milvus is ready at {server.uri}
  data: {server.folder}
  log:  {server.log_file}
It is for trying out, not for production: one process, no password, open to whoever can reach this machine.
Ctrl+C stops it and keeps the data."""


class LocalMilvusUnavailable(RuntimeError):
    """No server can be started here; the message says what to install. Tests skip with it as their reason."""


class LocalMilvusFailed(RuntimeError):
    """A server did not start: port or folder in use, or it died or was too slow. The message ends with its log's end."""


@dataclass(frozen=True)
class LocalMilvus:
    """A running server; `start` makes it."""

    uri: str
    port: int
    pid: int
    folder: Path
    log_file: Path
    process: "subprocess.Popen[bytes]" = field(repr=False, compare=False)

    def kill(self) -> None:
        """End it at once, as a crash would, with any children; return when it is gone. Its folder can be started again."""
        if self.process.returncode is None:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def stop(self, grace_seconds: float = 20) -> None:
        """Let it stop cleanly, and kill what is left after `grace_seconds`. Nothing happens if it has ended before.

        Its exit status says nothing: this version always aborts as the very last step of a clean stop.
        """
        if self.process.returncode is not None:
            return
        try:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a paused server would not see the first signal
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_seconds)
        finally:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # ended; macOS has the second for a zombie
            os.killpg(self.pid, number)


def start(folder: Path, port: int | None = None, timeout_seconds: float = 90) -> LocalMilvus:
    """Start a server on `folder`, made if missing, and wait until it answers; `port` is a free one unless given.

    A folder keeps its data from one start to the next, whatever the ports. Raises `LocalMilvusUnavailable` and
    `LocalMilvusFailed`; after an error no process is left.
    """
    folder = folder.resolve()
    binaries = _binaries()
    if port is not None and not _is_free(port):
        raise LocalMilvusFailed(f"Port {port} is in use: stop what listens there, or choose another port.")
    metrics_port, *others = _free_ports(3 + len(SERVICES) + (port is None))
    port = others.pop() if port is None else port
    settings = _configure(folder, port, metrics_port, others)
    log_file = folder / "milvus.log"
    process = _launch(binaries, folder, log_file, settings)
    server = LocalMilvus(f"http://{HOST}:{port}", port, process.pid, folder, log_file, process)
    try:
        _wait_until_ready(server, metrics_port, timeout_seconds)
    except BaseException:
        server.kill()
        raise
    return server


@contextlib.contextmanager
def local_milvus(folder: Path, port: int | None = None, timeout_seconds: float = 90) -> Iterator[LocalMilvus]:
    """Run a server for the `with` block: `start`, then `stop`. It may be killed in the block, and started again."""
    server = start(folder, port, timeout_seconds)
    try:
        yield server
    finally:
        server.stop()


def _package() -> Path:
    """Return the data folder of the package `milvus`, which is not imported: that would make two server objects."""
    spec = importlib.util.find_spec("milvus")
    data = Path(spec.origin).parent / "data" if spec and spec.origin else None
    if data is None or not (data / "bin" / "milvus.lzma").is_file():
        raise LocalMilvusUnavailable(UNAVAILABLE.format(platform=f"{platform.system()} {platform.machine()}"))
    return data


def _binaries() -> Path:
    """Return the folder of the unpacked binaries. The first call unpacks 257 MB into the user's cache, in about 5 s."""
    packed = _package() / "bin"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightloom"
    binaries = cache / f"milvus-{importlib.metadata.version('milvus')}-{sys.platform}-{platform.machine()}"
    if binaries.is_dir():
        return binaries
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        unpacked = Path(temporary, "bin")
        unpacked.mkdir()
        for file in packed.glob("*.lzma"):
            target = unpacked / file.stem
            with lzma.open(file) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            target.chmod(0o755)
        try:
            unpacked.rename(binaries)  # in one step, so that no other process sees half of it
        except OSError:  # another process was first
            if not binaries.is_dir():
                raise
    return binaries


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    candidates = random.sample(PORTS, len(PORTS))
    free = [port for port, _ in zip(filter(_is_free, candidates), range(count), strict=False)]
    if len(free) < count:
        raise LocalMilvusFailed(f"Fewer than {count} ports of {PORTS.start} to {PORTS.stop - 1} are free.")
    return free
