"""How flow runs end: each end has a state of its own name, with its reason as the message."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from nightloom.errors import NightloomError, Unforeseen
from nightloom.report import RunReport
from nightloom.tasks.logs import plain_errors

Params = ParamSpec("Params")
Result = TypeVar("Result")


def ending_in_words(
    run: Callable[Params, Coroutine[Any, Any, Result]],
) -> Callable[Params, Coroutine[Any, Any, Result]]:
    """Have a flow's function end as Held, Refused or Failed where it raises what was foreseen; Prefect raises it again.

    Its traceback says nothing that the message does not, and is logged at DEBUG. That of an error which nobody foresaw
    is logged at ERROR.
    """

    @wraps(run)
    async def ending(*given: Params.args, **named: Params.kwargs) -> Result:
        with plain_errors():
            try:
                return await run(*given, **named)
            except NightloomError as error:
                if isinstance(error, Unforeseen):
                    get_run_logger().error("nobody foresaw this:", exc_info=error.__cause__)
                return failed(error)  # type: ignore[return-value]  # Prefect raises it

    return ending


def failed(error: NightloomError) -> State[Any]:
    """The state of a run that an error has ended, named Held, Refused or Failed.

    Its message is what somebody is called with: also the corpus and what readers see now, where that is known.
    """
    told = error.report if isinstance(error.report, RunReport) else error
    says = f"{told.corpus}: {str(error).rstrip('.')}. {told.readers}" if told.corpus else str(error)
    return Failed(name=error.outcome.capitalize(), message=says, data=error)


def completed(says: str, data: Result, name: str | None = None) -> Result:
    """The state of a run that has done its work: Prefect gives whoever calls the flow the data."""
    state: Any = Completed(name=name, message=says, data=data)
    return cast("Result", state)
