"""What Prefect knows of the nights of a corpus: clock, pools, limits, schedule, alerts, last night."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import prefect
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from nightloom.corpus import Corpus
from nightloom.corpus_file import corpus_name
from nightloom.errors import InputError, NightloomError, PrefectUnavailable
from nightloom.flows.alerts import check_alerts
from nightloom.flows.parameters import given_name
from nightloom.flows.prefect_api import configured_api
from nightloom.tasks.lease import lease_name
from nightloom.tasks.own_corpus import is_of

FLOW = "nightly-reindex"
FLOWS = (FLOW, "query-evaluation", "verify", "rollback", "promote", "prune")
CLOCK_SECONDS = 30
"""By how much two clocks may differ: a schedule, a lease and a certificate go by them."""
PLANNED_MINUTES = 10
"""For a server to plan the runs of a deployment that has changed, at most; it does so every minute."""
NIGHT_HOURS = 26
"""Since a night was completed, at most: a day, and what a night may take."""
NO_SERVER = (
    "no PREFECT_API_URL: `nightloom run` starts a temporary server by itself; pool, limits, deployments, schedule,"
    " alerts and last night are not looked at"
)


async def prefect_checks(corpus: Corpus, file: Path, *, test_alert: bool = False) -> list[tuple[str, str, bool]]:
    """Ask the configured Prefect server; `test_alert` has a message sent to whoever is called when a night fails.

    Returns:
        Name, finding, and whether that is an error, of each check; one line where no server is configured or none
        answers.
    """
    try:
        url = await asyncio.to_thread(configured_api)
        if url is None:
            return [("prefect", NO_SERVER, test_alert)]
        async with get_client() as client:
            found = [("prefect", await _server(client, url), False)]
            deployments = await _deployments(client, file)
            parts: dict[str, Callable[[], Awaitable[str]]] = {
                "clock": lambda: _clock(client),
                "pool": lambda: _pools(client, deployments),
                "limits": lambda: _limits(client, corpus),
                "deployed": lambda: _deployed(client, corpus, file),
                "schedule": lambda: _schedule(client, deployments, file),
                "alerts": lambda: check_alerts(client, test=test_alert),
                "last night": lambda: _last_night(client, deployments),
            }
            for name, part in parts.items():
                try:
                    found.append((name, await part(), False))
                except (NightloomError, PrefectHTTPStatusError, httpx.HTTPError) as error:
                    found.append((name, str(error), True))
    except NightloomError as error:
        return [("prefect", str(error), True)]
    return found


async def _server(client: PrefectClient, url: str) -> str:
    try:
        theirs = await client.api_version()
        await client.read_deployments(limit=1)  # the version is told to everybody
    except PrefectHTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise PrefectUnavailable(
                f"PREFECT_API_URL: {url} asks for a password; set PREFECT_API_AUTH_STRING to user:password"
            ) from None
        raise PrefectUnavailable(f"PREFECT_API_URL: {url} answers HTTP {error.response.status_code}") from None
    except httpx.HTTPError as error:
        raise PrefectUnavailable(f"PREFECT_API_URL: {url} does not answer: {error or type(error).__name__}") from None
    if theirs.split(".")[:2] != prefect.__version__.split(".")[:2]:
        raise PrefectUnavailable(
            f"{url} is Prefect {theirs}, and this is {prefect.__version__}; upgrade the older one: newer clients may"
            " not work with older servers"
        )
    return f"{url} answers: version {theirs}"


async def _clock(client: PrefectClient) -> str:
    answer = await client._client.get("/health")  # noqa: SLF001  the client gives no headers
    apart = abs((datetime.now(UTC) - parsedate_to_datetime(answer.headers["date"])).total_seconds())
    if apart > CLOCK_SECONDS:
        raise InputError(
            f"this machine's clock and that of the Prefect server are {apart:.0f} s apart; set both by NTP"
        )
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, as the Prefect server's"


async def _deployments(client: PrefectClient, file: Path) -> list[DeploymentResponse]:
    """Of nights over a corpus file: a deployment names it relative to the folder that the worker runs in."""
    return [one for one in await _of_flow(client, FLOW) if _runs(one, file)]


async def _of_flow(client: PrefectClient, flow: str) -> list[DeploymentResponse]:
    return await client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])))


def _runs(deployment: DeploymentResponse, file: Path) -> bool:
    here = (Path.cwd() / file).as_posix()
    return here.endswith(f"/{str(deployment.parameters.get('corpus_file') or '-').lstrip('./')}")


async def _deployed(client: PrefectClient, corpus: Corpus, file: Path) -> str:
    """Whether every deployment of this corpus is over its file, and every one over its file is named after it."""
    mine, refused = 0, []
    for flow in FLOWS:
        for one in await _of_flow(client, flow):
            if not (_runs(one, file) or is_of(one.name, corpus.name)):
                continue
            mine += 1
            over = _corpus_of(one, corpus, file)
            if over and not is_of(one.name, over):
                refused.append(f"{flow}/{one.name} is over {one.parameters['corpus_file']}, the corpus {over}")
    if refused:
        raise InputError(
            f"{'; '.join(refused)}: every run is refused, as a deployment is for the corpus that it is named after;"
            " mend prefect.yaml, and `prefect --no-prompt deploy --all`"
        )
    return f"{mine} deployments, named after this corpus" if mine else "nothing is deployed for this corpus"


def _corpus_of(deployment: DeploymentResponse, corpus: Corpus, file: Path) -> str | None:
    """The name of the corpus that a deployment runs over; None where its file is not to be had here."""
    given, name = deployment.parameters.get("corpus_file"), given_name(deployment.parameters)
    if _runs(deployment, file):
        return name or corpus.name
    return corpus_name(given, name) if given and Path(given).is_file() else None


async def _pools(client: PrefectClient, deployments: list[DeploymentResponse]) -> str:
    says = []
    for name in sorted({one.work_pool_name for one in deployments if one.work_pool_name}):
        try:
            pool = await client.read_work_pool(name)
        except ObjectNotFound:
            raise InputError(
                f"there is no work pool {name!r}; create it with `prefect work-pool create {name} --type process`"
            ) from None
        if pool.is_paused:
            raise InputError(f"the work pool {name!r} is paused; `prefect work-pool resume {name}`")
        workers = await client.read_workers_for_work_pool(name)
        online = [worker for worker in workers if worker.status == "ONLINE"]
        if not online:
            raise InputError(
                f"no worker polls the work pool {name!r}, and its runs wait; `prefect worker start --pool {name}`"
            )
        says.append(f"{name} ({pool.type}) with {len(online)} workers online")
    return ", ".join(says) or "no deployment of this corpus file names one"


async def _limits(client: PrefectClient, corpus: Corpus) -> str:
    if corpus.milvus.file:
        return "none needed: the file of the index is locked by the night that writes to it"
    name = lease_name(corpus)
    try:
        limit = await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return f"{name} is made by the first night"
    if not limit.active or limit.limit != 1:
        raise InputError(
            f"the limit {name} does not keep two nights apart; `prefect gcl update {name} --enable --limit 1`"
        )
    return f"{name} lets one night at a time write" + ("; one is under way" if limit.active_slots else "")


async def _schedule(client: PrefectClient, deployments: list[DeploymentResponse], file: Path) -> str:
    if not deployments:
        return (
            f"no deployment runs {file.name} yet: `nightloom init` writes one into prefect.yaml, and"
            " `prefect --no-prompt deploy --all` deploys it"
        )
    active = [one for one in deployments if not one.paused and any(schedule.active for schedule in one.schedules)]
    if not active:
        names = ", ".join(f"{FLOW}/{one.name}" for one in deployments)
        raise InputError(f"no schedule of {names} is active; `prefect deployment schedule ls`, and resume it")
    return ", ".join([f"{FLOW}/{one.name} at {_times(one)}; {await _next(client, one)}" for one in active])


def _times(deployment: DeploymentResponse) -> str:
    """When a deployment runs, such as "0 2 * * * (Europe/Berlin)"."""
    plans = [schedule.schedule for schedule in deployment.schedules if schedule.active]
    return " and ".join(f"{getattr(plan, 'cron', plan)} ({getattr(plan, 'timezone', None) or 'UTC'})" for plan in plans)


async def _next(client: PrefectClient, deployment: DeploymentResponse) -> str:
    """The next run that the server has planned.

    Raises:
        InputError: There is none, long after it should have: the schedule stands there, and starts nothing.
    """
    mine = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    planned = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    order = FlowRunSort.EXPECTED_START_TIME_ASC
    runs = await client.read_flow_runs(deployment_filter=mine, flow_run_filter=planned, sort=order, limit=1)
    if runs and runs[0].expected_start_time:
        return f"the next is planned for {runs[0].expected_start_time:%Y-%m-%d %H:%M} UTC"
    if deployment.updated and datetime.now(UTC) - deployment.updated > timedelta(minutes=PLANNED_MINUTES):
        raise InputError(
            f"the server has planned no run of {FLOW}/{deployment.name}: its scheduler stands still; its log says why,"
            " and a restart of `prefect server start` mends most"
        )
    return "the server plans its runs within minutes"


async def _last_night(client: PrefectClient, deployments: list[DeploymentResponse]) -> str:
    if not deployments:
        return "nothing is deployed"
    begun = FlowRunFilter(start_time=FlowRunFilterStartTime(is_null_=False))
    mine = DeploymentFilter(id=DeploymentFilterId(any_=[one.id for one in deployments]))
    runs = await client.read_flow_runs(
        deployment_filter=mine, flow_run_filter=begun, sort=FlowRunSort.START_TIME_DESC, limit=1
    )
    if not runs:
        return f"none yet; `prefect deployment run {FLOW}/{deployments[0].name} --watch`"
    last = runs[0]
    state, ended = last.state, last.end_time or last.start_time
    says = f"{last.name}: {last.state_name}" + (f": {state.message}" if state and state.message else "")
    if state and state.is_final() and not state.is_completed():
        raise InputError(f"{says}; `prefect flow-run logs {last.id}` has more, and its report the numbers")
    if ended and datetime.now(UTC) - ended > timedelta(hours=NIGHT_HOURS):
        raise InputError(f"{says}; that was {ended:%Y-%m-%d %H:%M} UTC, and none was completed since: look at the pool")
    return says
