"""Settings of the gateway."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.common.limits import MAX_GATEWAY_REQUEST_BYTES, MAX_IMAGE_BYTES, MAX_IMAGES, MIB
from services.common.settings import ServerSettings, check_takes_image


class GatewaySettings(ServerSettings):
    """WENTU_GATEWAY_NAME in the environment, --name on the command line."""

    model_config = SettingsConfigDict(**{**ServerSettings.model_config, "env_prefix": "WENTU_GATEWAY_"})

    port: int = Field(50050, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    # Larger requests are never useful, so they are refused before they are in memory.
    max_request_bytes: int = Field(MAX_GATEWAY_REQUEST_BYTES, ge=MIB, description="largest message of a request")
    max_fields_bytes: int = Field(
        2 * MIB, ge=MIB, description="bytes of one message besides image bytes, lists of texts and vectors"
    )
    # A forwarded message is in memory about three times for a moment.
    max_received_bytes: int = Field(
        128 * MIB, ge=MIB, description="memory for the requests in hand at once; more are refused, streams wait"
    )
    max_connection_calls: int = Field(250, ge=1, description="calls of one connection at once; more wait")
    encoder: str = Field("127.0.0.1:50051", description="encoder: host:port, or dns:///name:port for replicas")
    retriever: str = Field("127.0.0.1:50052", description="retriever: host:port, or dns:///name:port for replicas")
    imagestore: str = Field("127.0.0.1:50053", description="image store: host:port, or dns:///name:port for replicas")
    other_encoders: str = Field(
        "", description="encoders of other models that collections still have, as `encoder`, separated by commas"
    )
    use_proxy: bool = Field(
        False, description="call the other services through the proxy of `grpc_proxy`, `https_proxy` or `http_proxy`"
    )
    fetch_seconds: float = Field(
        2, gt=0, description="how long a search waits for what is known of its images, and 0.2 s more a thumbnail"
    )
    timeout_seconds: float = Field(60, gt=0, description="longest that one call to another service may take")
    count_seconds: float = Field(
        60,
        ge=0,
        description="how often images and vectors are counted, to tell when they differ; less often if it takes long, "
        "0 for never",
    )
    max_image_bytes: int = Field(MAX_IMAGE_BYTES, ge=1024, description="bytes of one image")
    import_batch: int = Field(32, ge=1, le=MAX_IMAGES, description="images that go through an import together")
    import_batch_bytes: int = Field(16 * MIB, ge=MIB, le=32 * MIB, description="bytes that go through together")
    import_workers: int = Field(3, ge=1, le=32, description="batches of one import under way at once")
    import_waiting: int = Field(128, ge=1, description="images of one import that may wait; the stream pauses then")

    @model_validator(mode="after")
    def _one_image_fits(self) -> Self:
        """Check that an image of the largest size fits into one message."""
        check_takes_image(
            self.max_image_bytes, max_request_bytes=self.max_request_bytes, max_message_bytes=self.max_message_bytes
        )
        return self
