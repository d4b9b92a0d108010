"""`nightloom bootstrap`: what a Prefect server needs once. Said line by line, and changing nothing the second time."""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx
import yaml
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type
from pydantic import ValidationError

from nightloom.corpus import Corpus
from nightloom.corpus_file import load_corpus
from nightloom.errors import CorpusFileError, InputError, PrefectUnavailable
from nightloom.flows.prefect_api import configured_api
from nightloom.tasks.lease import lease_name, make_limit

Outcome = Literal["created", "updated", "already there", "left out"]

POOLS: dict[str, str] = {
    "process": "nightloom",
    "docker": "nightloom-docker",
    "kubernetes": "nightloom-kubernetes",
}
"""Name of the work pool of each kind, as prefect.yaml and deployments/prefect.containers.yaml have it."""
NOTIFIES = "notify"
"""What a block can do that an automation sends its messages with."""


NOT_UPDATED = {"owner_resource"}
"""What the server takes only when an automation is created."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that the server needs, and what came of it.

    Attributes:
        note: What is left to do; "" for nothing.
    """

    what: str
    name: str
    outcome: Outcome
    note: str = ""


class _Unknown(Exception):
    """An automation names what is not there yet."""


async def set_up(
    files: Iterable[Path], pools: Sequence[str], automations: Path, job_template: Path, show: Callable[[Line], None]
) -> list[Line]:
    """Create what is not there yet: work pools, concurrency limits, Secret blocks without a value, automations.

    Args:
        files: Corpus files, for the limits and the blocks that they name.
        pools: Kinds of work pools.
        automations: Folder of YAML files, one automation each.
        job_template: JSON file: what a job of a Kubernetes pool is.
        show: Told each line as it is done.

    Returns:
        Every line.

    Raises:
        PrefectUnavailable: No Prefect API is configured, or it does not answer.
        CorpusFileError: A corpus file, an automation or the job template is not as it should be.
        InputError: There is no such kind of work pool, no such folder or file.
    """
    if unknown := set(pools) - POOLS.keys():
        raise InputError(f"--pool {', '.join(sorted(unknown))}: there are {', '.join(POOLS)}")
    api = configured_api()
    if not api:
        raise PrefectUnavailable("PREFECT_API_URL is not set; start `prefect server start`, and set it to that server")
    corpora = [load_corpus(file) for file in files]
    written = _read_all(automations)
    templates = {"kubernetes": _job_template(job_template)} if "kubernetes" in pools else {}
    done: list[Line] = []
    try:
        async with get_client() as client:
            async for line in _lines(client, corpora, pools, templates, written):
                show(line)
                done.append(line)
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        cure = "; set PREFECT_API_AUTH_STRING to its user:password" if status == httpx.codes.UNAUTHORIZED else ""
        raise PrefectUnavailable(f"{api} answers HTTP {status} to {error.request.url.path}{cure}") from None
    return done


async def _lines(
    client: PrefectClient,
    corpora: Sequence[Corpus],
    pools: Sequence[str],
    templates: Mapping[str, dict[str, Any]],
    automations: Mapping[Path, dict[str, Any]],
) -> AsyncIterator[Line]:
    for kind in pools:
        yield await _pool(client, kind, templates.get(kind))
    for name in dict.fromkeys(lease_name(corpus) for corpus in corpora if not corpus.milvus.file):
        yield Line("concurrency limit", name, "created" if await make_limit(client, name) else "already there")
    for name in dict.fromkeys(name for corpus in corpora for name in _secret_names(corpus)):
        yield await _secret(name)
    for file, written in automations.items():
        yield await _automation(client, file, written)


async def _pool(client: PrefectClient, kind: str, template: dict[str, Any] | None) -> Line:
    name = POOLS[kind]
    try:
        found = await client.read_work_pool(name)
    except ObjectNotFound:
        template = template or await get_default_base_job_template_for_infrastructure_type(kind)
        await client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template or {}))
        return Line("work pool", name, "created", f"start a worker: prefect worker start --pool {name}")
    note = "" if found.type == kind else f"it is of type {found.type}, not {kind}: delete it, or run this again without"
    return Line("work pool", name, "already there", note)


def _secret_names(corpus: Corpus) -> list[str]:
    places = (corpus.milvus.secret, corpus.embedder.secret, *([corpus.answers.secret] if corpus.answers else []))
    return [place.block for place in places if place.block]


async def _secret(name: str) -> Line:
    outcome: Outcome = "already there"
    try:
        block: Any = await Secret.aload(name)
    except ValueError:
        block, outcome = Secret(value=""), "created"
        await block.asave(name)
    return Line("secret block", name, outcome, "" if block.get() else "still empty: fill it in, in the UI under Blocks")


async def _automation(client: PrefectClient, file: Path, written: dict[str, Any]) -> Line:
    name = str(written.get("name", file.stem))
    try:
        await _look_up(client, written.get("actions", ()))
    except _Unknown as missing:
        return Line("automation", name, "left out", f"{missing}, then run this again")
    try:
        wanted = AutomationCore.model_validate(written)
    except ValidationError as error:
        raise CorpusFileError(f"{file}: {error}") from None
    found = await client.read_automations_by_name(name)
    if not found:
        await client.create_automation(wanted)
        return Line("automation", name, "created")
    there = _core(found[0])
    wanted = wanted.model_copy(update={"enabled": there.enabled})  # one that an operator has paused stays so
    if wanted == there:
        return Line("automation", name, "already there", "" if there.enabled else "paused")
    await client.update_automation(found[0].id, AutomationCore.model_validate(wanted.model_dump(exclude=NOT_UPDATED)))
    return Line("automation", name, "updated")


def _read_all(folder: Path) -> dict[Path, dict[str, Any]]:
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name the folder of your automations in --automations")
    return {file: _read(file) for file in sorted(folder.glob("*.yaml"))}


def _read(file: Path) -> dict[str, Any]:
    try:
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorpusFileError(f"{file}: {error}") from None
    if not isinstance(written, dict):
        raise CorpusFileError(f"{file}: an automation is a mapping with name, trigger and actions")
    return written


def _job_template(file: Path) -> dict[str, Any]:
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"{file}: there is no such file; name the file of your job template in --job-template"
        ) from None
    except ValueError as error:
        raise CorpusFileError(f"{file}: {error}") from None
    if not isinstance(written, dict) or not {"job_configuration", "variables"} <= written.keys():
        raise CorpusFileError(f"{file}: a job template has job_configuration and variables")
    return written


def _core(found: Automation) -> AutomationCore:
    return AutomationCore.model_validate(found.model_dump(include=set(AutomationCore.model_fields)))


async def _look_up(client: PrefectClient, actions: Iterable[dict[str, Any]]) -> None:
    """Put ids in place of the names of blocks and deployments: only a server has ids."""
    for action in actions:
        if "block_document_id" in action:
            action["block_document_id"] = await _notification_block(client, str(action["block_document_id"]))
        if "deployment_id" in action:
            action["deployment_id"] = await _deployment(client, str(action["deployment_id"]))


async def _notification_block(client: PrefectClient, name: str) -> UUID:
    for block in await client.read_block_documents(include_secrets=False):
        if block.name == name and block.block_schema and NOTIFIES in block.block_schema.capabilities:
            return block.id
    raise _Unknown(f"create a notification block named {name!r}, of any kind")


async def _deployment(client: PrefectClient, name: str) -> UUID:
    try:
        return (await client.read_deployment_by_name(name)).id
    except ObjectNotFound:
        raise _Unknown(f"deploy {name}") from None
