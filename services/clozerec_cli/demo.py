"""`clozerec demo`: from nothing to recommendations with titles, over the real services."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clozerec_cli import asking, movielens
from clozerec_core.bundle import Bundle
from clozerec_core.errors import BadBundle, ClozerecError
from clozerec_core.telemetry import SERVING

START_TIMEOUT_S = 60
TOP_K = 5


@dataclass(frozen=True)
class Question:
    """One query of the tour."""

    title: str
    request: dict[str, Any]


STAR_WARS, EMPIRE, JEDI, ALIEN = "50", "172", "181", "183"
SESSION = [STAR_WARS, EMPIRE, ALIEN]

TOUR = (
    Question("More like Star Wars", {"query_type": "item_to_item", "item_id": STAR_WARS}),
    Question("Homepage of user 1", {"query_type": "user_to_item", "user_id": "1"}),
    Question("Homepage of somebody unknown", {"query_type": "user_to_item", "user_id": "newcomer"}),
    Question("User 1 has just watched Alien", {"query_type": "contextual", "user_id": "1", "item_id": ALIEN}),
    Question(
        "Session: Star Wars, The Empire Strikes Back, Alien", {"query_type": "sequential", "session_items": SESSION}
    ),
    Question(
        "The same session, comedies since 1990 only",
        {
            "query_type": "sequential",
            "session_items": SESSION,
            "filters": {"meta.genres": "Comedy", "meta.year": {"$gte": 1990}},
        },
    ),
    Question(
        "A film that does not exist, by its text alone",
        {
            "query_type": "item_to_item",
            "item_id": "not-made-yet",
            "item_text": "The Haunted Lighthouse. Horror, Mystery, Thriller",
        },
    ),
    Question(
        "What belongs between Star Wars and Return of the Jedi?",
        {"query_type": "sequential", "session_items": [STAR_WARS, JEDI], "mask_index": 1},
    ),
)


FREE_PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


def run(directory: Path) -> None:
    """Prepare, train where no bundle is there yet, serve, ask, print.

    Raises:
        ClozerecError: a step failed; the message says which and where its log lies.
    """
    console = Console(width=100)
    console.print(movielens.TERMS, style="dim")
    payload = movielens.prepare(directory)
    bundle = _existing(directory / "bundles" / "current") or _train(payload, directory / "bundles", console)
    _print_accuracy(bundle, console)
    with _service(bundle, directory / "serve.log") as target:
        for question in TOUR:
            console.print(_answer_table(question, asking.ask(json.dumps({**question.request, "top_k": TOP_K}), target)))
    _print_next_steps(bundle, console)


def _existing(current: Path) -> Bundle | None:
    """The bundle of an earlier run, unless there is none or it is damaged."""
    try:
        return Bundle.open(current)
    except BadBundle:
        return None


def _train(payload: Path, bundles: Path, console: Console) -> Bundle:
    from clozerec_cli import training

    console.print("Training (about two minutes on two quiet cores) …")
    started = time.monotonic()
    path = training.train(payload, {"output": bundles, "preset": movielens.PRESET})
    assert path is not None, "the demo trains in one process"
    console.print(f"Trained in {time.monotonic() - started:.0f} s: {path}")
    return Bundle.open(path)


def _print_accuracy(bundle: Bundle, console: Console) -> None:
    table = Table(title="Leave-one-out, every film ranked", title_justify="left")
    for heading in ("model", "NDCG@10", "HR@10"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, figures in bundle.manifest.metrics["test"].items():
        table.add_row(name, f"{figures['ndcg@10']:.3f}", f"{figures['hr@10']:.3f}")
    console.print(table)


@contextmanager
def _service(bundle: Bundle, log_path: Path) -> Iterator[str]:
    """`clozerec serve all` as a process of its own on free ports; yields its gRPC target."""
    command = [sys.executable, "-m", "clozerec_cli", "serve", "all", "--bundle", str(bundle.path)]
    with log_path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen([*command, *FREE_PORTS], stderr=log)  # noqa: S603
        try:
            yield f"127.0.0.1:{_grpc_port(process, log_path)}"
        finally:
            process.terminate()
            process.wait(timeout=START_TIMEOUT_S)


def _grpc_port(process: subprocess.Popen[bytes], log_path: Path) -> int:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        for line in log_path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
            if event.get("event") == SERVING and "grpc_port" in event:
                return int(event["grpc_port"])
        time.sleep(0.1)
    raise ClozerecError(f"the service did not start; its log is {log_path}")


def _answer_table(question: Question, answer: dict[str, Any]) -> Table:
    fallback = "" if answer["fallback"] == "none" else f"  (fallback: {answer['fallback']})"
    table = Table(title=f"{question.title}{fallback}", title_justify="left", min_width=90)
    table.add_column("score", justify="right")
    table.add_column("film", ratio=3)
    table.add_column("year", justify="right")
    table.add_column("genres", ratio=2)
    for item in answer["items"]:
        metadata = item["metadata"]
        year = "" if metadata["year"] is None else f"{metadata['year']:.0f}"
        table.add_row(f"{item['score']:.3f}", item["display_name"], year, ", ".join(metadata["genres"] or ()))
    return table


def _print_next_steps(bundle: Bundle, console: Console) -> None:
    body = json.dumps({"query_type": "sequential", "session_items": SESSION, "top_k": TOP_K})
    console.print("\nKeep it running:", style="bold")
    _print_command(
        console, [str(Path(sys.executable).with_name("clozerec")), "serve", "all", "--bundle", _shown(bundle)]
    )
    console.print("and, from another terminal, ask it:", style="bold")
    console.print(f"  curl -s http://127.0.0.1:8080/v1/recommend -d '{body}'", soft_wrap=True, highlight=False)


def _print_command(console: Console, words: Sequence[str]) -> None:
    console.print("  " + " ".join(words), soft_wrap=True, highlight=False)


def _shown(bundle: Bundle) -> str:
    current = bundle.path.parent / "current"
    return str(current.relative_to(Path.cwd()) if current.is_relative_to(Path.cwd()) else current)
