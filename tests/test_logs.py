"""What a night's own modules log is in Prefect's log of the run."""

import httpx
import pytest
from prefect.logging.handlers import APILogWorker

from nightloom import local_model
from nightloom.backends import LOGGER
from tests.nights import Home, night

MEASURING = "measuring, once on this machine"


@pytest.mark.parametrize("home", ["lite"], indirect=True)
async def test_a_night_that_measures_its_machine_says_so_while_it_does(
    home: Home, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_arguments: object) -> str:
        LOGGER.info("%s of %s", MEASURING, home.name)
        return "fp32"

    monkeypatch.setattr(local_model, "fastest_precision", measured)
    await night(home)
    await night(home)  # sets up its logs once more, and measures nothing
    APILogWorker.drain_all()
    async with httpx.AsyncClient() as client:
        found = (await client.post(f"{prefect_api}/logs/filter", json={"sort": "TIMESTAMP_DESC"})).json()
    (line,) = [entry for entry in found if entry["message"] == f"{MEASURING} of {home.name}"]
    assert line["flow_run_id"]
    assert line["task_run_id"]
