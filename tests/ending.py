"""Ends what the tests have started once they have ended, however they did: run as a program beside them.

Whatever a test starts inherits MARK from its environment. The program's standard input is a pipe that only the process
of the tests holds; when it ends, every process that bears the mark is killed, and what these have started.
"""

import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress

import psutil

MARK = "ENDS_WITH_TESTS"
_KEPT: list[subprocess.Popen[bytes]] = []
"""Their pipes are closed when they are forgotten."""


def end_with_this_process() -> None:
    """Have what this process starts from now on end with it."""
    os.environ[MARK] = secrets.token_hex(8)
    keeper = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        start_new_session=True,  # what ends the group of the tests, such as Ctrl+C, is not for it
    )
    keeper.returncode = 0  # nobody waits for it, and Python does not warn of that
    _KEPT.append(keeper)


def marked(mark: str) -> list[psutil.Process]:
    """The processes that bear a mark, without this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def main() -> None:
    """Wait for the end of the standard input, then end the marked processes, and those that they start meanwhile."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    while left := marked(os.environ[MARK]):
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)


if __name__ == "__main__":
    main()
