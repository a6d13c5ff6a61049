"""What the services share: settings, life, health, errors, logs, calls, the grammar of ids, opening images safely."""

__version__ = "0.1.0"
