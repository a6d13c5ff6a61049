"""Print the README's tables of settings, from the settings themselves; with the argument zh, in Chinese."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from gateway.settings import GatewaySettings
from services.common.settings import ServerSettings
from services.encoder.settings import EncoderSettings
from services.imagestore.settings import ImageStoreSettings
from services.retriever.settings import RetrieverSettings

SERVICES: dict[str, type[ServerSettings]] = {
    "gateway": GatewaySettings,
    "encoder": EncoderSettings,
    "retriever": RetrieverSettings,
    "image store": ImageStoreSettings,
}
CHINESE = Path(__file__).with_name("settings_zh.toml")
# Turns an English text of the tables into the language of the page.
Translation = Callable[[str], str]


def rows(kind: type[ServerSettings], translated: Translation) -> list[str]:
    """The table's lines for one service: settings that only it has, or whose default differs there."""
    prefix = str(kind.model_config["env_prefix"])
    common = {} if kind is ServerSettings else ServerSettings.model_fields
    own = [
        name
        for name, field in kind.model_fields.items()
        if name not in common or (name != "port" and field.default != common[name].default)
    ]
    return [
        f"| `{prefix}{name.upper()}` | {shown(name, kind.model_fields[name].default, translated)} "
        f"| {translated(kind.model_fields[name].description or '')} |"
        for name in own
    ]


def shown(name: str, default: Any, translated: Translation) -> str:
    """A default value as the table shows it."""
    if name == "threads" and default == (os.cpu_count() or 1):
        return translated("the machine's cores")
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return f"`{default}`" if str(default) else ""


def tables(translated: Translation = str) -> str:
    """All tables in Markdown, as the README shows them."""
    head = " | ".join(translated(word) for word in ("variable", "default", "meaning"))
    head = f"| {head} |\n| --- | --- | --- |\n"
    common = [
        line.replace("| `", "| `WENTU_..._", 1) for line in rows(ServerSettings, translated) if "`PORT`" not in line
    ]
    title = translated("Every service, with its own prefix in the place of `WENTU_`:")
    parts = [f"{title}\n\n{head}" + "\n".join(common)]
    for service, kind in SERVICES.items():
        port = kind.model_fields["port"]
        prefix = kind.model_config["env_prefix"]
        lines = [
            f"| `{prefix}PORT` | `{port.default}` | {translated(port.description or '')} |",
            *rows(kind, translated),
        ]
        parts.append(f"{translated(f'The {service}:')}\n\n{head}" + "\n".join(lines))
    return "\n\n".join(parts)


def chinese() -> dict[str, str]:
    """The Chinese of each text of the tables."""
    return tomllib.loads(CHINESE.read_text(encoding="utf-8"))


def chinese_tables() -> str:
    """All tables in Chinese. Raises KeyError with a text that has no Chinese yet: it belongs into settings_zh.toml."""
    return tables(chinese().__getitem__)


if __name__ == "__main__":
    print(chinese_tables() if "zh" in sys.argv[1:] else tables())
