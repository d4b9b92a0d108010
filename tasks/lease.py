"""The lease: one night at a time over an index on a server, held in Prefect for as long as the night runs."""

import asyncio
import hashlib
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect import runtime
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.variables import Variable

from nightloom.corpus import Corpus
from nightloom.errors import IndexBusy

LEASE_SECONDS = 60
"""How long a night that was killed may keep others out; Prefect allows no less. A living one renews in time."""
RENEW_SECONDS = 15
RELEASE_SECONDS = 10
LOCKED = 423

_PROCESS = uuid4().hex
"""Tells this process from an earlier one with the same number, as in a container that was started again."""


def lease_name(corpus: Corpus) -> str:
    """The global concurrency limit of an index: its alias, and a hash of where its Milvus is, the database included."""
    where = hashlib.sha256(corpus.milvus.place.encode()).hexdigest()[:8]
    return f"nightloom-{corpus.name}-{where}"


@asynccontextmanager
async def lease(corpus: Corpus) -> AsyncIterator[None]:
    """Be the only night over an index, as far as this Prefect server knows, for the block.

    A Milvus Lite file is locked by the process that has it open, and needs no other lease. A night that was killed
    loses its lease at once where it can be seen to be dead, else when the lease ends. A lease that is lost (Prefect
    keeps it in memory, and forgets it when it is started again) does not end the night: the claim on its generation
    keeps two nights apart then, and the later one wins.

    Raises:
        IndexBusy: Another night has it.
    """
    if corpus.milvus.file:
        yield
        return
    name = lease_name(corpus)
    async with get_client() as client:
        await make_limit(client, name)
        earlier = await _signature(_trying(name))
        held = await _acquire(client, name)
        if held is None and await _is_over(client, await _signature(name) or earlier):
            held = await _take_over(client, name, earlier)
        if held is None:
            raise IndexBusy(
                f"another night over {corpus.name!r} in {corpus.milvus.place} is under way ({await _holder(name)});"
                " this one ends, having done nothing. If that one was killed, its lease ends within"
                f" {LEASE_SECONDS + 30} s"
            )
        leases = [held]
        renewing = asyncio.create_task(_renew(client, name, leases))
        try:
            yield
        finally:
            renewing.cancel()
            with suppress(httpx.HTTPError, PrefectHTTPStatusError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await client.release_concurrency_slots_with_lease(leases[-1])


async def _acquire(client: PrefectClient, name: str) -> UUID | None:
    """The id of a lease; None where another night has one."""
    me = {"flow_run": runtime.flow_run.id, "host": platform.node(), "pid": os.getpid(), "process": _PROCESS}
    await Variable.aset(_record(_trying(name)), me, overwrite=True)
    try:
        answer = await client.increment_concurrency_slots_with_lease([name], 1, "concurrency", LEASE_SECONDS)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == LOCKED:
            return None
        raise
    held = UUID(answer.json()["lease_id"])
    await Variable.aset(_record(name), {**me, "lease": str(held)}, overwrite=True)
    return held


async def _renew(client: PrefectClient, name: str, leases: list[UUID]) -> None:
    """Keep the lease; where Prefect has forgotten it, take another one if nobody else has."""
    is_lost = False
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            await client.renew_concurrency_lease(leases[-1], LEASE_SECONDS)
        except (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound):
            with suppress(httpx.HTTPError, PrefectHTTPStatusError):
                if (again := await _acquire(client, name)) is not None:
                    leases.append(again)
                    continue
            if not is_lost:
                get_run_logger().warning("the lease %s is lost; should another night begin, this one stops", name)
            is_lost = True


def _record(name: str) -> str:
    """The Prefect variable in which the holder of a lease signs."""
    return name.lower().replace("-", "_")


def _trying(name: str) -> str:
    """Where a night signs before it asks for a lease."""
    return f"{name}-trying"


async def _signature(name: str) -> dict[str, Any]:
    found: Any = await Variable.aget(_record(name), default=None)
    return found if isinstance(found, dict) else {}


async def _holder(name: str) -> str:
    signed = await _signature(name)
    return f"flow run {signed.get('flow_run')}, process {signed.get('pid')} on {signed.get('host')}"


async def _take_over(client: PrefectClient, name: str, earlier: dict[str, Any]) -> UUID | None:
    """The lease of a night that is over.

    Args:
        client: Of the API.
        name: Of the lease.
        earlier: Who tried to get it before this night did: killed before it could sign, it holds a lease that nobody
            knows the id of, and only a new limit ends that.
    """
    held = None
    if signed := await _signature(name):
        await client.release_concurrency_slots_with_lease(UUID(signed["lease"]))
        held = await _acquire(client, name)
    if held is None and await _is_over(client, earlier):
        with suppress(ObjectNotFound):
            await client.delete_global_concurrency_limit_by_name(name)
        await make_limit(client, name)
        held = await _acquire(client, name)
    return held


async def make_limit(client: PrefectClient, name: str) -> bool:
    """Create the limit of a lease where there is none; whether it was created.

    Asked for first: a creation that meets another of the name leaves a server on SQLite locked for a minute.
    """
    try:
        await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        with suppress(ObjectAlreadyExists):
            await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
            return True
    return False


async def _is_over(client: PrefectClient, signed: dict[str, Any]) -> bool:
    """Whether the night that signed can be seen to be over."""
    return bool(signed) and (_is_dead(signed) or await _has_ended(client, signed.get("flow_run")))


def _is_dead(signed: dict[str, Any]) -> bool:
    """Whether the process is one of this machine, and gone."""
    if signed.get("host") != platform.node():
        return False
    if signed.get("pid") == os.getpid():
        return bool(signed.get("process") != _PROCESS)
    try:
        os.kill(int(signed["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError):
        return False
    return False


async def _has_ended(client: PrefectClient, flow_run: str | None) -> bool:
    """Whether Prefect knows that the flow run is over: a worker marks a run whose process was killed."""
    if not flow_run:
        return False
    try:
        state = (await client.read_flow_run(UUID(flow_run))).state
    except ObjectNotFound:
        return True
    return state is not None and state.is_final()
