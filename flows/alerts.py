"""Who is called when a night fails: the notification blocks of the automations, and a message to try them with."""

from typing import Any
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.events.actions import CallWebhook, SendNotification
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from nightloom.errors import InputError

CALLS = (SendNotification, CallWebhook)
NOBODY = (
    "nobody is called when a night fails: create a notification block named nightloom-alerts, in the UI under Blocks,"
    " then `nightloom bootstrap`"
)
TEST_SUBJECT = "Nightloom: a test"
TEST_BODY = "This is what you asked for with `nightloom check --test-alert`. No night has failed."


async def check_alerts(client: PrefectClient, *, test: bool = False) -> str:
    """Look at every automation that calls somebody, and at the block that it sends by.

    Args:
        client: The client of the Prefect server to look at.
        test: Send a message by each block.

    Returns:
        Which automations there are, in words.

    Raises:
        InputError: A block cannot send, or a message did not go out.
    """
    calling = [
        one for one in await client.read_automations() if any(isinstance(action, CALLS) for action in one.actions)
    ]
    if not calling:
        if test:
            raise InputError(NOBODY)
        return NOBODY
    names = set()
    blocks = {action.block_document_id for one in calling for action in one.actions if isinstance(action, CALLS)}
    for block in blocks:
        name, opened = await _opened(client, block)
        names.add(name)
        if test:
            await _send(name, opened)
    says = f"somebody is called by: {', '.join(sorted(map(_named, calling)))}"
    return f"{says}; a test was sent by {', '.join(sorted(names))}" if test else says


def _named(automation: Automation) -> str:
    return automation.name if automation.enabled else f"{automation.name} (paused)"


async def _opened(client: PrefectClient, block: Any) -> tuple[str, Any]:
    """A block by its id, with its name.

    Raises:
        InputError: It is gone, or its address is none.
    """
    try:
        document = await client.read_block_document(block, include_secrets=True)
    except ObjectNotFound:
        raise InputError("an automation sends by a block that is gone; run `nightloom bootstrap`") from None
    name = document.name or str(block)
    try:
        opened: Any = Block._from_block_document(document)  # noqa: SLF001  by its id there is no other way
    except Exception as error:  # noqa: BLE001  blocks are of many makers
        raise InputError(f"the block {name!r} cannot be opened: {error}; mend it in the UI under Blocks") from None
    if not _has_address(opened):
        raise InputError(f"the block {name!r} cannot send: its URL is no address; mend it in the UI under Blocks")
    return name, opened


def _has_address(block: Any) -> bool:
    """Whether a block knows where to send to, as far as that can be told without sending."""
    if (apprise := getattr(block, "_apprise_client", None)) is not None:
        return bool(apprise)  # which has taken the address, or has not
    url = getattr(block, "url", None)
    address = url.get_secret_value() if isinstance(url, SecretStr) else url
    return address is None or bool(urlsplit(str(address)).hostname)


async def _send(name: str, opened: Any) -> None:
    try:
        if hasattr(opened, "notify"):
            with opened.raise_on_failure():
                await opened.notify(TEST_BODY, TEST_SUBJECT)
        else:
            (await opened.call({"subject": TEST_SUBJECT, "body": TEST_BODY})).raise_for_status()
    except Exception as error:  # noqa: BLE001  blocks are of many makers
        raise InputError(f"the block {name!r} did not send: {error}; mend it in the UI under Blocks") from None
