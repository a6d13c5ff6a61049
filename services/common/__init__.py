"""Code that the services share: settings, servers, health, errors, logs, calls, ids, and the safe opening of images."""

__version__ = "0.1.0"
