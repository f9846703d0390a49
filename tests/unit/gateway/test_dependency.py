"""What opens the circuit of a service, and what only looks like a fault of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from clozerec_core.errors import BadJournal, BundleMismatch, DeadlineExceeded, NotReady
from clozerec_core.request_context import handling
from clozerec_gateway.circuit import FAILURES_TO_OPEN
from clozerec_gateway.dependency import Dependency, DependencyGone

TIME_S = 1.0
ASKED = StringValue(value="asked")
Method = Callable[..., Awaitable[Any]]


def failing(error: Exception) -> Method:
    async def method(request: StringValue, **_: object) -> StringValue:
        raise error

    return method


async def answering(request: StringValue, **_: object) -> StringValue:
    return request


async def fail_often(dependency: Dependency, error: Exception, remaining_s: float | None) -> None:
    for _ in range(2 * FAILURES_TO_OPEN):
        with handling({}, remaining_s), pytest.raises(DependencyGone):
            await dependency.call(failing(error), ASKED, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [NotReady("loading"), DeadlineExceeded("late"), TimeoutError()])
async def test_a_service_that_fails_again_and_again_is_left_alone(error: Exception) -> None:
    dependency = Dependency("retriever", TIME_S)
    await fail_often(dependency, error, 10.0)
    with pytest.raises(DependencyGone):
        await dependency.call(answering, ASKED, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), TimeoutError()])
async def test_callers_in_haste_say_nothing_of_the_service(error: Exception) -> None:
    dependency = Dependency("encoder", TIME_S)
    await fail_often(dependency, error, 0.2)
    assert await dependency.call(answering, ASKED, 1.0) == ASKED  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [BadJournal("catalogue.sqlite fails"), BundleMismatch("other", "this")])
async def test_a_service_that_refuses_one_kind_of_call_is_asked_for_others(error: Exception) -> None:
    dependency = Dependency("retriever", TIME_S)
    await fail_often(dependency, error, 10.0)
    assert await dependency.call(answering, ASKED, 1.0) == ASKED  # type: ignore[arg-type]
