"""What the rooms share: settings, life, health, errors, logs, calls, the grammar of ids, opening pictures safely."""

__version__ = "0.1.0"
