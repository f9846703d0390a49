"""Every setting as a page of the documentation, `docs/settings.md`; `clozerec settings` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from clozerec_cli.settings import CommandSettings
from clozerec_core.settings import ENV_PREFIX, Settings
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings

SERVICES: Mapping[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "encoder": EncoderSettings,
    "retriever": RetrieverSettings,
}
HEAD = """# Settings

Environment variables, read once when a process starts; what the command line says goes before them. `serve all` reads
those of all three services. A variable that begins with `CLOZEREC_` and is none of these stops the start: a misspelt
limit must not be ignored. Lists are JSON.
"""


def page() -> str:
    """The page, in Markdown."""
    names = dict.fromkeys(name for kind in SERVICES.values() for name in kind.model_fields)
    of_name = {name: [part for part, kind in SERVICES.items() if name in kind.model_fields] for name in names}
    groups = [("All services", list(SERVICES)), *((part.capitalize(), [part]) for part in SERVICES)]
    shared = [parts for parts in of_name.values() if 1 < len(parts) < len(SERVICES)]
    for parts in shared:
        if (group := (" and ".join(parts).capitalize(), parts)) not in groups:
            groups.insert(1, group)
    sections = [
        _section(title, {name: [SERVICES[part].model_fields[name] for part in parts] for name in own}, parts)
        for title, parts in groups
        if (own := [name for name, its in of_name.items() if its == parts])
    ]
    commands = {name: [field] for name, field in CommandSettings.model_fields.items()}
    return "\n".join([HEAD, *sections, _section("Commands that do not serve", commands, ["command"])])


def _section(title: str, fields: Mapping[str, list[FieldInfo]], parts: list[str]) -> str:
    rows = [
        f"| `{ENV_PREFIX}{name.upper()}` | {_default(kinds, parts)} | {_meaning(kinds, parts)} |"
        for name, kinds in sorted(fields.items())
    ]
    return "\n".join([f"## {title}", "", "| variable | default | |", "|---|---|---|", *rows, ""])


def _default(kinds: list[FieldInfo], parts: list[str]) -> str:
    defaults = [_shown(kind) for kind in kinds]
    if len(set(defaults)) == 1:
        return defaults[0]
    return ", ".join(f"{default} ({part})" for default, part in zip(defaults, parts, strict=True))


def _meaning(kinds: list[FieldInfo], parts: list[str]) -> str:
    """The description, and which part means it otherwise."""
    common = kinds[-1].description or ""
    others = [f"{part.capitalize()}: {kind.description}" for kind, part in zip(kinds, parts, strict=True)]
    return " ".join([common, *(each for each in others if not each.endswith(common))])


def _shown(field: FieldInfo) -> str:
    default: Any = field.default
    if field.is_required():
        return "required"
    if default is None or default == ():
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
