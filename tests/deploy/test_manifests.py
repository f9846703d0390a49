"""Every combination of the manifests builds, keeps to Kubernetes's schemas, and names only what exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import redis
import yaml
from bundle_factory import make_catalogue, random_vectors, write_bundle
from deploy.manifests import (
    CUSTOM,
    K8S,
    KUBERNETES,
    ORDER,
    OURS,
    OVERLAYS,
    REPOSITORY,
    SPARE_S,
    Document,
    build,
    combinations,
    containers,
    of_kind,
    pods,
    selects,
)
from deploy.manifests import variables as variables_of

from clozerec_cli.main import app
from clozerec_cli.serving import Part
from clozerec_cli.settings import EVERY_KIND, CommandSettings
from clozerec_core import metrics
from clozerec_core.rpc import LIVENESS, ServerSettings
from clozerec_core.settings import ENV_PREFIX, Settings, StateSettings
from clozerec_encoder.servicer import SERVICE_NAME as ENCODER_SERVICE
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.servicer import SERVICE_NAME as RECOMMENDER_SERVICE
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.servicer import SERVICE_NAME as RETRIEVER_SERVICE
from clozerec_retriever.settings import RetrieverSettings

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, whose kustomize builds these")

PARTS: dict[str, tuple[type[ServerSettings], str]] = {
    "gateway": (GatewaySettings, RECOMMENDER_SERVICE),
    "encoder": (EncoderSettings, ENCODER_SERVICE),
    "retriever": (RetrieverSettings, RETRIEVER_SERVICE),
}
SECRETS_TO_MAKE = {"clozerec-redis", "clozerec-page-key", "clozerec-tokens", "clozerec-inner-token"}
"""By hand, as docs/security.md and the components say."""
VOLUMES_TO_MAKE = {"training-data"}

BUILDS = [
    *((overlay, ()) for overlay in OVERLAYS),
    *(("", chosen) for chosen in combinations((0, 1, 2))),
    *(("", chosen) for chosen in combinations((len(ORDER) - 1,))),
]


@pytest.fixture(params=BUILDS, ids=lambda each: each[0] or "base " + "+".join(each[1]))
def documents(request: pytest.FixtureRequest) -> tuple[Document, ...]:
    overlay, components = request.param
    return build(*components, overlay=overlay)


@pytest.fixture(params=[*((overlay, ()) for overlay in OVERLAYS), *(("", c) for c in combinations((len(ORDER) - 1,)))])
def whole(request: pytest.FixtureRequest) -> tuple[Document, ...]:
    """The overlays, and everything at once."""
    overlay, components = request.param
    return build(*components, overlay=overlay)


def our_containers(documents: tuple[Document, ...]) -> list[tuple[str, Document, Document]]:
    """Part, pod and container of each of our processes."""
    return [
        (container["name"], pod, container)
        for pod in pods(documents).values()
        for container in pod["spec"]["containers"]
        if container["name"] in OURS
    ]


def test_every_resource_keeps_to_the_schema(documents: tuple[Document, ...]) -> None:
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(names) == len(set(names))
    for document in documents:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_every_selector_finds_pods_and_every_port_is_open_on_them(documents: tuple[Document, ...]) -> None:
    templates = list(pods(documents).values())
    for service in of_kind(documents, "Service"):
        chosen = [pod for pod in templates if selects(service["spec"]["selector"], pod)]
        assert len(chosen) == 1, service["metadata"]["name"]
        open_ports = {
            port["name"]: port["containerPort"] for each in containers(chosen[0]) for port in each.get("ports", [])
        }
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in open_ports
            if service["spec"].get("clusterIP") == "None":
                assert port["port"] == open_ports[port["targetPort"]], "headless services change no port"
    for document in of_kind(documents, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        selector = document["spec"]["selector"]["matchLabels"]
        assert len([pod for pod in templates if selects(selector, pod)]) == 1, document["metadata"]["name"]
    for monitor in of_kind(documents, "PodMonitor"):
        chosen = [pod for pod in templates if selects(monitor["spec"]["selector"]["matchLabels"], pod)]
        assert chosen
        assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    for scaler in of_kind(documents, "HorizontalPodAutoscaler"):
        target = next(
            d for d in of_kind(documents, "Deployment") if d["metadata"]["name"] == scaler["metadata"]["name"]
        )
        assert "replicas" not in target["spec"], "two owners of one number"


def test_autoscalers_look_at_what_the_servers_count(whole: tuple[Document, ...]) -> None:
    adapter = yaml.safe_load((K8S / "components" / "autoscaling" / "adapter-rules.yaml").read_text())
    (series,) = [rule["seriesQuery"].split("{")[0] for rule in adapter["rules"]["custom"]]
    counted = {family.name for family in metrics.REGISTRY.collect()}
    for scaler in of_kind(whole, "HorizontalPodAutoscaler"):
        (each,) = scaler["spec"]["metrics"]
        assert each["pods"]["metric"]["name"] == series
        assert series in counted
        service = each["pods"]["metric"]["selector"]["matchLabels"]["grpc_service"]
        assert service == PARTS[scaler["metadata"]["name"]][1]


def test_every_part_spreads_over_hosts_and_zones_and_loses_one_pod_at_a_time(whole: tuple[Document, ...]) -> None:
    budgets = of_kind(whole, "PodDisruptionBudget")
    for part, pod, _ in our_containers(whole):
        if part not in PARTS:
            continue
        spreads = pod["spec"]["topologySpreadConstraints"]
        assert {spread["topologyKey"] for spread in spreads} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }
        assert all(selects(spread["labelSelector"]["matchLabels"], pod) for spread in spreads)
        (budget,) = [each for each in budgets if selects(each["spec"]["selector"]["matchLabels"], pod)]
        assert budget["spec"]["maxUnavailable"] == 1


def test_network_policies_name_pods_and_ports_that_exist() -> None:
    documents = build(*next(combinations((len(ORDER) - 1,))))
    templates = pods(documents).values()
    for policy in of_kind(documents, "NetworkPolicy"):
        spec = policy["spec"]
        chosen = [pod for pod in templates if selects(spec["podSelector"].get("matchLabels", {}), pod)]
        assert chosen, policy["metadata"]["name"]
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                peers = [
                    pod
                    for peer in rule[key]
                    if "namespaceSelector" not in peer
                    for pod in templates
                    if selects(peer["podSelector"]["matchLabels"], pod)
                ]
                receivers = chosen if direction == "ingress" else peers
                for port in rule["ports"] if receivers else []:
                    known = {
                        value
                        for pod in receivers
                        for container in containers(pod)
                        for each in container.get("ports", [])
                        for value in (each["name"], each["containerPort"])
                    }
                    assert port["port"] in known, (policy["metadata"]["name"], port)


def test_every_component_is_built() -> None:
    assert set(ORDER) == {path.parent.name for path in K8S.glob("components/*/kustomization.yaml")}


def test_traces_get_out_to_the_collector() -> None:
    documents = build("canary", "network-policies", "tracing")
    seen = set()
    for part, pod, container in our_containers(documents):
        endpoint = urlsplit(variables_of(documents, container)["CLOZEREC_OTLP_ENDPOINT"])
        assert endpoint.hostname is not None
        _, namespace = endpoint.hostname.split(".")
        peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        rules = [
            rule
            for policy in of_kind(documents, "NetworkPolicy")
            if chosen_by(policy["spec"]["podSelector"], pod) and "Egress" in policy["spec"]["policyTypes"]
            for rule in policy["spec"].get("egress", [])
        ]
        assert {"to": [peer], "ports": [{"port": endpoint.port}]} in rules, part
        seen.add(part)
    assert seen == PARTS.keys()


def chosen_by(selector: Document, pod: Document) -> bool:
    """What a label selector says of a pod; its expressions are all of `In`."""
    labels = pod["metadata"]["labels"]
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return selects(selector.get("matchLabels", {}), pod) and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def test_every_variable_is_a_setting_with_a_valid_value(
    documents: tuple[Document, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)
    for part, pod, container in our_containers(documents):
        given = variables_of(documents, container)
        kind: type[Settings] = PARTS[part][0] if part in PARTS else CommandSettings
        with monkeypatch.context() as environment:
            for name, value in given.items():
                if name.startswith(ENV_PREFIX):
                    environment.setenv(name, value)
            kind.load({} if part in PARTS else {"target": None}, EVERY_KIND)
        ours = {name.removeprefix(ENV_PREFIX).lower() for name in given if name.startswith(ENV_PREFIX)}
        assert ours <= kind.model_fields.keys(), f"{part} reads no such setting"
        assert not pod["spec"].get("enableServiceLinks", True), "service links would be unknown CLOZEREC_ variables"
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        for name, value in given.items():
            if name.startswith(ENV_PREFIX) and value.startswith("/"):
                assert any(Path(value).is_relative_to(mount) for mount in mounts), f"{name}={value} lies on no volume"


def test_ports_say_what_they_speak_and_certificates_hold_every_name_of_their_services(
    documents: tuple[Document, ...],
) -> None:
    certificates = {each["spec"]["secretName"]: each for each in of_kind(documents, "Certificate")}
    for service in of_kind(documents, "Service"):
        name = service["metadata"]["name"]
        (pod,) = [pod for pod in pods(documents).values() if selects(service["spec"]["selector"], pod)]
        if pod["spec"]["containers"][0]["name"] not in PARTS:
            continue
        secrets = [each["secret"]["secretName"] for each in pod["spec"]["volumes"] if each["name"] == "tls"]
        (port,) = service["spec"]["ports"]
        clear = {"grpc": "kubernetes.io/h2c", "http": "http"}[port["name"]]
        assert port["appProtocol"] == ("https" if secrets else clear), name
        for secret in secrets:
            called = {name + suffix for suffix in ("", ".clozerec", ".clozerec.svc", ".clozerec.svc.cluster.local")}
            assert called <= set(certificates[secret]["spec"]["dnsNames"])


def test_many_of_a_kind_share_what_they_keep(whole: tuple[Document, ...]) -> None:
    """Each would know its own changes only."""
    for deployment in of_kind(whole, "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        kind = PARTS[container["name"]][0]
        if issubclass(kind, StateSettings) and deployment["spec"].get("replicas") != 1:
            assert "CLOZEREC_REDIS_URL" in variables_of(whole, container), container["name"]


def test_targets_are_services_of_the_same_build(whole: tuple[Document, ...]) -> None:
    services = {service["metadata"]["name"]: service for service in of_kind(whole, "Service")}
    for _, _, container in our_containers(whole):
        for name, value in variables_of(whole, container).items():
            if name.endswith("_TARGET") or name == "CLOZEREC_REDIS_URL":
                host, port = value.removeprefix("dns:///").rsplit("/", 1)[0] if "_URL" in name else value, ""
                host = urlsplit(
                    value if "://" in value and "_URL" in name else "//" + value.removeprefix("dns:///")
                ).netloc
                host, port = host.rsplit("@")[-1].split(":")
                assert int(port) in [each["port"] for each in services[host]["spec"]["ports"]], (name, value)


def test_probes_ask_for_names_that_the_servers_register(whole: tuple[Document, ...]) -> None:
    for part, _, container in our_containers(whole):
        if part not in PARTS:
            continue
        health_port = int(variables_of(whole, container)["CLOZEREC_HEALTH_PORT"])
        assert health_port in [port["containerPort"] for port in container["ports"]]
        for probe, service in (
            ("startupProbe", PARTS[part][1]),
            ("readinessProbe", PARTS[part][1]),
            ("livenessProbe", LIVENESS),
        ):
            assert container[probe]["grpc"] == {"port": health_port, "service": service}


def test_ports_are_those_that_the_settings_open(whole: tuple[Document, ...]) -> None:
    for part, _, container in our_containers(whole):
        if part in PARTS:
            given = variables_of(whole, container)
            open_ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            for name in open_ports:
                assert open_ports[name] == int(given[f"CLOZEREC_{name.upper()}_PORT"])
                default = PARTS[part][0].model_fields[f"{name}_port"].default
                assert default in (open_ports[name], None)


def test_arguments_are_commands_that_exist(whole: tuple[Document, ...]) -> None:
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback is not None}
    for part, _, container in our_containers(whole):
        assert container["args"][0] in commands
        if part in PARTS:
            assert container["args"][1:] == [Part(part).value]


def test_mounts_secrets_and_claims_exist(documents: tuple[Document, ...]) -> None:
    certificates = {certificate["spec"]["secretName"] for certificate in of_kind(documents, "Certificate")}
    claims = {claim["metadata"]["name"] for claim in of_kind(documents, "PersistentVolumeClaim")}
    accounts = {account["metadata"]["name"] for account in of_kind(documents, "ServiceAccount")}
    for name, pod in pods(documents).items():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        templates = {"data"} if name == "redis" else set()
        for container in containers(pod):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys() | templates
            for entry in container.get("env", []):
                if "valueFrom" in entry:
                    assert entry["valueFrom"]["secretKeyRef"]["name"] in SECRETS_TO_MAKE
        for volume in volumes.values():
            if "secret" in volume:
                assert volume["secret"]["secretName"] in SECRETS_TO_MAKE | certificates
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims | VOLUMES_TO_MAKE
        assert pod["spec"]["serviceAccountName"] in accounts
        assert pod["spec"]["automountServiceAccountToken"] is False


def test_every_container_is_locked_down_and_bounded(documents: tuple[Document, ...]) -> None:
    for name, pod in pods(documents).items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            for bound in ("requests", "limits"):
                assert set(container["resources"][bound]) == {"cpu", "memory"}


def test_stopping_adds_up(whole: tuple[Document, ...]) -> None:
    for part, pod, container in our_containers(whole):
        if part in PARTS:
            given = variables_of(whole, container)
            stopping_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            stopping_s += int(given["CLOZEREC_DRAIN_DELAY_S"]) + int(given["CLOZEREC_GRACE_S"])
            assert stopping_s + SPARE_S <= pod["spec"]["terminationGracePeriodSeconds"]


def test_the_production_overlay_asks_who_calls() -> None:
    documents = build(overlay="production")
    for part, _, container in our_containers(documents):
        given = variables_of(documents, container)
        assert "CLOZEREC_TLS_CERT_PATH" in given
        assert ("CLOZEREC_TOKENS_PATH" if part == "gateway" else "CLOZEREC_TLS_CLIENT_NAMES") in given
        assert "CLOZEREC_INNER_TOKEN_PATH" in given


def test_a_canary_splits_off_users_to_a_stack_of_its_own() -> None:
    documents = build("canary")
    by_name = pods(documents)
    split = {
        name: "CLOZEREC_SPLIT_PATH" in variables_of(documents, pod["spec"]["containers"][0])
        for name, pod in by_name.items()
    }
    assert [name for name, splits in split.items() if splits] == ["gateway"]
    sharing = build("canary", "redis")
    gateways = [pod for part, pod, _ in our_containers(sharing) if part == "gateway"]
    urls = [variables_of(sharing, pod["spec"]["containers"][0])["CLOZEREC_REDIS_URL"] for pod in gateways]
    assert len(urls) == 2
    assert urls[0] == urls[1]


def bundle_of(documents: tuple[Document, ...], pod: Document) -> str:
    """The image, or the path on a volume, that a pod serves from."""
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "bundles"]
    served = variables_of(documents, pod["spec"]["containers"][0])["CLOZEREC_BUNDLE"]
    if "persistentVolumeClaim" in volume:
        return f"{volume['persistentVolumeClaim']['claimName']}: {served}"
    assert served == "/bundles/bundle"
    if "image" in volume:
        assert "initContainers" not in pod["spec"]
        return str(volume["image"]["reference"])
    (copies,) = pod["spec"]["initContainers"]
    return str(copies["image"])


@pytest.mark.parametrize(
    ("delivery", "stable"),
    [((), "clozerec/bundle:1"), (("image-volume",), "clozerec/bundle:1"), (("trainer",), "bundles: /bundles/current")],
)
def test_a_canary_has_a_bundle_of_its_own_however_bundles_are_delivered(delivery: tuple[str, ...], stable: str) -> None:
    documents = build("canary", *delivery)
    bundles: dict[str, set[str]] = {}
    for part, pod, _ in our_containers(documents):
        if part in PARTS:
            bundles.setdefault(pod["metadata"]["labels"]["clozerec/track"], set()).add(bundle_of(documents, pod))
    assert bundles == {"stable": {stable}, "canary": {"clozerec/bundle:canary"}}


def redis_container() -> Document:
    container: Document = pods(build("redis"))["redis"]["spec"]["containers"][0]
    return container


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_redis_asks_for_a_password_that_no_list_of_processes_shows(tmp_path: Path) -> None:
    container = redis_container()
    (script,) = container["args"]
    (tmp_path / "password").write_text("5ec2e7")
    socket = tmp_path / "redis.sock"
    for stated, here in (
        ("port 6379", f"port 0\nunixsocket {socket}"),
        ("dir /data", f"dir {tmp_path}"),
        ("/password/password", str(tmp_path / "password")),
    ):
        assert script.count(stated) == 1
        script = script.replace(stated, here)
    with subprocess.Popen([*container["command"], script], stdout=subprocess.DEVNULL) as server:
        try:
            stranger = redis.Redis(unix_socket_path=str(socket))
            friend = redis.Redis(unix_socket_path=str(socket), password="5ec2e7")
            until = time.monotonic() + 20
            while not socket.exists() and time.monotonic() < until:
                time.sleep(0.02)
            with stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
            with friend:
                assert friend.config_get("append*")["appendfsync"] == "always"
                policy = friend.config_get("maxmemory*")
            assert policy["maxmemory-policy"] == "noeviction"
            limit = container["resources"]["limits"]["memory"]
            assert int(policy["maxmemory"]) * 2 <= int(limit.removesuffix("Gi")) * 2**30, "a fork may copy all of it"
            assert b"5ec2e7" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
        finally:
            server.terminate()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
@pytest.mark.parametrize("password", ["", None])
def test_redis_does_not_start_without_a_password(tmp_path: Path, password: str | None) -> None:
    container = redis_container()
    if password is not None:
        (tmp_path / "password").write_text(password)
    script = container["args"][0].replace("/password/password", str(tmp_path / "password"))
    script = script.replace("port 6379", "port 0").replace("dir /data", f"dir {tmp_path}")
    done = subprocess.run([*container["command"], script], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert "requirepass" in done.stdout + done.stderr


def test_before_training_the_trainer_makes_room_but_keeps_what_is_served(tmp_path: Path) -> None:
    pod = pods(build("trainer"))["trainer"]
    (makes_room,) = pod["spec"]["initContainers"]
    assert makes_room["image"] == pod["spec"]["containers"][0]["image"]
    assert makes_room["volumeMounts"] == [{"name": "bundles", "mountPath": "/bundles"}]
    for night in range(1, 7):
        catalogue, vectors = make_catalogue({}, {}, num_items=4), random_vectors(4, 8)
        write_bundle(
            tmp_path, catalogue, vectors, [1] * 4, bundle_id=f"b{night}", created_at=f"2026-01-0{night}T02:17:00Z"
        )
    (tmp_path / "current").symlink_to("b2")
    python, *arguments = makes_room["command"]
    assert python == "python"
    command = [argument.replace('"/bundles"', repr(str(tmp_path))) for argument in arguments]
    subprocess.run([sys.executable, *command], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"current", "b2", "b4", "b5", "b6"}


def test_the_patches_of_the_documentation_apply() -> None:
    text = (REPOSITORY / "docs" / "deployment.md").read_text()
    shown = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("patches:")]
    patches = [patch for block in shown for patch in yaml.safe_load(block)["patches"]]
    documents = build("monitoring", "network-policies", patches=yaml.safe_dump(patches))
    for document in of_kind(documents, "PodMonitor", "PrometheusRule"):
        assert document["metadata"]["labels"] == {"release": "YOUR_RELEASE"}
    (dns,) = [each for each in of_kind(documents, "NetworkPolicy") if each["metadata"]["name"] == "allow-dns"]
    assert dns["spec"]["egress"][-1]["to"] == [{"ipBlock": {"cidr": "169.254.20.10/32"}}]
    kubernetes_validate.validate(dns, KUBERNETES, strict=True)
