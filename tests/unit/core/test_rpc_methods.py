"""Which handler a call gets, and what is around it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from clozerec_core import metrics
from clozerec_core.access import Gate
from clozerec_core.admission import Admission
from clozerec_core.rpc_methods import Methods

OURS, HEALTH = "clozerec.v1.EncoderService", "grpc.health.v1.Health"


async def answer(request: bytes, context: Any) -> bytes:
    return request


def methods(admission: Admission | None = None) -> Methods:
    """Two services with one method each."""
    made = Methods(10.0, Gate(), admission, counts_calls=True)
    for service, name in ((OURS, "GetEncoderInfo"), (HEALTH, "Check")):
        made.add_registered_method_handlers(service, {name: grpc.unary_unary_rpc_method_handler(answer)})
    return made


def handler(made: Methods, method: str) -> Any:
    return made.service(SimpleNamespace(method=method))  # type: ignore[arg-type]


def unknown() -> float:
    labels = {"grpc_type": "unary", "grpc_service": "other", "grpc_method": "other", "grpc_code": "UNIMPLEMENTED"}
    return metrics.REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0


@pytest.mark.parametrize("method", [f"/{OURS}/GetEncoderInfo", f"/{HEALTH}/Check"])
def test_a_method_is_wrapped_once(method: str) -> None:
    made = methods()
    assert handler(made, method).unary_unary is not answer
    assert handler(made, method) is handler(made, method)


@pytest.mark.parametrize("method", ["", "/x", f"/{OURS}/Invented"])
def test_an_unknown_method_is_counted_under_no_name_of_its_callers(method: str) -> None:
    before = unknown()
    assert handler(methods(), method) is None
    assert unknown() == before + 1


def test_a_full_server_refuses_our_methods_without_reading_the_message_and_lets_health_pass() -> None:
    admission = Admission(1)
    made = methods(admission)
    assert admission.enter(10)
    assert handler(made, f"/{OURS}/GetEncoderInfo").stream_stream is not None
    assert handler(made, f"/{HEALTH}/Check").unary_unary is not None
    admission.leave()
    assert handler(made, f"/{OURS}/GetEncoderInfo").unary_unary is not None
