"""A real Milvus standalone server without Docker, to try Nightloom out and for its tests. Not for production.

`python deployments/local_milvus.py [--port 19530] [--data data/milvus]` runs one until Ctrl+C; `local_milvus` runs one
for a `with` block. The server is the binary of the PyPI package `milvus`, with the configuration that package ships.
Its own launcher is not used: its embedded etcd takes ports 2379 and 2380 whatever one asks for, so that a second server
on the machine dies; it unpacks 257 MB into every data folder; and it gives the server one second to stop.

**What cannot be bound to loopback.** Only etcd's two ports are on 127.0.0.1. For clients (`--port`), for metrics and
health, and for its seven internal services Milvus 2.3 listens on every interface: `<component>.ip`, set to 127.0.0.1
here, is no more than the address at which the components call one another. Nothing asks for a password, so do not run
it where strangers can reach the machine. It also writes a few bytes to /run/milvus and /tmp/milvus.
"""

import argparse
import base64
import contextlib
import fcntl
import http.client
import importlib.metadata
import importlib.util
import itertools
import json
import lzma
import os
import platform
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Where free ports are sought: below the ephemeral ones, which an outgoing connection could take before the server does
(Milvus then moves to another port without a word)."""

SERVICES = ("rootCoord", "queryCoord", "queryNode", "dataCoord", "dataNode", "indexNode")
SERVICE_PORTS = ("proxy.internalPort", *(f"{service}.port" for service in SERVICES))
PORTS_FILE = "ports.json"
"""In the folder of a server: the ports that it had, which are not taken again. A session that it left behind in etcd
would else name another service of the new server, which would be asked in vain for an hour."""
LIBRARY_PATH = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
HANDED_ON = ("ENDS_WITH_TESTS",)
"""Variables of the caller that a server has, too: by this one the tests find what they have started."""
PLACEHOLDER = re.compile(r"\{\{[^:}]*:?\s*([^}]*?)\s*\}\}")  # `{{ name(type): default }}` in the shipped configuration
LOG_LINES, LOG_LINE_LENGTH = 20, 500  # how much of the end of its log an error carries

UNAVAILABLE = (
    "No Milvus server can be started here: the package `milvus` is not installed, or has no binary for {platform}. "
    "Install it with `pip install 'nightloom[milvus]'`, on Linux x86-64 or macOS; elsewhere run Milvus in a container."
)
READY = """Milvus is ready at {server.uri}
  data: {server.folder}
  log:  {server.log_file}
It is for trying out, not for production: one process, no password, open to whoever can reach this machine.
Ctrl+C stops it and keeps the data."""


class LocalMilvusUnavailable(RuntimeError):
    """No server can be started on this machine; the message says what to install. Tests skip with it as the reason."""


class LocalMilvusFailed(RuntimeError):
    """A server did not start: its port or folder is in use, it died, or it was too slow. Carries the end of its log."""


@dataclass(frozen=True)
class LocalMilvus:
    """A running server, made by `start`. Its pid is also its process group's."""

    uri: str
    port: int
    pid: int
    folder: Path
    log_file: Path
    process: subprocess.Popen[bytes] = field(repr=False, compare=False)

    def kill(self) -> None:
        """End it as a crash would, with any children, and return when it is gone. The folder can be started again."""
        self.stop(grace_seconds=0)

    def stop(self, grace_seconds: float = 20) -> None:
        """Let it stop cleanly for up to `grace_seconds`, then kill what is left; nothing if it was ended here before.

        The exit status says nothing: this version of Milvus aborts as the very last step of a clean stop.
        """
        if self.process.returncode is not None:
            return
        try:
            if grace_seconds:
                self._signal(signal.SIGTERM)
                self._signal(signal.SIGCONT)  # a paused server would not see the first
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(grace_seconds)
        finally:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the second: a zombie, on macOS
            os.killpg(self.pid, number)


def start(
    folder: Path,
    port: int | None = None,
    timeout_seconds: float = 90,
    more: Mapping[str, object] = MappingProxyType({}),
) -> LocalMilvus:
    """Start a server on `folder`, made if missing, and wait until it answers. A `port` of None is a free one.

    `more` are settings of Milvus's own, by dotted key: {"quotaAndLimits.dml.enabled": True}. With
    `common.security.authorizationEnabled` it asks for passwords (root's is "Milvus"); with `common.security.tlsMode` 1,
    `tls.serverPemPath` and `tls.serverKeyPath` it speaks TLS.
    The data stay in the folder from one start to the next, whatever the ports; collections that were loaded answer
    again within a few seconds. The log is of the latest start. Raises `LocalMilvusUnavailable` or `LocalMilvusFailed`,
    and leaves no process then.
    """
    package, folder = _package(), folder.resolve()
    binaries = _unpack(package / "bin")
    if port is not None and not _is_free(port):
        raise LocalMilvusFailed(f"Port {port} is in use: stop what listens there, or choose another port.")
    before = _ports_before(folder)
    free_port, metrics_port, *inner_ports = _free_ports(4 + len(SERVICE_PORTS), before)
    port = free_port if port is None else port
    log_file = folder / "milvus.log"
    with _claim(log_file) as log:
        # Milvus reads every variable of its environment as a setting, so it gets none of the caller's.
        environment = _configure(package, folder, port, inner_ports, more)
        (folder / PORTS_FILE).write_text(json.dumps([*before, *inner_ports]))
        environment |= {"METRICS_PORT": str(metrics_port), LIBRARY_PATH: str(binaries)}
        environment |= {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        process = subprocess.Popen(  # noqa: S603 - nothing in it comes from outside
            [str(binaries / "milvus"), "run", "standalone"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that Ctrl+C reaches only the caller
        )
    scheme = "https" if more.get("common.security.tlsMode") else "http"
    server = LocalMilvus(f"{scheme}://{HOST}:{port}", port, process.pid, folder, log_file, process)
    try:
        _wait_until_ready(server, metrics_port, inner_ports, timeout_seconds)
    except BaseException:
        server.kill()
        raise
    (folder / PORTS_FILE).write_text(json.dumps(inner_ports))  # older sessions have ended
    return server


@contextlib.contextmanager
def local_milvus(folder: Path, port: int | None = None, timeout_seconds: float = 90) -> Iterator[LocalMilvus]:
    """Run a server for the block: `start`, then `stop`, which does nothing if the block has killed it."""
    server = start(folder, port, timeout_seconds)
    try:
        yield server
    finally:
        server.stop()


def _package() -> Path:
    """Return the data folder of the package `milvus`, which is not imported because that makes two server objects."""
    spec = importlib.util.find_spec("milvus")
    data = Path(spec.origin).parent / "data" if spec and spec.origin else None
    if data is None or not (data / "bin" / "milvus.lzma").is_file():
        raise LocalMilvusUnavailable(UNAVAILABLE.format(platform=f"{platform.system()} {platform.machine()}"))
    return data


def _unpack(packed: Path) -> Path:
    """Return the folder with the unpacked binaries, in the user's cache; the first call takes about 5 s and 257 MB."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightloom"
    binaries = cache / f"milvus-{importlib.metadata.version('milvus')}-{sys.platform}-{platform.machine()}"
    if binaries.is_dir():
        return binaries
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        unpacked = Path(temporary, "bin")
        unpacked.mkdir()
        for file in packed.glob("*.lzma"):
            with lzma.open(file) as source, (unpacked / file.stem).open("wb") as target:
                shutil.copyfileobj(source, target)
            (unpacked / file.stem).chmod(0o755)
        try:
            unpacked.rename(binaries)  # in one step, so that no other process sees half of it
        except OSError:
            if not binaries.is_dir():  # otherwise another process was first
                raise
    return binaries


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("", port)):
        return True
    return False


def _free_ports(count: int, without: Collection[int]) -> list[int]:
    candidates = random.sample(PORTS, len(PORTS))  # shuffled, so that servers started together do not collide
    return list(itertools.islice((port for port in candidates if port not in without and _is_free(port)), count))


def _ports_before(folder: Path) -> list[int]:
    """The ports of the servers that ran on this folder before, as far as they may have left sessions."""
    try:
        found: list[int] = json.loads((folder / PORTS_FILE).read_text())
    except (OSError, ValueError):
        return []
    return found


@contextlib.contextmanager
def _claim(log_file: Path) -> Iterator[BinaryIO]:
    """Open the log, locked and empty. Its server inherits the lock; a second one on the folder would only wait."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalMilvusFailed(f"A server is already running on {log_file.parent}.") from None
        log.truncate(0)
        yield log


def _configure(
    package: Path, folder: Path, port: int, inner_ports: list[int], more: Mapping[str, object]
) -> dict[str, str]:
    """Write the configuration files, and return the settings laid over them as environment variables.

    The files are the package's: with the defaults in Milvus's code, which differ, the server hangs when it stops.
    """
    client_port, peer_port, *service_ports = inner_ports
    client_url, peer_url = f"http://{HOST}:{client_port}", f"http://{HOST}:{peer_port}"
    etcd = {"name": "default", "initial-cluster": f"default={peer_url}", "log-level": "warn"}
    etcd |= dict.fromkeys(("listen-client-urls", "advertise-client-urls"), client_url)
    etcd |= dict.fromkeys(("listen-peer-urls", "initial-advertise-peer-urls"), peer_url)
    shipped = (package / "config.yaml.template").read_text("utf-8")
    configs = folder / "configs"
    configs.mkdir(exist_ok=True)
    (configs / "milvus.yaml").write_text(PLACEHOLDER.sub(r"\1", shipped), "utf-8")
    (configs / "glog.conf").write_text("--logtostderr=true\n", "utf-8")  # the server exits where there is none
    (configs / "etcd.json").write_text(json.dumps(etcd), "utf-8")
    settings: dict[str, object] = {
        "common.gracefulStopTimeout": 1,  # seconds: the only query node waits for another to take its data over
        "common.session.ttl": 3600,  # seconds: a server that was paused for longer ends itself
        "etcd.config.path": configs / "etcd.json",
        "etcd.data.dir": folder / "etcd",
        "etcd.endpoints": f"{HOST}:{client_port}",
        "localStorage.path": folder / "files",
        "log.level": "warn",
        "proxy.port": port,
        "rocksmq.path": folder / "rocksmq",
    }
    settings |= zip(SERVICE_PORTS, service_ports, strict=True)
    settings |= {f"{component}.ip": HOST for component in ("proxy", *SERVICES)}
    settings |= more
    return {"MILVUSCONF": str(configs)} | {key.replace(".", "_").upper(): str(settings[key]) for key in settings}


def _wait_until_ready(server: LocalMilvus, metrics_port: int, inner_ports: list[int], timeout_seconds: float) -> None:
    """Wait until every component says it is healthy and a request goes through: the list of collections, over HTTP."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if (status := server.process.poll()) is not None:
            raise LocalMilvusFailed(f"Milvus ended with status {status} while starting.{_log_end(server)}")
        _end_old_sessions({server.port, *inner_ports}, etcd_port=inner_ports[0])
        if _request(metrics_port, "/healthz") and _serves(server):
            return
        time.sleep(0.1)
    raise LocalMilvusFailed(f"Milvus was not ready within {timeout_seconds:g} s.{_log_end(server)}")


def _serves(server: LocalMilvus) -> bool:
    """Whether a request goes through: it lists collections, or is asked for a password; over TLS, it shakes hands."""
    if server.uri.startswith("https"):
        with contextlib.suppress(OSError):
            return bool(ssl.get_server_certificate((HOST, server.port), timeout=5))
        return False
    answer = _request(server.port, "/v1/vector/collections")
    return b'"code":200' in answer or b'"code":1800' in answer


def _end_old_sessions(own_ports: set[int], etcd_port: int) -> None:
    """Revoke what a server that ran on this folder before has left in etcd: until it expires no other can start."""
    sessions = {"key": b"by-dev/meta/session/", "range_end": b"by-dev/meta/session0"}
    query = {name: base64.b64encode(key).decode() for name, key in sessions.items()}
    for entry in json.loads(_request(etcd_port, "/v3/kv/range", query) or b"{}").get("kvs", ()):
        session = json.loads(base64.b64decode(entry["value"]))
        if "lease" in entry and int(session["Address"].rpartition(":")[2]) not in own_ports:
            _request(etcd_port, "/v3/lease/revoke", {"ID": entry["lease"]})


def _request(port: int, path: str, body: dict[str, str] | None = None) -> bytes:
    """Return the answer to a GET, or to a POST of `body` as JSON, that we are not known too; nothing without one."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=5)) as connection:
        try:
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
            response = connection.getresponse()
            return response.read() if response.status in {http.HTTPStatus.OK, http.HTTPStatus.UNAUTHORIZED} else b""
        except (OSError, http.client.HTTPException):
            return b""


def _log_end(server: LocalMilvus) -> str:
    """Return the last lines of the log, without the stacks which a dying server writes after its reason."""
    lines = server.log_file.read_text("utf-8", "replace").partition("\ngoroutine ")[0].splitlines()[-LOG_LINES:]
    return "\n".join((f" The end of {server.log_file}:", *(line[:LOG_LINE_LENGTH] for line in lines)))


def main() -> int:
    """Run a server in the foreground; return 0 after Ctrl+C, SIGTERM or SIGHUP, and 1 where it fails."""
    parser = argparse.ArgumentParser(description="Run a Milvus standalone server, to try things out.")
    parser.add_argument("--port", type=int, default=19530, help="where it listens (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data/milvus"), help="its folder (default: %(default)s)")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        print("Starting Milvus ...", flush=True)
        with local_milvus(arguments.data, arguments.port) as server:
            print(READY.format(server=server), flush=True)
            status = server.process.wait()
        print(f"Milvus ended by itself, with status {status}.{_log_end(server)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nMilvus has stopped.")
        return 0
    except (LocalMilvusUnavailable, LocalMilvusFailed) as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
