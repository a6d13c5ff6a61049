"""Settings of the encoder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import MIB, ServerSettings


class EncoderSettings(ServerSettings):
    """WENTU_ENCODER_NAME in the environment, --name on the command line."""

    model_config = SettingsConfigDict(**{**ServerSettings.model_config, "env_prefix": "WENTU_ENCODER_"})

    port: int = Field(50051, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    model: str = Field(
        "demo", description="demo, a name of cn_clip (RN50, ViT-B-16, ...), a checkpoint file, or a folder with one"
    )
    architecture: str = Field(
        "",
        description="for a checkpoint file without a config.json beside it: the name of cn_clip that it was tuned from",
    )
    model_cache: Path = Field(Path("~/.cache/clip"), description="folder for checkpoints that cn_clip downloads")
    compiled_cache: Path = Field(
        Path("~/.cache/wentu"), description="folder for models converted for OpenVINO: the next start is faster"
    )
    hub: Literal["huggingface", "modelscope"] = Field("huggingface", description="where cn_clip downloads from")
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="auto: torch where there is a CUDA device, openvino elsewhere"
    )
    device: str = Field("auto", description="for torch: cpu, cuda, cuda:1; auto takes a CUDA device where there is one")
    precision: Literal["auto", "f32", "bf16", "f16"] = Field(
        "auto", description="auto: f16 on CUDA; on a CPU bf16 where it has AMX or AVX512-BF16, else f32"
    )
    threads: int = Field(os.cpu_count() or 1, ge=1, description="threads that compute and, as many again, that decode")
    max_texts: int = Field(256, ge=1, le=4096, description="texts of one call")
    max_text_chars: int = Field(10_000, ge=52, description="characters of one text")
    max_images: int = Field(64, ge=1, le=1024, description="pictures of one call")
    max_image_bytes: int = Field(16 * MIB, ge=1024, description="bytes of one picture")
    max_image_pixels: int = Field(64_000_000, ge=1024, description="width times height of one picture")
    text_batch: int = Field(64, ge=1, description="texts that the model takes at once")
    image_batch: int = Field(16, ge=1, description="pictures that the model takes at once")
    max_queue: int = Field(1024, ge=1, description="texts, and likewise pictures, that may wait; more are refused")
