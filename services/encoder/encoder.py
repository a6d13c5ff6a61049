"""The encoder: limits, preparation, batching and one engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidField
from services.common.fingerprint import Fingerprint
from services.common.ids import check_count
from services.encoder.batcher import Batcher
from services.encoder.checkpoints import LoadedModel
from services.encoder.engine import Engine, Vectors
from services.encoder.pictures import Picture, read_picture
from services.encoder.settings import EncoderSettings
from services.encoder.texts import Tokens, tokenize_text

# How long a computed batch speaks for its tower. Asking an idle one costs a text or a picture.
TEXTS_FRESH_SECONDS = 2.0
IMAGES_FRESH_SECONDS = 30.0


@dataclass(frozen=True)
class EncodedText:
    vector: list[float]
    token_count: int
    truncated: bool


@dataclass(frozen=True)
class EncodedImage:
    vector: list[float]
    media_type: str
    width: int
    height: int


@dataclass(frozen=True)
class Similarity:
    score: float
    logit: float
    probability: float


class Encoder:
    """Texts and pictures to unit vectors. Must be made inside a running event loop."""

    def __init__(self, model: LoadedModel, engine: Engine, settings: EncoderSettings) -> None:
        self.fingerprint: Fingerprint = model.fingerprint
        self.engine = engine
        self.image_resolution = model.image_resolution
        self.settings = settings
        self._logit_scale = model.logit_scale
        self._decoders = ThreadPoolExecutor(settings.threads, thread_name_prefix="decode")
        self._texts: Batcher[list[int]] = Batcher(
            "texts", self._compute_texts, max_batch=settings.text_batch, max_queue=settings.max_queue
        )
        self._images: Batcher[npt.NDArray[np.uint8]] = Batcher(
            "pictures", self._compute_images, max_batch=settings.image_batch, max_queue=settings.max_queue
        )

    async def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        """One result a text, in order. Raises InvalidField for the first text that cannot be encoded."""
        check_count(texts, "texts", self.settings.max_texts)
        tokens = [self._tokens(text, f"texts[{place}]") for place, text in enumerate(texts)]
        vectors = await self._texts.submit([each.ids for each in tokens])
        return [EncodedText(vector, each.count, each.truncated) for vector, each in zip(vectors, tokens, strict=True)]

    async def encode_images(self, images: Sequence[bytes]) -> list[EncodedImage | InvalidField]:
        """One result a picture, in order: its vector, or why it has none."""
        check_count(images, "images", self.settings.max_images)
        self._images.check_room(len(images))
        loop = asyncio.get_running_loop()
        pictures = await asyncio.gather(
            *(
                loop.run_in_executor(self._decoders, self._picture, data, f"images[{place}]")
                for place, data in enumerate(images)
            )
        )
        readable = [picture for picture in pictures if isinstance(picture, Picture)]
        vectors = iter(await self._images.submit([picture.pixels for picture in readable]) if readable else ())
        return [
            EncodedImage(next(vectors), picture.media_type, picture.width, picture.height)
            if isinstance(picture, Picture)
            else picture
            for picture in pictures
        ]

    async def compare(self, image: bytes, texts: Sequence[str]) -> list[Similarity]:
        """Similarity of one picture and each text, as in cn_clip's `CLIP.get_similarity` (cn_clip/clip/model.py)."""
        encoded_texts, [encoded_image] = await asyncio.gather(self.encode_texts(texts), self.encode_images([image]))
        if isinstance(encoded_image, InvalidField):
            raise type(encoded_image)("image", encoded_image.problem)
        scores = np.array([text.vector for text in encoded_texts]) @ np.array(encoded_image.vector)
        logits = self._logit_scale * scores
        weights = np.exp(logits - logits.max())
        shares = weights / weights.sum()
        return [
            Similarity(float(score), float(logit), float(share))
            for score, logit, share in zip(scores, logits, shares, strict=True)
        ]

    async def check(self) -> None:
        """Passes where both towers still give vectors, through their queues, workers and the engine.

        A tower at work shows it by its batches; an idle one is asked for a vector. So a queue that is long, and moves,
        does not look like a failure.
        """
        blank = np.zeros((3, self.image_resolution, self.image_resolution), dtype=np.uint8)
        await self._texts.check(self._tokens("好", "texts").ids, TEXTS_FRESH_SECONDS)
        await self._images.check(blank, IMAGES_FRESH_SECONDS)

    async def warm_up(self) -> None:
        """Runs both towers once, so that no caller pays for what is done on first use."""
        resolution = self.image_resolution
        await self._texts.submit([self._tokens("一张图片", "texts").ids])
        await self._images.submit([np.zeros((3, resolution, resolution), dtype=np.uint8)])

    async def close(self) -> None:
        await self._texts.close()
        await self._images.close()
        self._decoders.shutdown()

    def _tokens(self, text: str, field: str) -> Tokens:
        return tokenize_text(text, max_chars=self.settings.max_text_chars, field=field)

    def _picture(self, data: bytes, field: str) -> Picture | InvalidField:
        try:
            return read_picture(
                data,
                self.image_resolution,
                max_bytes=self.settings.max_image_bytes,
                max_pixels=self.settings.max_image_pixels,
                field=field,
            )
        except InvalidField as error:
            return error

    def _compute_texts(self, ids: Sequence[list[int]]) -> Vectors:
        padded = np.zeros((len(ids), max(map(len, ids))), dtype=np.int64)
        for row, each in enumerate(ids):
            padded[row, : len(each)] = each
        return self.engine.encode_texts(padded)

    def _compute_images(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> Vectors:
        return self.engine.encode_images(np.stack(pixels))
