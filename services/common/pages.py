"""Pages of messages, which end before they are too large for one answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

from google.protobuf.message import Message

Item = TypeVar("Item", bound=Message)


def fitting(messages: Iterable[Item], size: int, max_message_bytes: int) -> Sequence[Item]:
    """The first of `messages`, at most `size` and at most half of an answer's bytes, but one at least.

    Half: who passes a page on adds to each of them.
    """
    found = list(messages)[:size]
    ends = accumulate(message.ByteSize() for message in found)
    return found[: max(1, sum(end <= max_message_bytes // 2 for end in ends))]
