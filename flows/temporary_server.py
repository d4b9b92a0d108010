"""A Prefect server for the process that starts it as `python -m nightloom.flows.temporary_server PORT`; gone with it.

Its standard input is a pipe that only that process holds: it ends when the process does, killed or not.
"""

import os
import signal
import sys
import threading
import time

import uvicorn

SETTINGS = {
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT__SERVER_EPHEMERAL": "1",
}
"""Read when Prefect is imported, which uvicorn does."""
END_SECONDS = 10.0
"""For a server that is told to end; then it is ended."""


def end_with_input() -> None:
    """Wait for the end of the standard input, then end this process."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_input, daemon=True).start()
    os.environ.update(SETTINGS)
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )
