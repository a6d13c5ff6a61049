"""python -m services.imagestore: settings, database, store, server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError

from services.common import server
from services.common.logs import configure_logs
from services.common.settings import load_settings
from services.imagestore import service
from services.imagestore.database import Database
from services.imagestore.settings import ImageStoreSettings
from services.imagestore.store import BlobStore


@asynccontextmanager
async def running(settings: ImageStoreSettings) -> AsyncIterator[int]:
    """A started image store; yields its port."""
    async with AsyncExitStack() as stack:
        store = BlobStore(await asyncio.to_thread(Database, settings), settings)
        stack.callback(store.close)
        checks = {"": store.check, service.NAME: store.check}
        add = service.ImageStoreServicer(store).add_to
        yield await stack.enter_async_context(server.running(settings, [service.NAME], [add], checks))


async def main() -> None:
    settings = load_settings(ImageStoreSettings, "wentu-imagestore")
    configure_logs("imagestore", settings.log_level, settings.log_format)
    try:
        async with running(settings):
            await server.until_stopped(settings)
    except (SQLAlchemyError, ValueError) as error:
        sys.exit(f"wentu-imagestore: {type(error).__name__}: {str(error.__cause__ or error)[:500]}")


if __name__ == "__main__":
    asyncio.run(main())
