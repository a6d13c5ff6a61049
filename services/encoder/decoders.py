"""Decodes and resizes images in threads, while the device computes earlier ones."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from services.common.budget import ByteBudget
from services.common.calls import seconds_left
from services.common.errors import DeadlineExceeded, InvalidField, UpstreamUnavailable
from services.encoder.metrics import EncoderMetrics
from services.encoder.preprocessing import DecodedImage, read_image_file
from services.encoder.priority import give_way
from services.encoder.settings import EncoderSettings


class Decoders:
    """A bounded pool of threads. Pillow releases the interpreter's lock while it works."""

    def __init__(self, settings: EncoderSettings, resolution: int, metrics: EncoderMetrics) -> None:
        self._settings, self._resolution, self._metrics = settings, resolution, metrics
        self._budget = ByteBudget(settings.max_decoding_bytes, "decoding")
        self._threads: list[threading.Thread] = []
        self._pool = ThreadPoolExecutor(
            settings.threads,
            thread_name_prefix="decode",
            initializer=self._begin,
        )

    async def read(self, data: bytes, field: str) -> DecodedImage | InvalidField:
        """The image, or the error of an unreadable one. Raises DeadlineExceeded if it starts too late."""
        left = seconds_left()
        deadline = None if left is None else time.monotonic() + left
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, data, field, deadline)

    def check(self) -> None:
        """Raises UpstreamUnavailable if a thread died, since its image would never be answered."""
        if not all(thread.is_alive() for thread in self._threads):
            raise UpstreamUnavailable("decoder", "a thread that decodes images died")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        give_way()
        self._threads.append(threading.current_thread())

    def _read(self, data: bytes, field: str, deadline: float | None) -> DecodedImage | InvalidField:
        started = time.monotonic()
        if deadline is not None and deadline <= started:
            self._metrics.dropped.labels("images", "expired").inc()
            raise DeadlineExceeded("the deadline passed before the image was decoded")
        try:
            with self._budget.share() as share:
                return read_image_file(
                    data,
                    self._resolution,
                    max_bytes=self._settings.max_image_bytes,
                    max_pixels=self._settings.max_image_pixels,
                    field=field,
                    claim=lambda size: share.take(size, None if deadline is None else deadline - time.monotonic()),
                )
        except InvalidField as error:
            return error
        finally:
            self._metrics.decode.observe(time.monotonic() - started)
