"""Each alert fires in the world that it was written for, and in no healthy one."""

from __future__ import annotations

import shutil

import pytest
from deploy.manifests import build, of_kind
from deploy.promql import Series, ask

from clozerec_cli.serving import Part
from clozerec_core import metrics

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, whose kustomize builds these")

RECOMMENDER = "clozerec.v1.RecommenderService"
ENCODER = "clozerec.v1.EncoderService"


def rules() -> dict[str, str]:
    (document,) = of_kind(build("monitoring"), "PrometheusRule")
    return {rule["alert"]: rule["expr"] for group in document["spec"]["groups"] for rule in group["rules"]}


def job() -> str:
    """What the operator of Prometheus writes on every series of a PodMonitor."""
    (monitor,) = of_kind(build("monitoring"), "PodMonitor")
    return f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"


def firing(world: list[Series]) -> set[str]:
    return {name for name, expression in rules().items() if ask(expression, world)}


def handled(service: str, code: str, pace: float) -> Series:
    return Series("grpc_server_handled_total", {"grpc_service": service, "grpc_code": code}, pace=pace)


def answers(pace: float | dict[str, float]) -> Series:
    return Series("clozerec_gateway_recommendations_total", {"fallback": "none"}, pace=pace)


def fell_back(fallback: str, missing: str, pace: float) -> Series:
    return Series("clozerec_gateway_fallbacks_total", {"fallback": fallback, "missing": missing}, pace=pace)


def process(of: str, *, open_fds: float = 100.0, memory: float = 500e6, growth: float = 0.0) -> list[Series]:
    labels = {"job": of, "pod": "a"}
    return [
        Series("process_open_fds", labels, open_fds),
        Series("process_max_fds", labels, 1000.0),
        Series("process_resident_memory_bytes", labels, memory, growth),
    ]


GATEWAY = [
    Series("clozerec_server_bundle_info", {"part": "gateway", "bundle_id": "b1"}, 1.0),
    handled(RECOMMENDER, "OK", 100.0),
    answers(100.0),
    # Unknown people get what is popular; nothing is broken.
    fell_back("popularity", "person", 50.0),
    Series("clozerec_gateway_recommendations_taken_total", {"fallback": "none"}, pace=10.0),
    *(
        Series(
            "grpc_server_handling_seconds_bucket", {"grpc_service": RECOMMENDER, "grpc_method": "Recommend", **le}, 0, p
        )
        for le, p in (({"le": "0.1"}, 100.0), ({"le": "1.0"}, 100.0), ({"le": "inf"}, 100.0))
    ),
]
INNER = [
    *(
        Series("clozerec_server_bundle_info", {"part": part, "bundle_id": "b1"}, 1.0)
        for part in ("encoder", "retriever")
    ),
    handled(ENCODER, "OK", 100.0),
    Series("clozerec_retriever_shared_log_lost", {}, 0.0),
]
OTHERS = [*process("shop/database", open_fds=990.0, growth=1e6)]
"""Other people's processes, in a bad state that is not ours to report."""

HEALTHY = [*GATEWAY, *INNER, *OTHERS, *process(job())]

WORLDS: dict[str, tuple[set[str], list[Series]]] = {
    "all is well": (set(), HEALTHY),
    "one process serves everything": (
        set(),
        [Series("clozerec_server_bundle_info", {"part": "all", "bundle_id": "b1"}, 1.0), *GATEWAY[1:], *OTHERS],
    ),
    "every gateway is gone, encoder and retriever are not": ({"ClozerecNothingServes"}, [*INNER, *OTHERS]),
    "everything is gone": ({"ClozerecNothingServes"}, OTHERS),
    "no retriever: people get what was popular": (
        {"ClozerecDegraded"},
        [*HEALTHY, fell_back("popularity", "retriever", 100.0)],
    ),
    "no encoder": ({"ClozerecDegraded"}, [*HEALTHY, fell_back("degraded", "encoder", 100.0)]),
    "no histories": ({"ClozerecDegraded"}, [*HEALTHY, fell_back("degraded", "histories", 2.0)]),
    "calls are refused at the door alone": (
        {"ClozerecOverloaded"},
        [*HEALTHY, Series("clozerec_server_calls_shed_total", {"reason": "full"}, pace=50.0)],
    ),
    "calls are refused by a queue alone": (
        {"ClozerecOverloaded"},
        [*HEALTHY, handled(ENCODER, "RESOURCE_EXHAUSTED", 50.0)],
    ),
    "answers fail": ({"ClozerecErrors"}, [*HEALTHY, handled(RECOMMENDER, "INTERNAL", 5.0)]),
    "answers are slow": (
        {"ClozerecSlow"},
        [
            *(each for each in HEALTHY if each.labels.get("le") != "0.1"),
            Series(
                "grpc_server_handling_seconds_bucket",
                {"grpc_service": RECOMMENDER, "grpc_method": "Recommend", "le": "0.1"},
                pace=90.0,
            ),
        ],
    ),
    "a stranger calls the encoder": ({"ClozerecShutOut"}, [*HEALTHY, handled(ENCODER, "UNAUTHENTICATED", 0.1)]),
    "tokens are guessed": ({"ClozerecTokensGuessed"}, [*HEALTHY, handled(RECOMMENDER, "UNAUTHENTICATED", 50.0)]),
    "bundles differ": (
        {"ClozerecBundlesDiffer"},
        [*HEALTHY, Series("clozerec_server_bundle_info", {"part": "gateway", "bundle_id": "b2"}, 1.0)],
    ),
    "a retriever is cut off from Redis": (
        {"ClozerecReplicasApart"},
        [*HEALTHY, Series("clozerec_retriever_shared_log_lost", {"pod": "b"}, 1.0)],
    ),
    "a process of ours runs out of descriptors": (
        {"ClozerecDescriptors"},
        [*GATEWAY, *INNER, *process(job(), open_fds=900.0)],
    ),
    "a process of ours grows": (
        {"ClozerecMemoryGrows"},
        [*GATEWAY, *INNER, *process(job(), growth=300e6 / 86400)],
    ),
    "answers lead nowhere": (
        {"ClozerecHitRateFell"},
        [
            *(each for each in HEALTHY if not each.name.startswith("clozerec_gateway_recommendations")),
            answers({"5m": 100.0, "6h": 100.0, "7d": 100.0}),
            Series("clozerec_gateway_recommendations_taken_total", {}, pace={"6h": 5.0, "7d": 10.0}),
        ],
    ),
}


@pytest.mark.parametrize("world", WORLDS)
def test_an_alert_fires_in_its_world_and_no_other_does(world: str) -> None:
    expected, series = WORLDS[world]
    assert firing(series) == expected


def test_every_alert_has_a_world_in_which_it_fires() -> None:
    assert set().union(*(expected for expected, _ in WORLDS.values())) == rules().keys()


def test_the_worlds_are_made_of_metrics_that_the_servers_have() -> None:
    samples = {
        name
        for family in metrics.REGISTRY.collect()
        for name in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    for _, series in WORLDS.values():
        assert {each.name for each in series} <= samples
        parts = {each.labels["part"] for each in series if "part" in each.labels}
        assert parts <= {part.value for part in Part}


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("sum(x) == 0", {}),  # nothing is not zero
        ("sum(x) + sum(y)", {}),
        ("(sum(x) or vector(0)) + sum(y)", {frozenset(): 3.0}),
        ('sum by (kind) (y{kind!="b"})', {frozenset({("kind", "a")}): 1.0}),
        ("absent(x)", {frozenset(): 1.0}),
        ("absent(y)", {}),
        ('y{kind="a"} * 2 > 1 and y', {frozenset({("kind", "a")}): 2.0}),
        ("count(y) - 1 * 2", {frozenset(): 0.0}),
    ],
)
def test_absent_series_are_treated_as_prometheus_does(expression: str, answer: dict[object, float]) -> None:
    world = [Series("y", {"kind": "a"}, 1.0), Series("y", {"kind": "b"}, 2.0)]
    assert ask(expression, world) == answer
