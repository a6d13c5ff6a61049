"""The error that ends a command: one line for a person, and an exit code."""

from __future__ import annotations


class CommandError(Exception):
    """The message states the problem and the remedy. The edge prints it and ends the program with code 1."""
