"""Print the README's tables of settings, from the settings themselves."""

from __future__ import annotations

import os
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


def rows(kind: type[ServerSettings]) -> list[str]:
    """The table's lines for one service: settings that only it has, or whose default differs there."""
    prefix = str(kind.model_config["env_prefix"])
    common = {} if kind is ServerSettings else ServerSettings.model_fields
    own = [
        name
        for name, field in kind.model_fields.items()
        if name not in common or (name != "port" and field.default != common[name].default)
    ]
    return [
        f"| `{prefix}{name.upper()}` | {shown(name, kind.model_fields[name].default)} "
        f"| {kind.model_fields[name].description} |"
        for name in own
    ]


def shown(name: str, default: Any) -> str:
    """A default value as the table shows it."""
    if name == "threads" and default == (os.cpu_count() or 1):
        return "the machine's cores"
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return f"`{default}`" if str(default) else ""


def tables() -> str:
    """All tables in Markdown, as the README shows them."""
    head = "| variable | default | meaning |\n| --- | --- | --- |\n"
    parts = ["Every service, with its own prefix in the place of `WENTU_`:\n\n" + head]
    common = [line.replace("| `", "| `WENTU_..._", 1) for line in rows(ServerSettings) if "`PORT`" not in line]
    parts[0] += "\n".join(common)
    for title, kind in SERVICES.items():
        port = kind.model_fields["port"].default
        prefix = kind.model_config["env_prefix"]
        lines = [f"| `{prefix}PORT` | `{port}` | port to listen on; 0 takes a free one |", *rows(kind)]
        parts.append(f"The {title}:\n\n" + head + "\n".join(lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(tables())
