"""Settings of the retriever."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServerSettings


class RetrieverSettings(ServerSettings):
    """WENTU_RETRIEVER_NAME in the environment, --name on the command line."""

    model_config = SettingsConfigDict(**{**ServerSettings.model_config, "env_prefix": "WENTU_RETRIEVER_"})

    port: int = Field(50052, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    milvus: str = Field(
        "wentu-data/milvus.db",
        description="a Milvus Lite file, or the address of a server or cluster: http://milvus:19530",
    )
    milvus_token: SecretStr = Field(SecretStr(""), description="user:password or a token, where the server wants one")
    milvus_database: str = Field("", description="database on the server; its default where empty")
    use_proxy: bool = Field(
        False, description="call Milvus through the proxy of `grpc_proxy`, `https_proxy` or `http_proxy`"
    )
    timeout_seconds: float = Field(30, gt=0, description="longest that one request to Milvus may take")
    threads: int = Field(16, ge=1, description="requests to Milvus at once")
