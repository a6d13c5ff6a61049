"""Builds pages of messages that fit into one answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

from google.protobuf.message import Message

Item = TypeVar("Item", bound=Message)


def fitting(messages: Iterable[Item], size: int, max_message_bytes: int) -> Sequence[Item]:
    """The first of `messages`: at least one, at most `size`, and at most half of an answer's bytes.

    Only half, since a service that forwards a page adds data to each message.
    """
    found: list[Item] = []
    size_bytes = 0
    for message in islice(messages, size):
        size_bytes += message.ByteSize()
        if found and size_bytes > max_message_bytes // 2:
            break  # later messages are not built
        found.append(message)
    return found
