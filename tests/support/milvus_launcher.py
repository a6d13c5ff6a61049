"""Starts Milvus standalone as its launcher does. It can also reuse the port of a server that was killed just before."""

from __future__ import annotations

import socket

import milvus


def bind(_: milvus.MilvusServerConfig, port: int) -> socket.socket | None:
    """The launcher's own, and connections that are still being closed do not keep the port."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
        found.listen()
    except OSError:
        found.close()
        return None
    return found


if __name__ == "__main__":
    milvus.MilvusServerConfig.try_bind_port = bind
    milvus.main()
