"""Every Prometheus metric of the three services, in one table.

Objects live on a registry of our own, so that libraries add nothing to a scrape. Label values come from closed sets
(methods, codes, plans, stages), never from a request: a caller cannot make the table grow. Where a metric is counted on
every call, bind its labels once: `labels()` costs more than `inc()`.

Names are `clozerec_<service>_<what>_<unit or total>`; those that start with `grpc_` are the field's own.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of latencies: a loopback echo takes 0.5 ms, the default deadline is 10 s."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the scrape and nothing reads them
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

# Every server

GRPC_SERVER_STARTED = Counter(
    "grpc_server_started_total",
    "Calls that began; of the type json where they came over HTTP.",
    ("grpc_type", "grpc_service", "grpc_method"),
    registry=REGISTRY,
)
GRPC_SERVER_HANDLED = Counter(
    "grpc_server_handled_total",
    "Calls that ended, by the code that they ended with.",
    ("grpc_type", "grpc_service", "grpc_method", "grpc_code"),
    registry=REGISTRY,
)
GRPC_SERVER_HANDLING = Histogram(
    "grpc_server_handling_seconds",
    "Time from a call's arrival to its end.",
    ("grpc_type", "grpc_service", "grpc_method"),
    buckets=SECONDS,
    registry=REGISTRY,
)
CALLS_IN_FLIGHT = Gauge(
    "clozerec_server_calls_in_flight",
    "Calls to our own services that have begun and not ended; what autoscaling looks at.",
    ("grpc_service",),
    registry=REGISTRY,
)
CALLS_SHED = Counter(
    "clozerec_server_calls_shed_total",
    "Calls refused at the door: as many under way as the server takes (full), or no time left for their turn (late). "
    "They are in no grpc_server metric.",
    ("reason",),
    registry=REGISTRY,
)
BUNDLE_INFO = Gauge(
    "clozerec_server_bundle_info",
    "1 for each bundle that a part has loaded and answers from.",
    ("part", "bundle_id"),
    registry=REGISTRY,
)

PENDING_WORK = Gauge(
    "clozerec_server_pending_work",
    "Pieces of work that wait for a thread or are done on one, by whose threads they are.",
    ("workers",),
    registry=REGISTRY,
)

# Encoder; the label `engine` is "encoder" (sequences) or "text engine"

ENCODER_BATCH_PIECES = Histogram(
    "clozerec_encoder_batch_pieces",
    "Sequences or texts that ran together.",
    ("engine",),
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
ENCODER_WAITING_TOKENS = Gauge(
    "clozerec_encoder_waiting_tokens",
    "Positions or word pieces that wait for an engine.",
    ("engine",),
    registry=REGISTRY,
)
ENCODER_DROPPED = Counter(
    "clozerec_encoder_dropped_calls_total",
    "Calls whose work was refused (full) or dropped before it ran (cancelled, late).",
    ("engine", "reason"),
    registry=REGISTRY,
)
ENCODER_TEXTS = Counter(
    "clozerec_encoder_texts_total",
    "Texts by whether the cache knew them: hit or miss.",
    ("cache",),
    registry=REGISTRY,
)

# Gateway

GATEWAY_RECOMMENDATIONS = Counter(
    "clozerec_gateway_recommendations_total",
    "Answers given.",
    ("bundle_id", "query_type", "fallback"),
    registry=REGISTRY,
)
GATEWAY_RECOMMENDATIONS_TAKEN = Counter(
    "clozerec_gateway_recommendations_taken_total",
    "Answers from which an event took something; over the answers given, the hit rate.",
    ("bundle_id", "query_type", "fallback"),
    registry=REGISTRY,
)
GATEWAY_RECOMMENDED_ITEMS = Counter(
    "clozerec_gateway_recommended_items_total",
    "Items in answers, by how each was scored.",
    ("source",),
    registry=REGISTRY,
)
GATEWAY_DISTINCT_ITEMS = Gauge(
    "clozerec_gateway_distinct_items",
    "Different items recommended within the hour, or the hour before where that were more.",
    registry=REGISTRY,
)
GATEWAY_SPLIT_REQUESTS = Counter(
    "clozerec_gateway_split_requests_total",
    "Requests of users whose share belongs to another gateway, by whether it answered.",
    ("outcome",),
    registry=REGISTRY,
)

GATEWAY_HTTP_REQUESTS = Counter(
    "clozerec_gateway_http_requests_total",
    "Answered JSON requests by RPC and HTTP status.",
    ("method", "status"),
    registry=REGISTRY,
)
GATEWAY_HTTP_SECONDS = Histogram(
    "clozerec_gateway_http_request_seconds",
    "Time from a JSON request's headers to its answer.",
    ("method",),
    buckets=SECONDS,
    registry=REGISTRY,
)

GATEWAY_STAGE_SECONDS = Histogram(
    "clozerec_gateway_stage_seconds",
    "Time of the stages of an answer: history, sequence, encode, retrieve, explain.",
    ("stage",),
    buckets=SECONDS,
    registry=REGISTRY,
)
GATEWAY_HISTORY_READS = Counter(
    "clozerec_gateway_history_reads_total",
    "Reads of people's histories, those of the bundle and the live events since, by whether the cache knew them: hit "
    "or miss.",
    ("store", "cache"),
    registry=REGISTRY,
)
GATEWAY_LIVE_EVENTS = Gauge(
    "clozerec_gateway_live_events",
    "Live events that this gateway keeps in its own file; none where Redis keeps them.",
    registry=REGISTRY,
)
GATEWAY_FALLBACKS = Counter(
    "clozerec_gateway_fallbacks_total",
    "Answers that fell back, by what they fell back on and what was missing (person: nothing is known of whom or what "
    "is asked about).",
    ("fallback", "missing"),
    registry=REGISTRY,
)
GATEWAY_DEPENDENCY_FAILURES = Counter(
    "clozerec_gateway_dependency_failures_total",
    "Calls to other parts that brought no answer: gone, slow, or refused (by them, or by the open circuit).",
    ("dependency", "reason"),
    registry=REGISTRY,
)

# Retriever

RETRIEVER_SEARCH_SECONDS = Histogram(
    "clozerec_retriever_search_seconds",
    "Time of searches by the plan that answered them; scan is exact.",
    ("plan",),
    buckets=(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, *SECONDS[1:]),
    registry=REGISTRY,
)
RETRIEVER_PASS_SHARE = Histogram(
    "clozerec_retriever_pass_ratio",
    "Share of the catalogue that passes a search's filter.",
    buckets=(0.0001, 0.001, 0.01, 0.1, 0.25, 0.5, 0.9, 1.0),
    registry=REGISTRY,
)
RETRIEVER_ITEMS = Gauge(
    "clozerec_retriever_items",
    "Items of the current bundle that can be found: its own (bundle) and those added since (day_zero).",
    ("origin",),
    registry=REGISTRY,
)
RETRIEVER_WAITING_CHANGES = Gauge(
    "clozerec_retriever_waiting_changes",
    "Upserts and deletions that wait for the disk.",
    registry=REGISTRY,
)
RETRIEVER_CHANGES = Counter(
    "clozerec_retriever_changes_total",
    "Items that callers upserted or deleted, durable and visible.",
    registry=REGISTRY,
)
RETRIEVER_COMMIT_SECONDS = Histogram(
    "clozerec_retriever_commit_seconds",
    "Time to make changes durable, by transaction.",
    buckets=SECONDS,
    registry=REGISTRY,
)
RETRIEVER_LOG_LOST = Gauge(
    "clozerec_retriever_shared_log_lost",
    "1 where the log of catalogue changes that retrievers share does not answer: writes fail, others' are not seen.",
    registry=REGISTRY,
)


def exposition() -> bytes:
    """All metrics of this process in Prometheus's text format, of type `CONTENT_TYPE`."""
    return generate_latest(REGISTRY)
