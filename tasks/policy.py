"""When a task is tried again, how long it may take, and how it is called."""

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from itertools import accumulate
from typing import Any, ParamSpec, TypeVar

from prefect import State, Task, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun

from nightloom.corpus import RetrySettings
from nightloom.errors import EndpointUnavailable, IndexUnreachable, TransientError

Params = ParamSpec("Params")
Result = TypeVar("Result")

PAUSES: tuple[float, ...] = (2, 4, 8, 16, 30, *[60] * 45)
"""Seconds before each retry, as many as Prefect takes; each is drawn at random between half as long and half as long
again."""
JITTER = 0.5

patience: ContextVar[float] = ContextVar("patience", default=RetrySettings().minutes)
"""Minutes for which a step is tried again, as the corpus file of the flow run says."""


def pauses() -> tuple[float, ...]:
    """The pauses before the retries of one step: as many as the patience of this flow run has room for."""
    fit = sum(total <= 60 * patience.get() for total in accumulate(PAUSES))
    return PAUSES[:fit]


def is_worth_a_retry(_task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether there is time for a retry, and it can mend what a task run failed with: a TransientError or a timeout.

    In a run of a deployment it can also be a Milvus that is not there. An endpoint that asks to be left alone for
    longer than a night waits is not tried again.
    """
    if run.run_count > len(pauses()):
        return False
    if isinstance(state.data, EndpointUnavailable):
        return state.data.retry_after_seconds is not None
    if isinstance(state.data, IndexUnreachable):  # by hand, the address may be wrong: nobody is to wait for that
        return bool(runtime.deployment.id)
    return isinstance(state.data, TransientError | TimeoutError)


def step(
    name: str, *, run_name: str, timeout_seconds: float
) -> Callable[[Callable[Params, Coroutine[Any, Any, Result]]], Task[Params, Coroutine[Any, Any, Result]]]:
    """Make an async function a task that is retried on transient errors only.

    Args:
        name: Of the task, in the UI.
        run_name: Of a run of it: a template over its arguments that says what it works on.
        timeout_seconds: Limit for one attempt.
    """
    return task(
        name=name,
        task_run_name=run_name,
        retries=len(PAUSES),
        retry_delay_seconds=list(PAUSES),
        retry_jitter_factor=JITTER,
        retry_condition_fn=is_worth_a_retry,
        timeout_seconds=timeout_seconds,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
