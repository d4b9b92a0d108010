"""When a task is tried again, how long it may take, and how it is called."""

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.tasks import exponential_backoff

from nightloom.errors import EndpointUnavailable, TransientError

Params = ParamSpec("Params")
Result = TypeVar("Result")

RETRIES = 4
BACKOFF_SECONDS = 2
"""Pauses of about 2, 4, 8 and 16 seconds, each drawn at random between half as long and half as long again."""
JITTER = 0.5


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry can mend what a task run failed with: a TransientError, a timeout, and nothing else.

    An endpoint that asks to be left alone for long is.
    """
    if isinstance(state.data, EndpointUnavailable):
        return state.data.retry_after_seconds is not None
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
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(backoff_factor=BACKOFF_SECONDS),
        retry_jitter_factor=JITTER,
        retry_condition_fn=is_transient,
        timeout_seconds=timeout_seconds,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
