"""What tests start ends with them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.builders import ROOT
from tests.ending import marked

GONE_SECONDS = 30.0
TEST = """
import os
import subprocess
import sys
import time

def test_that_starts_a_server_and_waits():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("STARTED", os.environ["ENDS_WITH_TESTS"], flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_killed_test_run_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "conftest.py").write_text("from tests.ending import end_with_this_process\nend_with_this_process()\n")
    (tmp_path / "test_one.py").write_text(TEST)
    words = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        mark = next(line.split()[-1] for line in run.stdout if "STARTED" in line)
        there = len(marked(mark))
        run.send_signal(number)
    assert there == 2, "what the test has started, and what will end it"
    deadline = time.monotonic() + GONE_SECONDS
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not marked(mark)
