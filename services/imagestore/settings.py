"""Settings of the image store."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.common.limits import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MIB
from services.common.settings import ServerSettings


class ImageStoreSettings(ServerSettings):
    """WENTU_IMAGESTORE_NAME in the environment, --name on the command line."""

    model_config = SettingsConfigDict(**{**ServerSettings.model_config, "env_prefix": "WENTU_IMAGESTORE_"})

    port: int = Field(50053, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    database: SecretStr = Field(
        SecretStr("wentu-data/images.db"), description="an SQLite file, or mysql://user:password@host:3306/database"
    )
    timeout_seconds: float = Field(30, gt=0, description="longest that one request to the database may take")
    threads: int = Field(16, ge=1, le=256, description="requests to the database at once, and its connections")
    max_image_bytes: int = Field(MAX_IMAGE_BYTES, ge=1024, description="bytes of one image")
    max_image_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1024, description="pixels of an image that gets a thumbnail")
    max_bytes_in_hand: int = Field(
        256 * MIB,
        ge=MIB,
        description="bytes of images answered at once, and as many again of unfinished WriteBlobs: reads wait, writes "
        "are refused. An answer takes about three times its bytes of memory",
    )
    max_decoding_bytes: int = Field(
        512 * MIB,
        ge=MIB,
        description="memory of the images that are decoded at once for thumbnails; others wait. A larger one is alone",
    )
    thumbnail_pixels: int = Field(256, ge=16, le=2048, description="longer side of a thumbnail")
    thumbnail_format: Literal["webp", "jpeg"] = Field(
        "webp", description="webp or jpeg, of thumbnails made from now on"
    )
