from __future__ import annotations

import random
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any


class Step:
    """Awaited wherever another coroutine may go on."""

    def __await__(self) -> Generator[None, None, None]:
        yield


@dataclass
class Actor:
    """A coroutine, and when it ran: in ticks, which all actors of a run share."""

    name: str
    work: Coroutine[Any, Any, Any]
    # Another actor that must have ended before.
    after: Actor | None = None
    started: int | None = None
    ended: int | None = None
    result: Any = None
    error: BaseException | None = None

    @property
    def acknowledged(self) -> bool:
        return self.ended is not None and self.error is None


def run(rng: random.Random, actors: list[Actor], kill_rate: float = 0.0) -> None:
    running = list(actors)
    tick = 0
    while ready := [actor for actor in running if actor.after not in running]:
        tick += 1
        actor = rng.choice(ready)
        if actor.started is None:
            actor.started = tick
        if rng.random() < kill_rate:
            actor.work.close()
            running.remove(actor)
            continue
        try:
            actor.work.send(None)
        except StopIteration as ending:
            actor.result, actor.ended = ending.value, tick
            running.remove(actor)
        except Exception as error:  # a refusal is an outcome like any other
            actor.error, actor.ended = error, tick
            running.remove(actor)


def drive(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns when nothing else runs."""
    alone = Actor("alone", work)
    run(random.Random(0), [alone])
    if alone.error is not None:
        raise alone.error
    return alone.result
