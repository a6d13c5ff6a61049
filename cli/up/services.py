"""What `wentu up` runs: modules, addresses, and the settings that differ from their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.up.ports import Place

NAMES = ("gateway", "encoder", "retriever", "imagestore")
OLD_ENCODER = "old-encoder"


@dataclass(frozen=True)
class Service:
    """A service: its name, module and place.

    `settings` are environment variables: unlike flags, other users of the machine cannot read them, and there may be a
    password in them. `health` are the names of the health service that must all serve before it is ready.
    `must_serve`: start the service again if it reports for a long time that it does not serve. That does not help a
    store that waits for its disk or its server.
    """

    name: str
    module: str
    place: Place
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    health: Sequence[str] = ("",)
    must_serve: bool = False

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """`own` with the settings. Services read the names of variables in any case, so none may be there twice."""
        return {name: value for name, value in own.items() if name.upper() not in self.settings} | dict(self.settings)


def elsewhere(environment: Mapping[str, str]) -> dict[str, str]:
    """The services that run somewhere else, with their addresses: those that the gateway's own variables name."""
    given = {name: environment.get(f"WENTU_GATEWAY_{name.upper()}", "") for name in NAMES[1:]}
    return {name: address for name, address in given.items() if address}


def services(
    data: Path,
    places: Mapping[str, Place],
    model: str,
    milvus: str,
    mysql: str,
    old_model: str = "",
    architecture: str = "",
    precision: str = "",
    other_encoders: str = "",
) -> list[Service]:
    """The services to run, in the order of their start, the gateway last. A service without a place is left out."""
    precise = {"WENTU_ENCODER_PRECISION": precision} if precision else {}
    tuned = {"WENTU_ENCODER_ARCHITECTURE": architecture} if architecture else {}
    settings = {
        "encoder": {"WENTU_ENCODER_MODEL": model, **tuned, **precise},
        # --architecture is about the new model. The old one may have another architecture.
        OLD_ENCODER: {"WENTU_ENCODER_MODEL": old_model, "WENTU_ENCODER_ARCHITECTURE": "", **precise},
        "retriever": {"WENTU_RETRIEVER_MILVUS": milvus or str(data / "milvus.db")},
        "imagestore": {"WENTU_IMAGESTORE_DATABASE": mysql or str(data / "images.db")},
    }
    wanted = [
        Service(name, f"services.{name.removeprefix('old-')}", places[name], values, must_serve="encoder" in name)
        for name, values in settings.items()
        if name in places
    ]
    reached = {f"WENTU_GATEWAY_{name.upper()}": places[name].address for name in NAMES[1:] if name in places}
    if OLD_ENCODER in places:
        others = filter(None, (places[OLD_ENCODER].address, other_encoders))
        reached["WENTU_GATEWAY_OTHER_ENCODERS"] = ",".join(others)
    # Those that need the other services: the gateway serves before it has reached them.
    health = tuple(f"wentu.v1.{name}Service" for name in ("Search", "Image", "Collection"))
    return [*wanted, Service("gateway", "gateway", places["gateway"], reached, health)]
