"""Settings of the encoder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.common.limits import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_IMAGES, MAX_TEXT_CHARS, MAX_TEXTS, MIB
from services.common.settings import ServerSettings
from services.encoder.downloads import Hub


class EncoderSettings(ServerSettings):
    """WENTU_ENCODER_NAME in the environment, --name on the command line."""

    model_config = SettingsConfigDict(**{**ServerSettings.model_config, "env_prefix": "WENTU_ENCODER_"})

    port: int = Field(50051, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    # More than the queues hold, so that the queues refuse first: their errors say when to retry.
    max_concurrent_calls: int = Field(10_000, ge=1, description="calls of one service at once; more are refused")
    max_connection_calls: int = Field(5_000, ge=1, description="calls of one connection at once; more wait")
    model: str = Field(
        "demo", description="demo, a name of cn_clip (RN50, ViT-B-16, ...), a checkpoint file, or a folder with one"
    )
    architecture: str = Field(
        "",
        description="for a checkpoint file without a config.json beside it: the name of cn_clip that it was tuned from",
    )
    model_cache: Path = Field(Path("~/.cache/clip"), description="folder for checkpoints that cn_clip downloads")
    compiled_cache: Path = Field(
        Path("~/.cache/wentu"),
        description="folder for models converted for OpenVINO and for reference vectors: the next start is faster",
    )
    hub: Hub = Field("huggingface", description="where cn_clip downloads from: huggingface, modelscope")
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="auto: torch where there is a CUDA device, openvino elsewhere"
    )
    device: str = Field("auto", description="for torch: cpu, cuda, cuda:1; auto takes a CUDA device where there is one")
    precision: Literal["auto", "f32", "bf16", "f16"] = Field(
        "auto",
        description="auto: f16 on CUDA, on a CPU the faster of bf16 and f32, measured at the start; but f32 if the "
        "vectors of this checkpoint come out too far from those of f32 (cosine below 0.999). bf16 and f16 on a CPU: "
        "with openvino, if the processor has them",
    )
    threads: int = Field(os.cpu_count() or 1, ge=1, description="threads that compute and, as many again, that decode")
    max_texts: int = Field(MAX_TEXTS, ge=1, le=4096, description="texts of one call")
    max_text_chars: int = Field(MAX_TEXT_CHARS, ge=52, description="characters of one text")
    max_images: int = Field(MAX_IMAGES, ge=1, le=1024, description="images of one call")
    max_image_bytes: int = Field(MAX_IMAGE_BYTES, ge=1024, description="bytes of one image")
    max_image_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1024, description="width times height of one image")
    text_batch: int | None = Field(
        None, ge=1, description="texts that the model takes at once; by default 32 on a CPU, 256 on CUDA"
    )
    image_batch: int | None = Field(
        None, ge=1, description="images that the model takes at once; by default 8 on a CPU, 64 on CUDA"
    )
    max_queue_texts: int = Field(1024, ge=1, description="texts in hand at once, waiting or computed; more are refused")
    max_queue_images: int = Field(
        256, ge=1, description="images in hand at once, waiting, decoded or computed; more are refused"
    )
    max_decoding_bytes: int = Field(
        1024 * MIB,
        ge=MIB,
        description="memory of the images that are decoded at once; others wait. A larger one is decoded alone",
    )
    max_queue_bytes: int = Field(256 * MIB, ge=MIB, description="bytes of the files of the images in hand at once")
    text_cache: int = Field(10_000, ge=0, description="texts whose vectors are kept, the last used ones; 0 keeps none")

    @model_validator(mode="after")
    def _one_call_fits(self) -> Self:
        """Check that the largest allowed call fits into the empty queue. Otherwise it would always be refused."""
        for call, queue in (("max_texts", "max_queue_texts"), ("max_images", "max_queue_images")):
            if getattr(self, call) > getattr(self, queue):
                raise ValueError(f"{queue} must be at least {call}, {getattr(self, call):,}")
        if self.max_queue_bytes < self.max_request_bytes:
            raise ValueError(f"max_queue_bytes must be at least max_request_bytes, {self.max_request_bytes:,}")
        return self
