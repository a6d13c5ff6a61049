"""The encoder: checks limits, prepares inputs, and computes them in batches with one engine."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from services.common.calls import seconds_left
from services.common.errors import DeadlineExceeded, InvalidField
from services.common.fingerprint import Fingerprint
from services.common.ids import check_count
from services.common.thread_pool import ThreadPool
from services.encoder.batcher import Batcher, Vector
from services.encoder.checkpoints import Checkpoint
from services.encoder.decoders import Decoders
from services.encoder.engine import Engine
from services.encoder.fidelity import Fidelity
from services.encoder.metrics import EncoderMetrics
from services.encoder.preprocessing import DecodedImage
from services.encoder.settings import EncoderSettings
from services.encoder.texts import CONTEXT_LENGTH, LENGTHS, Tokens, batch_key, padded, tokenize_text

# A tower counts as healthy for this long after a batch. Asking an idle tower costs one text or image.
TEXTS_FRESH_SECONDS = 2.0
IMAGES_FRESH_SECONDS = 30.0
# A call with at most this many characters is tokenized on the event loop: about one millisecond of work.
MAX_CHARS_AT_ONCE = 1024


@dataclass(frozen=True)
class EncodedText:
    """`vector` [dim], of length 1. `token_count`: as `count` of Tokens."""

    vector: Vector
    token_count: int
    truncated: bool


@dataclass(frozen=True)
class EncodedImage:
    """`vector` [dim], of length 1."""

    vector: Vector
    media_type: str
    width: int
    height: int


@dataclass(frozen=True)
class Similarity:
    score: float
    logit: float
    probability: float


class Encoder:
    """Texts and images to unit vectors. Must be made inside a running event loop."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        engine: Engine,
        settings: EncoderSettings,
        metrics: EncoderMetrics,
        fidelity: Fidelity | None = None,
    ) -> None:
        """`fidelity` of the engine, if it was measured."""
        self.fingerprint: Fingerprint = checkpoint.fingerprint
        self.engine = engine
        self.fidelity = fidelity
        self.image_resolution = checkpoint.image_resolution
        self.settings = settings
        self.metrics = metrics
        # The key is the token ids, since the model sees nothing else of a text.
        self._cache: LRUCache[tuple[int, ...], Vector] = LRUCache(settings.text_cache)
        self._tokenizers = ThreadPool(1, "tokenize")
        self._decoders = Decoders(settings, self.image_resolution, metrics)
        self._texts: Batcher[tuple[int, ...]] = Batcher(
            "texts",
            lambda batch: engine.encode_texts(padded(batch)),
            metrics,
            max_batch=settings.text_batch or engine.text_batch,
            max_items=settings.max_queue_texts,
            alike=partial(batch_key, exact=engine.precision != "f32"),
        )
        self._images: Batcher[npt.NDArray[np.uint8]] = Batcher(
            "images",
            lambda batch: engine.encode_images(np.stack(batch)),
            metrics,
            max_batch=settings.image_batch or engine.image_batch,
            max_items=settings.max_queue_images,
            max_bytes=settings.max_queue_bytes,
        )

    async def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        """One result per text, in order. Raises InvalidField for the first invalid text, and Overloaded."""
        check_count(texts, "texts", self.settings.max_texts)
        tokens = await self._tokenized(list(texts))
        vectors = {each.ids: self._cache.get(each.ids) for each in tokens}
        missing = [ids for ids, vector in vectors.items() if vector is None]
        self.metrics.cached.labels("hit").inc(len(tokens) - len(missing))
        self.metrics.cached.labels("miss").inc(len(missing))
        if missing:
            with self._texts.admitted(len(missing)):
                computed = dict(zip(missing, await self._texts.submit(missing), strict=True))
            vectors |= computed
            if self._cache.maxsize:
                self._cache.update(computed)
        return [EncodedText(vectors[each.ids], each.count, each.truncated) for each in tokens]  # type: ignore[arg-type]

    async def encode_images(self, images: Sequence[bytes]) -> list[EncodedImage | InvalidField]:
        """One result per image, in order: its vector or its error. Raises Overloaded before any image is decoded."""
        check_count(images, "images", self.settings.max_images)
        with self._images.admitted(len(images), sum(map(len, images))):
            return await asyncio.gather(*(self._image(data, f"images[{place}]") for place, data in enumerate(images)))

    async def compare(self, image: bytes, texts: Sequence[str]) -> list[Similarity]:
        """Similarity of one image and each text, as in cn_clip's `CLIP.get_similarity` (cn_clip/clip/model.py)."""
        encoded_texts, [encoded_image] = await asyncio.gather(self.encode_texts(texts), self.encode_images([image]))
        if isinstance(encoded_image, InvalidField):
            raise type(encoded_image)("image", encoded_image.problem)
        scores = np.stack([text.vector for text in encoded_texts]) @ encoded_image.vector
        logits = self.engine.logit_scale * scores
        weights = np.exp(logits - logits.max())
        shares = weights / weights.sum()
        return [
            Similarity(float(score), float(logit), float(share))
            for score, logit, share in zip(scores, logits, shares, strict=True)
        ]

    async def check(self) -> None:
        """Pass if both towers still compute vectors, through their queues, workers and the engine.

        A recent batch shows that a tower works. An idle tower is asked for a vector. So a long queue that moves does
        not look like a failure.
        """
        self._decoders.check()
        await self._images.check(self._blank(), IMAGES_FRESH_SECONDS)
        await self._texts.check(self._tokens("好", "texts").ids, TEXTS_FRESH_SECONDS)

    async def warm_up(self) -> None:
        """Run both towers once, with each text length, so that no caller waits for work that is done at first use."""
        ids = self._tokens("图" * CONTEXT_LENGTH, "texts").ids
        for length in LENGTHS:
            await self._texts.submit([ids[:length]])
        await self._images.submit([self._blank()])

    async def close(self) -> None:
        await self._texts.close()
        await self._images.close()
        self._tokenizers.close()
        self._decoders.close()

    def _blank(self) -> npt.NDArray[np.uint8]:
        return np.zeros((3, self.image_resolution, self.image_resolution), dtype=np.uint8)

    async def _tokenized(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize short texts at once, faster than in a thread, and long ones in a bounded pool of threads."""
        if sum(map(len, texts)) <= MAX_CHARS_AT_ONCE:
            return self._all_tokens(texts)
        left = seconds_left()
        deadline = math.inf if left is None else time.monotonic() + left
        with self._texts.admitted(len(texts)):
            return await self._tokenizers.run(self._all_tokens, texts, deadline)

    def _all_tokens(self, texts: Sequence[str], deadline: float = math.inf) -> list[Tokens]:
        found = []
        for place, text in enumerate(texts):
            if time.monotonic() > deadline:
                self.metrics.dropped.labels("texts", "expired").inc(len(texts))
                raise DeadlineExceeded("the deadline passed before the texts were tokenized")
            found.append(self._tokens(text, f"texts[{place}]"))
        return found

    def _tokens(self, text: str, field: str) -> Tokens:
        return tokenize_text(text, max_chars=self.settings.max_text_chars, field=field)

    async def _image(self, data: bytes, field: str) -> EncodedImage | InvalidField:
        """Each image goes to the device as soon as it is decoded, without waiting for the others of its call."""
        image = await self._decoders.read(data, field)
        if not isinstance(image, DecodedImage):
            return image
        [vector] = await self._images.submit([image.pixels])
        return EncodedImage(vector, image.media_type, image.width, image.height)
