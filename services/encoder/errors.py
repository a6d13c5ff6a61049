"""Errors before the encoder serves."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be loaded. The message names it and the places that were searched."""
