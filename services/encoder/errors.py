"""What can go wrong before the encoder serves."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be loaded; the message says what was looked for and where."""
