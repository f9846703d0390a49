"""The command line as people and containers run it: real processes, logs, signals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import toy_world

from clozerec_core.bundle import Bundle

ENGINES = ("torch", "sentence_transformers", "transformers", "faiss", "onnxruntime", "tokenizers", "onnx")
TIMEOUT_S = 60


def program(*blocked: str) -> list[str]:
    """A Python that runs `clozerec` as if the blocked packages were not installed."""
    blocks = "".join(f"sys.modules[{name!r}] = None; " for name in blocked)
    return [sys.executable, "-c", f"import sys; {blocks}from clozerec_cli.main import main; main()"]


def clozerec(*words: str, blocked: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program(*blocked), *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@contextmanager
def serving(*words: str, blocked: tuple[str, ...] = ()) -> Iterator[dict[str, int]]:
    """A serving process; yields its ports by name once it is ready, and expects a clean stop on SIGTERM."""
    command = [*program(*blocked), "serve", *words, "--metrics-port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield _ports(process)
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, rest
    events = [json.loads(line)["event"] for line in rest.splitlines()]
    assert events[-1] == "stopped"


def _ports(process: subprocess.Popen[str]) -> dict[str, int]:
    ports: dict[str, int] = {}
    assert process.stderr is not None
    for line in process.stderr:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "metrics_served":
            ports["metrics_port"] = event["metrics_port"]
        if event["event"] == "serving":
            ports |= {key: event[key] for key in ("grpc_port", "http_port") if key in event}
            # A gateway's gRPC port opens first and its HTTP port is announced last.
            if event.get("services") != ["clozerec.v1.RecommenderService"]:
                return ports
    raise AssertionError("the process ended before it served")


def test_three_processes_answer_a_query_and_stop_cleanly(toy_bundle: Bundle) -> None:
    bundle = ("--bundle", str(toy_bundle.path), "--grpc-port", "0")
    # Each process runs without the engines of the others.
    no_torch = ("torch", "sentence_transformers", "transformers", "onnx")
    with (
        serving("encoder", *bundle, blocked=(*no_torch, "faiss")) as encoder,
        serving("retriever", *bundle, blocked=(*no_torch, "onnxruntime", "tokenizers")) as retriever,
        serving(
            "gateway",
            *bundle,
            "--http-port",
            "0",
            "--encoder-target",
            f"127.0.0.1:{encoder['grpc_port']}",
            "--retriever-target",
            f"127.0.0.1:{retriever['grpc_port']}",
            blocked=ENGINES,
        ) as gateway,
    ):
        target = f"127.0.0.1:{gateway['grpc_port']}"
        request = '{"query_type": "sequential", "session_items": ["a", "b", "c"], "top_k": 1}'
        asked = clozerec("query", request, "--target", target, blocked=ENGINES)
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout)["items"][0]["item_id"] == "d"
        for process, called in (
            (encoder, "EncoderService"),
            (retriever, "RetrieverService"),
            (gateway, "RecommenderService"),
        ):
            with urllib.request.urlopen(f"http://127.0.0.1:{process['metrics_port']}/metrics") as response:
                scraped = response.read().decode()
            assert 'grpc_code="OK",grpc_method=' in scraped
            assert f'clozerec_server_bundle_info{{bundle_id="{toy_bundle.bundle_id}"' in scraped
            assert f'clozerec_server_calls_in_flight{{grpc_service="clozerec.v1.{called}"}} 0.0' in scraped
        refused = clozerec("query", '{"query_type": "sequential"}', CLOZEREC_TARGET=target)
        assert refused.returncode == 1
        assert "session_items" in refused.stderr


def test_everything_in_one_process_needs_no_torch(toy_bundle: Bundle) -> None:
    ports = ("--grpc-port", "0", "--http-port", "0")
    with serving("all", "--bundle", str(toy_bundle.path), *ports, blocked=("torch", "onnx")) as gateway:
        request = '{"query_type": "user_to_item", "user_id": "nobody", "top_k": 3}'
        asked = clozerec("query", request, "--target", f"127.0.0.1:{gateway['grpc_port']}")
        assert len(json.loads(asked.stdout)["items"]) == 3


def test_train_prints_the_bundles_path_last_and_evaluate_repeats_its_figures(tmp_path: Path) -> None:
    payload = toy_world.write_toy_payload(tmp_path / "data", training_epochs=2)
    trained = clozerec("train", str(payload), "--output", str(tmp_path / "bundles"))
    assert trained.returncode == 0, trained.stderr
    bundle = Bundle.open(Path(trained.stdout.splitlines()[-1]))
    assert (tmp_path / "bundles" / "current").resolve() == bundle.path
    evaluated = clozerec("evaluate", str(tmp_path / "bundles" / "current"), str(payload))
    assert json.loads(evaluated.stdout)["test"] == bundle.manifest.metrics["test"]
    inspected = clozerec("inspect", str(bundle.path), blocked=ENGINES)
    assert json.loads(inspected.stdout)["bundle_id"] == bundle.bundle_id


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_training_that_is_told_to_stop_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    payload = toy_world.write_toy_payload(tmp_path / "data", training_epochs=100_000, validate_every=100_000)
    output = tmp_path / "bundles"
    command = [*program(), "train", str(payload), "--output", str(output)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any('"training_begins"' in line for line in process.stderr)
    assert list(output.iterdir())
    process.send_signal(number)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + number
    assert list(output.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "variables", "exit_code", "hint"),
    [
        (["serve", "all"], {}, 2, "bundle"),
        (["serve", "everything"], {}, 2, "everything"),
        (["serve", "all", "--bundle", "/nowhere"], {}, 1, "manifest.json is missing"),
        (["serve", "encoder", "--bundle", "x", "--http-port", "1"], {}, 2, "http_port"),
        (["serve", "all", "--bundle", "x", "--grpc-port", "70000"], {}, 2, "grpc_port"),
        (["inspect", "/nowhere"], {}, 1, "manifest.json is missing"),
        (["serve", "all"], {"CLOZEREC_BUNLDE": "x"}, 2, 'did you mean "CLOZEREC_BUNDLE"'),
        (["query", "not json"], {}, 2, "not valid JSON"),
        (["query", '{"query_type": "user_to_item", "top_k": 1e999}'], {}, 2, "too large"),
        (["query", '{"a\\ud800": 1}'], {}, 2, "valid Unicode"),
        (["inspect", "/nowhere"], {"CLOZEREC_STATE_DIR": "/state"}, 1, "manifest.json is missing"),
        (["query", '{"query_type": "user_to_item", "usr": "7"}'], {}, 2, "usr: unknown field"),
        (["query", '{"query_type": "user_to_item", "user_id": "7"}', "--target", "127.0.0.1:1"], {}, 1, "listening"),
        (["train", "/nowhere.yaml"], {}, 2, "/nowhere.yaml"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line_with_the_right_exit_code(
    words: list[str], variables: dict[str, str], exit_code: int, hint: str
) -> None:
    done = clozerec(*words, **variables)
    assert done.returncode == exit_code, done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["train", "evaluate", "inspect", "serve", "query", "token", "demo"])
def test_every_command_shows_an_example(command: str) -> None:
    assert f"Example: clozerec {command}" in clozerec(command, "--help", blocked=ENGINES).stdout
