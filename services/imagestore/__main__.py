"""python -m services.imagestore: settings, database, store, server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError

from services.common import server
from services.common.errors import StartError
from services.common.main import run_service
from services.imagestore import service
from services.imagestore.database import Database
from services.imagestore.settings import ImageStoreSettings
from services.imagestore.store import BlobStore


@asynccontextmanager
async def running(settings: ImageStoreSettings) -> AsyncIterator[int]:
    """A started image store; yields its port."""
    async with AsyncExitStack() as stack:
        store = BlobStore(await asyncio.to_thread(_opened, settings), settings)
        stack.callback(store.close)
        checks = {"": store.check, service.NAME: store.check}
        add = service.ImageStoreServicer(store).add_to
        yield await stack.enter_async_context(server.running(settings, [service.NAME], [add], checks))


def _opened(settings: ImageStoreSettings) -> Database:
    try:
        return Database(settings)
    except (SQLAlchemyError, ValueError) as error:
        raise StartError(f"{type(error).__name__}: {str(error.__cause__ or error)[:500]}") from error


if __name__ == "__main__":
    run_service("imagestore", ImageStoreSettings, running)
