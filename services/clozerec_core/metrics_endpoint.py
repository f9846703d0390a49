"""`GET /metrics` on a port of its own, from a thread of its own: a scrape works also while the event loop does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from clozerec_core.errors import UsageError
from clozerec_core.metrics import REGISTRY
from clozerec_core.telemetry import METRICS_SERVED, get_logger

log = get_logger("metrics")


@contextmanager
def metrics_endpoint(host: str, port: int) -> Iterator[int]:
    """Serve this process's metrics; yields the port.

    Args:
        host: address to listen on.
        port: 0 takes any free one.

    Raises:
        UsageError: the port is taken or not allowed.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=REGISTRY)
    except OSError as error:
        reason = error.strerror or "refused"
        raise UsageError(f"cannot listen on {host}:{port} ({reason}); choose another --metrics-port") from error
    log.info(METRICS_SERVED, host=host, metrics_port=server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
