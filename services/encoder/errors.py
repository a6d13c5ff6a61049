"""Errors before the encoder serves."""

from __future__ import annotations

from services.common.errors import StartError


class ModelError(StartError):
    """A model cannot be loaded; the message says what was looked for and where."""
