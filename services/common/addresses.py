"""Hosts and ports as text."""

from __future__ import annotations


def host_port(host: str, port: int) -> str:
    """The text `host:port`. An IPv6 address is put in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
