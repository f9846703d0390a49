"""The methods of a server in one table, each wrapped once, as it is added, in all that happens around its calls.

No interceptors: grpc.aio asks each of them at every call for what never changes. Nor does it hear of registered
methods: with those it waits for the next call of each method apart, and takes up all of these waits anew after each.
Health alone is registered, so that a probe is not the last of the calls that wait to be taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from clozerec_core.access import Gate
from clozerec_core.admission import Admission, admitted
from clozerec_core.rpc_call import handled
from clozerec_core.rpc_metrics import count_unknown, counted

OUR_METHODS = "/clozerec.v1."


class Methods(grpc.GenericRpcHandler):
    """What generated code adds its services to, in place of the server that has this one handler.

    Outermost first: admission, metrics, then context, gate, decoding, deadline and error mapping. Admission and what
    follows on metrics are for our methods alone: health and reflection always pass, for a busy server must not look
    dead.
    """

    def __init__(self, default_timeout_s: float, gate: Gate, admission: Admission | None, counts_calls: bool) -> None:
        """
        Args:
            default_timeout_s: for a caller that sets no deadline.
            gate: who may call.
            admission: how many calls at once; None: any number.
            counts_calls: whether metrics are kept.
        """
        self._default_timeout_s = default_timeout_s
        self._gate = gate
        self._admission = admission
        self._refusal = None if admission is None else admission.refusal()
        self._counts_calls = counts_calls
        self._handlers: dict[str, Any] = {}

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Take over a service's methods; what generated code calls."""
        for name, handler in method_handlers.items():
            method = f"/{service_name}/{name}"
            self._handlers[method] = self._wrapped(handler, method)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: object) -> None:
        """Generated code offers the same methods in this form, too."""

    def of(self, service_name: str) -> dict[str, Any]:
        """The wrapped methods of a service by their names."""
        start = f"/{service_name}/"
        return {
            method.removeprefix(start): handler
            for method, handler in self._handlers.items()
            if method.startswith(start)
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call that arrives; None: there is no such method."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            if self._counts_calls:
                count_unknown()
        elif self._admission is not None and self._admission.is_full and _is_ours(method):
            return self._refusal
        return handler

    def _wrapped(self, handler: Any, method: str) -> Any:
        if _is_ours(method):
            handler = handled(handler, method, self._default_timeout_s, self._gate)
        if self._counts_calls:
            handler = counted(handler, method)
        if self._admission is not None and _is_ours(method):
            handler = admitted(handler, self._admission, self._default_timeout_s)
        return handler


def _is_ours(method: str) -> bool:
    return method.startswith(OUR_METHODS)
