"""The encoder against its reference: cn_clip's own encode_text and encode_image on the same checkpoint."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from services.common.errors import InvalidField, Overloaded, ShuttingDown
from services.encoder import texts as texts_module
from services.encoder.batcher import Batcher
from services.encoder.checkpoints import DEMO_FOLDER, LoadedModel, ModelError, load_model, named_config
from services.encoder.cn_clip_import import CLIP, convert_weights, image_transform, tokenize
from services.encoder.encoder import EncodedImage, Encoder
from services.encoder.engine import Engine
from services.encoder.engine_openvino import OpenVinoEngine
from services.encoder.engine_torch import TorchEngine
from services.encoder.settings import EncoderSettings
from tests.pictures import drawn, encoded, gallery
from tests.test_bad_input import odd_pictures

SENTENCES = [
    "猫",
    "一个男孩在泳池里滑滑梯",
    "A red apple 红苹果！",
    "很长的句子" * 20,
    "下雨天打伞的女人，旁边有一只小狗",
]
LEAST_COSINE = {"f32": 0.99999, "bf16": 0.999}


def save_random(folder: Path, name: str) -> Path:
    """A checkpoint in cn_clip's format with random weights, of one of its own architectures."""
    torch.manual_seed(1)
    module = CLIP(**named_config(name))
    convert_weights(module)
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    path = folder / f"{name}.pt"
    torch.save({"epoch": 1, "name": name, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module", params=["demo", "RN50", "ViT-B-16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """The demo model, and two of cn_clip's architectures in full size."""
    if request.param == "demo":
        yield load("demo")
    else:
        path = save_random(tmp_path_factory.mktemp("checkpoint"), request.param)
        yield load(str(path), architecture=request.param)
        path.unlink()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Towers converted once: the second precision reads them from the cache."""
    return tmp_path_factory.mktemp("converted")


def load(model: str, architecture: str = "") -> LoadedModel:
    return load_model(model, architecture=architecture, cache=Path("/nonexistent"), hub="huggingface")


def reference(model: LoadedModel, pictures: list[bytes]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Unit vectors of SENTENCES and of the pictures, by cn_clip alone: its tokenizer, transform and module."""
    transform = image_transform(model.image_resolution)
    with torch.inference_mode():
        texts = model.module.encode_text(tokenize(SENTENCES))
        pixels = torch.stack([transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in pictures])
        images = model.module.encode_image(pixels)
    return tuple((each / each.norm(dim=-1, keepdim=True)).numpy() for each in (texts, images))


def make_engine(model: LoadedModel, kind: str, precision: str, cache: Path = Path("/nonexistent/x")) -> Engine:
    if kind == "openvino":
        return OpenVinoEngine(model.module, model.image_resolution, precision, 2, cache)
    import copy

    return TorchEngine(copy.deepcopy(model.module), "cpu", precision, 2)


@pytest.mark.parametrize(
    ("kind", "precision"), [("openvino", "f32"), ("openvino", "bf16"), ("torch", "f32"), ("torch", "bf16")]
)
async def test_parity_with_cn_clip(model: LoadedModel, kind: str, precision: str, converted: Path) -> None:
    pictures = [encoded(drawn(500, 375), "JPEG"), encoded(drawn(64, 300)), gallery()[7].data]
    wanted_texts, wanted_images = reference(model, pictures)
    cache = converted / model.fingerprint.checkpoint_sha256
    encoder = Encoder(model, make_engine(model, kind, precision, cache), EncoderSettings())
    try:
        texts = np.array([text.vector for text in await encoder.encode_texts(SENTENCES)])
        images = np.array(
            [image.vector for image in await encoder.encode_images(pictures) if isinstance(image, EncodedImage)]
        )
    finally:
        await encoder.close()
    for got, wanted in ((texts, wanted_texts), (images, wanted_images)):
        assert np.linalg.norm(got, axis=1) == pytest.approx(1, abs=1e-5)
        cosines = (got * wanted).sum(axis=1)
        assert cosines.min() >= LEAST_COSINE[precision], cosines


@pytest.fixture
async def encoder() -> Any:
    made = Encoder(load("demo"), make_engine(load("demo"), "torch", "f32"), EncoderSettings(max_texts=8, max_images=32))
    yield made
    await made.close()


def test_tokens_are_cn_clips() -> None:
    for text in SENTENCES:
        tokens = texts_module.tokenize_text(text, max_chars=10_000, field="text")
        row = tokenize([text])[0]
        assert tokens.ids == row[row.ne(0)].tolist()
        assert tokens.truncated == (tokens.count > 52)


async def test_batched_or_alone_is_the_same(encoder: Encoder) -> None:
    together = await encoder.encode_texts(SENTENCES)
    alone = [(await encoder.encode_texts([text]))[0] for text in SENTENCES]
    for one, two in zip(together, alone, strict=True):
        assert np.dot(one.vector, two.vector) >= 0.99999


async def test_odd_pictures_become_what_they_show(encoder: Encoder) -> None:
    """The same drawing in every form has nearly the same vector; the rotated one is turned upright."""
    plain, turned = await encoder.encode_images([encoded(drawn()), encoded(drawn().rotate(-90, expand=True))])
    assert isinstance(plain, EncodedImage)
    assert isinstance(turned, EncodedImage)
    odd = odd_pictures()
    same = ["animated GIF", "CMYK", "RGBA", "TIFF", "BMP", "WebP", "AVIF", "JPEG 2000"]
    for name, result in zip(same, await encoder.encode_images([odd[name] for name in same]), strict=True):
        assert isinstance(result, EncodedImage)
        assert np.dot(result.vector, plain.vector) > 0.97, name
    [rotated] = await encoder.encode_images([odd["EXIF-rotated"]])
    assert isinstance(rotated, EncodedImage)
    assert np.dot(rotated.vector, turned.vector) > 0.97


async def test_16_bits_and_transparency_become_8_bits_on_white() -> None:
    from services.common.pictures import to_rgb

    grey = Image.fromarray(np.array([[0, 65535], [32896, 257]], dtype=np.uint16))
    assert np.asarray(to_rgb(grey))[:, :, 0].tolist() == [[0, 255], [128, 1]]
    clear = Image.new("RGBA", (1, 1), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)


async def test_a_bad_picture_fails_alone(encoder: Encoder) -> None:
    good = encoded(drawn())
    results = await encoder.encode_images([good, b"no picture", good])
    assert [isinstance(result, InvalidField) for result in results] == [False, True, False]


async def test_limits_are_named(encoder: Encoder) -> None:
    with pytest.raises(InvalidField, match=r"texts: must hold 1 to 8 items, got 9"):
        await encoder.encode_texts(["猫"] * 9)
    with pytest.raises(InvalidField, match=r"images: must hold 1 to 32 items, got 0"):
        await encoder.encode_images([])
    with pytest.raises(InvalidField, match=r"texts\[1\]: must hold a word"):
        await encoder.encode_texts(["猫", " "])


async def test_similarity_is_cn_clips(encoder: Encoder) -> None:
    """As cn_clip's functional test: CLIP.get_similarity, and the softmax of its logits."""
    model = load("demo")
    data = encoded(drawn())
    got = await encoder.compare(data, SENTENCES)
    with torch.inference_mode():
        pixels = image_transform(model.image_resolution)(Image.open(io.BytesIO(data)))[None]
        logits, _ = model.module.get_similarity(pixels, tokenize(SENTENCES))
        wanted = logits.softmax(dim=-1)[0].numpy()
    assert [each.logit for each in got] == pytest.approx(logits[0].tolist(), abs=1e-2)
    assert [each.probability for each in got] == pytest.approx(wanted.tolist(), abs=1e-3)


async def test_a_full_queue_refuses_and_a_cancelled_caller_harms_nobody() -> None:
    started, go_on = asyncio.Event(), __import__("threading").Event()
    loop = asyncio.get_running_loop()
    batches: list[list[int]] = []

    def compute(items: Any) -> npt.NDArray[np.float32]:
        batches.append(list(items))
        loop.call_soon_threadsafe(started.set)
        go_on.wait(10)
        return np.array([[item, item] for item in items], dtype=np.float32)

    batcher: Batcher[int] = Batcher("numbers", compute, max_batch=4, max_queue=5)
    first = asyncio.create_task(batcher.submit([1]))
    await started.wait()
    others = [asyncio.create_task(batcher.submit([number])) for number in (2, 3, 4, 5, 6)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit([7])
    others[1].cancel()
    await asyncio.sleep(0.01)
    go_on.set()
    assert await first == [[1, 1]]
    assert await others[0] == [[2, 2]]
    assert [await other for other in others[2:]] == [[[4, 4]], [[5, 5]], [[6, 6]]]
    assert batches == [[1], [2, 4, 5, 6]], "the cancelled item never reached the device"
    await batcher.close()
    with pytest.raises(ShuttingDown):
        await batcher.submit([8])


def test_models_that_cannot_be_had_say_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no checkpoint at .*nowhere\.pt, and the names are demo, ViT-B-16"):
        load(str(tmp_path / "nowhere.pt"))
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match=r"has no config\.json beside it"):
        load(str(broken))
    with pytest.raises(ModelError, match="is no checkpoint in cn_clip's format"):
        load(str(broken), architecture="RN50")
    (tmp_path / "config.json").write_text(json.dumps(named_config("RN50")))
    (tmp_path / "model.pt").write_bytes((DEMO_FOLDER / "model.pt").read_bytes())
    with pytest.raises(ModelError, match="does not fit its configuration"):
        load(str(tmp_path))
