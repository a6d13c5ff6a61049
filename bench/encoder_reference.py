"""What the encoder is measured against: cn_clip as its tutorials run it, and the bare engine in a loop."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image

from services.encoder.cn_clip_import import image_transform, tokenize
from services.encoder.engine import Engine
from services.encoder.preprocessing import DecodedImage, read_image_file
from services.encoder.settings import EncoderSettings
from services.encoder.texts import padded, padded_length, tokenize_text


def seconds_of(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def eager_text(module: Any, text: str) -> None:
    """cn_clip's encode_text, eager, fp32, with the 52 tokens that its tokenize pads to."""
    with torch.inference_mode():
        module.encode_text(tokenize([text]))


def eager_images(module: Any, files: Sequence[bytes], resolution: int) -> None:
    """cn_clip's transform, one image after the other, and its encode_image, eager, fp32, on all as one batch."""
    transform = image_transform(resolution)
    with torch.inference_mode():
        module.encode_image(torch.stack([transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]))


def bare_text(engine: Engine, text: str) -> None:
    engine.encode_texts(padded([tokens(text)]))


def tokens(text: str) -> tuple[int, ...]:
    return tokenize_text(text, max_chars=1000, field="text").ids


def bare_text_batches(engine: Engine, texts: Sequence[str]) -> int:
    """All of `texts`, by length, in the engine's batches; returns how many batches."""
    ids = sorted((tokens(text) for text in texts), key=padded_length)
    batches = [
        alike[start : start + engine.text_batch]
        for length in sorted({padded_length(each) for each in ids})
        for alike in [[each for each in ids if padded_length(each) == length]]
        for start in range(0, len(alike), engine.text_batch)
    ]
    for batch in batches:
        engine.encode_texts(padded(batch))
    return len(batches)


def bare_images(engine: Engine, files: Sequence[bytes], resolution: int, settings: EncoderSettings) -> None:
    """Decoded by as many threads as the encoder has, a batch ahead of the engine, in the engine's batches."""
    with ThreadPoolExecutor(settings.threads) as pool:

        def decoded(batch: Sequence[bytes]) -> list[Any]:
            return [pool.submit(_read, data, resolution, settings) for data in batch]

        size = engine.image_batch
        ahead: Iterator[Sequence[bytes]] = iter([files[start : start + size] for start in range(0, len(files), size)])
        ready = decoded(next(ahead))
        while ready:
            pixels = np.stack([each.result().pixels for each in ready])
            ready = decoded(next(ahead, ()))
            engine.encode_images(pixels)


def _read(data: bytes, resolution: int, settings: EncoderSettings) -> DecodedImage:
    return read_image_file(
        data, resolution, max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels, field="image"
    )
