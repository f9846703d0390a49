"""`clozerec`: train, look at, serve and ask. Exit codes: 0 done, 1 failed, 2 wrong usage or payload."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from clozerec_cli.serving import Part
from clozerec_core.errors import BadRequest, ClozerecError, UsageError

app = typer.Typer(
    help="Recommendations as a service: a hybrid BERT4Rec over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PayloadFile = Annotated[Path, typer.Argument(help="Training payload, YAML or JSON.", show_default=False)]
BundleDir = Annotated[Path, typer.Argument(help="Bundle directory, or a symlink to one.", show_default=False)]


class TokenRole(Enum):
    """What a token may do; each may do what stands before it too."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except (UsageError, BadRequest) as error:
        _fail(error, 2)
    except ClozerecError as error:
        _fail(error, 1)


@app.command()
def train(
    payload: PayloadFile,
    output: Annotated[Path | None, typer.Option(help="Where bundles go. [default: bundles]")] = None,
    preset: Annotated[str | None, typer.Option(help="Keys to start from; the payload's own win.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Reused between runs. [default: ~/.cache/clozerec]")] = None,
) -> None:
    """Train a bundle; its path is the last line of standard output.

    \b
    Example: clozerec train payload.yaml --output bundles --preset video-next-episode
    """
    from clozerec_cli import training

    if (path := training.train(payload, {"output": output, "preset": preset, "cache_dir": cache_dir})) is not None:
        typer.echo(path)


@app.command()
def doctor(
    payload: PayloadFile,
    preset: Annotated[str | None, typer.Option(help="Keys to start from; the payload's own win.")] = None,
) -> None:
    """Say what the data can and cannot support, how long training will take, and what to change.

    \b
    Example: clozerec doctor payload.yaml --preset video-next-episode
    """
    from clozerec_cli import training

    typer.echo(training.doctor(payload, {"preset": preset}))


@app.command()
def tune(
    payload: PayloadFile,
    output: Annotated[Path | None, typer.Option(help="For the study and its outcome. [default: bundles]")] = None,
    preset: Annotated[str | None, typer.Option(help="Keys to start from; the payload's own win.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Reused between runs. [default: ~/.cache/clozerec]")] = None,
    trials: Annotated[int, typer.Option(min=1, help="In all, those of earlier calls included.")] = 30,
    minutes: Annotated[float, typer.Option(min=0, help="Of this call.")] = 60.0,
) -> None:
    """Search for better keys by validation; the path of a payload that has them is the last line.

    Run again, it goes on where it stood.

    \b
    Example: clozerec tune payload.yaml --output tuning --trials 30 --minutes 60
    """
    from clozerec_cli import training

    options = {"output": output, "preset": preset, "cache_dir": cache_dir}
    typer.echo(training.tune(payload, options, trials, minutes))


@app.command()
def evaluate(bundle: BundleDir, payload: PayloadFile) -> None:
    """Print the report's metrics again, computed from the bundle's own weights.

    \b
    Example: clozerec evaluate bundles/current payload.yaml
    """
    from clozerec_cli import training

    _print_json(training.evaluate(bundle, payload))


@app.command()
def inspect(bundle: BundleDir) -> None:
    """Verify every file of a bundle and print its manifest.

    \b
    Example: clozerec inspect bundles/current
    """
    from clozerec_core.bundle import Bundle

    _print_json(Bundle.open(bundle).manifest.model_dump(mode="json"))


@app.command()
def serve(
    part: Annotated[Part, typer.Argument(help="Everything in one process, or one service.", show_default=False)],
    bundle: Annotated[Path | None, typer.Option(help="Bundle directory, or a symlink to one.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="[default: 50050 gateway, 50051 encoder, 50052 retriever]")
    ] = None,
    http_port: Annotated[int | None, typer.Option(help="The gateway's JSON front. [default: 8080]")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="[default: 9090 gateway, 9091 encoder, 9092 retriever]")
    ] = None,
    encoder_target: Annotated[str | None, typer.Option(help="host:port, for the gateway.")] = None,
    retriever_target: Annotated[str | None, typer.Option(help="host:port, for the gateway.")] = None,
) -> None:
    """Serve a bundle until SIGTERM. Every option is also CLOZEREC_<NAME> in the environment.

    \b
    Example: clozerec serve all --bundle bundles/current
    """
    from clozerec_cli import serving

    given = {
        "bundle": bundle,
        "host": host,
        "grpc_port": grpc_port,
        "http_port": http_port,
        "metrics_port": metrics_port,
        "encoder_target": encoder_target,
        "retriever_target": retriever_target,
    }
    serving.run(part, given)


@app.command()
def query(
    document: Annotated[str, typer.Argument(help="A request as JSON; - reads standard input.", show_default=False)],
    target: Annotated[str | None, typer.Option(help="host:port of the gateway. [default: 127.0.0.1:50050]")] = None,
) -> None:
    """Ask a running gateway; JSON in, JSON out.

    \b
    Example: clozerec query '{"query_type": "user_to_item", "user_id": "7", "top_k": 5}'
    """
    from clozerec_cli import asking
    from clozerec_cli.settings import EVERY_KIND, CommandSettings

    settings = CommandSettings.load({"target": target}, EVERY_KIND)
    _print_json(asking.ask(sys.stdin.read() if document == "-" else document, settings.target))


@app.command()
def settings() -> None:
    """Print every environment variable that a process reads, in Markdown.

    \b
    Example: clozerec settings | grep TIMEOUT
    """
    from clozerec_cli.settings_page import page

    typer.echo(page(), nl=False)


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Who will hold it.", show_default=False)],
    role: Annotated[TokenRole, typer.Option(help="What it may do.")] = TokenRole.READ,
) -> None:
    """Make a token: its entry for the tokens file on standard output, the token itself, once, on standard error.

    \b
    Example: clozerec token web --role read
    """
    from clozerec_core.access import new_token

    secret, entry = new_token(name, role.value)
    typer.echo(f"the token of {name}, shown once: {secret}", err=True)
    _print_json(entry)


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Data, bundle and logs; reused by the next run.")] = Path(
        "demo-run"
    ),
) -> None:
    """Train on MovieLens-100K, serve it, and ask each kind of query.

    \b
    Example: clozerec demo --dir demo-run
    """
    from clozerec_cli import demo as demonstration

    demonstration.run(directory)


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _fail(error: ClozerecError, exit_code: int) -> None:
    typer.echo(f"clozerec: {error}", err=True)
    raise SystemExit(exit_code)
