"""The encoder against its reference: cn_clip's own encode_text and encode_image on the same checkpoint."""

from __future__ import annotations

import asyncio
import io
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino.opset13 as opset13
import pytest
import torch
from PIL import Image
from prometheus_client import CollectorRegistry
from torch import Tensor

from protos import types_pb2
from services.common.embeddings import to_embedding
from services.common.errors import DeadlineExceeded, InvalidField, Overloaded
from services.encoder import texts as texts_module
from services.encoder.activations import unfused
from services.encoder.checkpoints import Checkpoint, find_checkpoint
from services.encoder.cn_clip_import import image_transform, tokenize
from services.encoder.encoder import EncodedImage, Encoder
from services.encoder.engine import Engine, unit
from services.encoder.engine_openvino import OpenVinoEngine, can_compute
from services.encoder.engine_torch import TorchEngine
from services.encoder.engines import make_engine as engine_of
from services.encoder.errors import ModelError
from services.encoder.metrics import EncoderMetrics
from services.encoder.module import load_module, logit_scale
from services.encoder.settings import EncoderSettings
from services.encoder.static_shapes import Tower
from services.encoder.towers import ImageTower
from tests.support.checkpoints import save_random
from tests.support.cn_clip_texts import data_code
from tests.support.images import drawn, encoded, gallery
from tests.system.test_bad_input import unusual_images

SENTENCES = [
    "猫",
    "一个男孩在泳池里滑滑梯",
    "A red apple 红苹果！",
    "很长的句子" * 20,
    "下雨天打伞的女人，旁边有一只小狗",
]
MIN_COSINE = {"f32": 0.99999, "bf16": 0.999}


@pytest.fixture(scope="module", params=["demo", "RN50", "ViT-B-16"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """The demo model, and two of cn_clip's architectures in full size."""
    if request.param == "demo":
        yield find("demo")
    else:
        path = save_random(tmp_path_factory.mktemp("checkpoint"), request.param)
        yield find(str(path), architecture=request.param)
        path.unlink()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Towers converted once: the second precision reads them from the cache."""
    return tmp_path_factory.mktemp("converted")


def find(model: str, architecture: str = "") -> Checkpoint:
    return find_checkpoint(model, architecture=architecture, cache=Path("/nonexistent"), hub="huggingface")


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [encoded(drawn(500, 375), "JPEG"), encoded(drawn(64, 300)), gallery()[7].data]


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint, images: list[bytes]) -> tuple[npt.NDArray[Any], ...]:
    """Unit vectors of SENTENCES and of the images, by cn_clip alone: its tokenizer, transform and module."""
    transform = image_transform(checkpoint.image_resolution)
    module = load_module(checkpoint)
    with torch.inference_mode():
        texts = module.encode_text(tokenize(SENTENCES))
        pixels = torch.stack([transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in images])
        encoded_images = module.encode_image(pixels)
    return tuple((each / each.norm(dim=-1, keepdim=True)).numpy() for each in (texts, encoded_images))


def make_engine(checkpoint: Checkpoint, kind: str, precision: str, cache: Path = Path("/nonexistent")) -> Engine:
    if kind == "openvino":
        return OpenVinoEngine(checkpoint, precision, 2, cache)
    return TorchEngine(checkpoint, "cpu", precision, 2)


@asynccontextmanager
async def encoder_of(checkpoint: Checkpoint, engine: Engine, **settings: Any) -> AsyncIterator[Encoder]:
    made = Encoder(checkpoint, engine, EncoderSettings(**settings), EncoderMetrics(CollectorRegistry()))
    yield made
    await made.close()


def cosines(one: Any, two: Any) -> npt.NDArray[Any]:
    """Cosines, row by row, of two arrays of unit vectors."""
    products: npt.NDArray[Any] = (np.array(one) * np.array(two)).sum(axis=1)
    return products


ENGINES = [("openvino", "f32"), ("openvino", "bf16"), ("torch", "f32")]


@pytest.mark.parametrize(("kind", "precision"), ENGINES)
async def test_parity_with_cn_clip_alone_and_among_others(
    checkpoint: Checkpoint,
    kind: str,
    precision: str,
    converted: Path,
    images: list[bytes],
    reference: tuple[npt.NDArray[Any], ...],
) -> None:
    """The vectors equal cn_clip's, whatever else is in the batch."""
    if precision == "bf16" and not can_compute(ov.Core(), "bf16"):
        with pytest.raises(ModelError, match="this processor does not compute in it"):
            make_engine(checkpoint, kind, precision, converted)
        return
    wanted_texts, wanted_images = reference
    async with encoder_of(checkpoint, make_engine(checkpoint, kind, precision, converted), text_cache=0) as encoder:
        texts = np.array([text.vector for text in await encoder.encode_texts(SENTENCES)])
        got_images = np.array([each.vector for each in await encoder.encode_images(images) if is_image(each)])
        crowd = [text + end for text in SENTENCES for end in ("", "？", "吗", "的人")]
        crowded = [text.vector for text in await encoder.encode_texts(crowd)][::4]
        alone = [(await encoder.encode_texts([text]))[0].vector for text in SENTENCES]
        images_crowded = [each.vector for each in await encoder.encode_images(images * 5) if is_image(each)][6:9]
    for got, wanted in ((texts, wanted_texts), (got_images, wanted_images)):
        assert np.linalg.norm(got, axis=1) == pytest.approx(1, abs=1e-5)
        assert cosines(got, wanted).min() >= MIN_COSINE[precision], cosines(got, wanted)
    for one, two in ((texts, crowded), (texts, alone), (got_images, images_crowded)):
        assert cosines(one, two).min() >= 0.99999, cosines(one, two)


def test_activations_are_the_same_when_written_out() -> None:
    x = opset13.parameter([1000], ov.Type.f32)
    kept = opset13.gelu(x, "tanh")
    model = ov.Model([opset13.gelu(x, "erf"), opset13.swish(x, np.float32(1.702)), kept], [x])
    values = np.linspace(-12, 12, 1000, dtype=np.float32)
    core = ov.Core()
    fused = list(core.compile_model(model, "CPU")([values]).values())
    written = list(core.compile_model(unfused(model), "CPU")([values]).values())
    left = [node.get_friendly_name() for node in model.get_ops() if node.get_type_name() in ("Gelu", "Swish")]
    assert left == [kept.get_friendly_name()]
    for one, other in zip(fused, written, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_torch_computes_in_f32_alone_on_a_cpu(device: str) -> None:
    with pytest.raises(ModelError, match="precision bf16: torch computes in it on CUDA alone"):
        engine_of(find("demo"), EncoderSettings(engine="torch", device=device, precision="bf16"))


def is_image(each: EncodedImage | InvalidField) -> TypeGuard[EncodedImage]:
    return isinstance(each, EncodedImage)


def plain_capture(tower: Tower, inputs: Tensor) -> Callable[[], Tensor]:
    """Stands for a CUDA graph: runs the tower again on the same memory."""
    return lambda: tower(inputs)


@pytest.mark.parametrize("checkpoint", ["demo", "RN50"], indirect=True)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_path_of_cuda_on_a_cpu(checkpoint: Checkpoint, precision: str) -> None:
    """The parts of the CUDA engine that a CPU can run: static shapes, padding, fused attention, channels_last, bf16."""
    engine = TorchEngine(checkpoint, "cpu", precision, 2, capture=plain_capture)
    plain = load_module(checkpoint)
    rng = np.random.default_rng(0)
    side = checkpoint.image_resolution
    pixels = rng.integers(0, 256, (5, 3, side, side), dtype=np.uint8)
    batch = texts_module.padded([texts_module.tokenize_text(text, max_chars=999, field="").ids for text in SENTENCES])
    with torch.inference_mode():
        wanted_texts = plain.encode_text(tokenize(SENTENCES)).numpy()
        scaled = ImageTower(plain)(torch.from_numpy(pixels)).numpy()
    encoders: list[tuple[Any, Any, Any]] = [
        (wanted_texts, engine.encode_texts, batch),
        (scaled, engine.encode_images, pixels),
    ]
    for wanted, encode, inputs in encoders:
        for count in (5, 3, 1, 4):  # after a larger batch, the padding of a smaller one holds old data
            got = encode(inputs[:count])
            assert got.shape[0] == count
            assert cosines(got, unit(wanted[:count])).min() >= MIN_COSINE[precision]
    assert engine.logit_scale == logit_scale(plain)


@pytest.fixture
async def encoder() -> AsyncIterator[Encoder]:
    engine = make_engine(find("demo"), "torch", "f32")
    async with encoder_of(find("demo"), engine, max_texts=8, max_images=32) as made:
        yield made


def test_tokens_are_cn_clips() -> None:
    for text in SENTENCES:
        tokens = texts_module.tokenize_text(text, max_chars=10_000, field="text")
        row = tokenize([text])[0]
        assert list(tokens.ids) == row[row.ne(0)].tolist()
        assert tokens.truncated == (tokens.count > 52)


QUOTED = ["“红色的苹果”", "“”", "他说：“下雨了”", "“Apple” 红苹果", "一只“猫”", "生日“快乐”！", "“好”的", "‘狗’"]


async def test_predictions_are_chinese_clips(converted: Path) -> None:
    """The ten best images of each text are the same by cn_clip's features and by ours, also with curly quotes.

    The oracle is Chinese-CLIP's own way: its data code's cleaning, tokenizer, transform and module, eager, in fp32.
    """
    checkpoint = find("demo")
    images = [each for each in gallery()[::4] if "A" not in Image.open(io.BytesIO(each.data)).mode]
    texts = [*QUOTED, *SENTENCES, *(each.attributes["captions"][0] for each in images[::8])]
    transform, module = image_transform(checkpoint.image_resolution), load_module(checkpoint)
    with torch.inference_mode():
        ids = tokenize([data_code("eval")(text) for text in texts])
        pixels = torch.stack([transform(Image.open(io.BytesIO(each.data))) for each in images])
        wanted_texts = unit(module.encode_text(ids).numpy())
        wanted_images = unit(torch.cat([module.encode_image(part) for part in torch.split(pixels, 64)]).numpy())
    async with encoder_of(checkpoint, make_engine(checkpoint, "openvino", "f32", converted)) as encoder:
        got_texts = np.array([each.vector for each in await encoder.encode_texts(texts)])
        parts = [images[start : start + 64] for start in range(0, len(images), 64)]
        encoded_images = [await encoder.encode_images([each.data for each in part]) for part in parts]
    got_images = np.array([each.vector for part in encoded_images for each in part if is_image(each)])
    assert len(got_images) == len(images) > 300
    got = np.argsort(-(got_texts @ got_images.T), axis=1, kind="stable")[:, :10]
    wanted = np.argsort(-(wanted_texts @ wanted_images.T), axis=1, kind="stable")[:, :10]
    for text, line, right in zip(texts, got.tolist(), wanted.tolist(), strict=True):
        assert line == right, text


async def test_a_text_asked_again_is_not_computed_again(encoder: Encoder) -> None:
    first = await encoder.encode_texts(["猫", "狗", "猫"])
    again = await encoder.encode_texts(["狗", " 猫 ", "鸟"])
    assert (again[0].vector == first[1].vector).all()
    assert (again[1].vector == first[0].vector).all(), "the same tokens, whatever the spaces"
    [family] = encoder.metrics.cached.collect()
    samples = {each.labels["result"]: each.value for each in family.samples if each.name.endswith("_total")}
    assert samples == {"hit": 3, "miss": 3}


async def test_odd_images_become_what_they_show(encoder: Encoder) -> None:
    """One drawing in every format has nearly the same vector. EXIF orientation is applied."""
    plain, turned = await encoder.encode_images([encoded(drawn()), encoded(drawn().rotate(-90, expand=True))])
    assert isinstance(plain, EncodedImage)
    assert isinstance(turned, EncodedImage)
    odd = unusual_images()
    same = ["animated GIF", "CMYK", "RGBA", "TIFF", "BMP", "WebP", "AVIF", "JPEG 2000"]
    for name, result in zip(same, await encoder.encode_images([odd[name] for name in same]), strict=True):
        assert isinstance(result, EncodedImage)
        assert float(np.dot(result.vector, plain.vector)) > 0.97, name
    [rotated] = await encoder.encode_images([odd["EXIF-rotated"]])
    assert isinstance(rotated, EncodedImage)
    assert float(np.dot(rotated.vector, turned.vector)) > 0.97


async def test_16_bits_and_transparency_become_8_bits_on_white() -> None:
    from services.common.images import to_rgb

    grey = Image.fromarray(np.array([[0, 65535], [32896, 257]], dtype=np.uint16))
    assert np.asarray(to_rgb(grey))[:, :, 0].tolist() == [[0, 255], [128, 1]]
    clear = Image.new("RGBA", (1, 1), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)


async def test_a_bad_image_fails_alone(encoder: Encoder) -> None:
    good = encoded(drawn())
    results = await encoder.encode_images([good, b"no image", good])
    assert [isinstance(result, InvalidField) for result in results] == [False, True, False]


async def test_a_long_text_is_tokenized_off_the_loop_once_it_is_admitted() -> None:
    engine = make_engine(find("demo"), "torch", "f32")
    async with encoder_of(find("demo"), engine, max_texts=4, max_queue_texts=4) as encoder:
        here = threading.get_ident()
        seen: dict[str, int] = {}
        original = encoder._all_tokens

        def spy(texts: list[str], deadline: float = math.inf) -> list[Any]:
            seen[texts[0][:1]] = threading.get_ident()
            return original(texts, deadline)

        encoder._all_tokens = spy  # type: ignore[method-assign, assignment]
        [short], [long] = await asyncio.gather(encoder.encode_texts(["短"]), encoder.encode_texts(["长" * 10_000]))
        assert seen["短"] == here != seen["长"]
        assert (short.token_count, short.truncated) == (3, False)
        assert (long.token_count, long.truncated) == (53, True), "counting stops one beyond the context"
        seen.clear()
        with encoder._texts.admitted(4), pytest.raises(Overloaded):
            await encoder.encode_texts(["长" * 10_000])
        assert not seen, "what is refused is not tokenized"
        with pytest.raises(DeadlineExceeded, match="before the texts were tokenized"):
            original(["a"] * 4, time.monotonic() - 1)


async def test_limits_are_named(encoder: Encoder) -> None:
    with pytest.raises(InvalidField, match=r"texts: must hold 1 to 8 items, got 9"):
        await encoder.encode_texts(["猫"] * 9)
    with pytest.raises(InvalidField, match=r"images: must hold 1 to 32 items, got 0"):
        await encoder.encode_images([])
    with pytest.raises(InvalidField, match=r"texts\[1\]: must hold a word"):
        await encoder.encode_texts(["猫", " "])


async def test_similarity_is_cn_clips(encoder: Encoder) -> None:
    """As cn_clip's functional test: CLIP.get_similarity, and the softmax of its logits."""
    checkpoint = find("demo")
    module = load_module(checkpoint)
    data = encoded(drawn())
    got = await encoder.compare(data, SENTENCES)
    with torch.inference_mode():
        pixels = image_transform(checkpoint.image_resolution)(Image.open(io.BytesIO(data)))[None]
        logits, _ = module.get_similarity(pixels, tokenize(SENTENCES))
        wanted = logits.softmax(dim=-1)[0].numpy()
    assert [each.logit for each in got] == pytest.approx(logits[0].tolist(), abs=1e-2)
    assert [each.probability for each in got] == pytest.approx(wanted.tolist(), abs=1e-3)


@pytest.mark.parametrize("dim", [1, 31, 32, 512, 1024, 5000])
def test_a_vector_on_the_wire_is_itself(dim: int) -> None:
    vector = np.random.default_rng(dim).standard_normal(dim).astype(np.float32)
    assert to_embedding(vector) == types_pb2.Embedding(values=vector.tolist())
