"""python -m bench.proxy: the simplest possible proxy for searches. It shows what the retriever adds to a bare proxy.

It answers SearchVectors by passing it on: synchronous, on one thread per call, without checks, catalogue or log.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2_grpc
from pymilvus import MilvusClient

from protos import retriever_pb2 as pb
from protos import retriever_pb2_grpc
from services.common.channels import foreign_options

# mypy calls the class abstract, since methods are missing. The missing ones answer UNIMPLEMENTED.
Servicer: Any = retriever_pb2_grpc.RetrieverServiceServicer


class Proxy(Servicer):  # type: ignore[misc]
    def __init__(self, milvus: str) -> None:
        self._client = MilvusClient(milvus, grpc_options=foreign_options(False))

    def SearchVectors(
        self, request: pb.SearchVectorsRequest, context: grpc.ServicerContext
    ) -> pb.SearchVectorsResponse:
        answers = self._client.search(
            request.collection,
            [np.array(query.values, dtype=np.float32) for query in request.queries],
            anns_field="embedding",
            limit=request.top_k,
            output_fields=["image_id", "attributes"],
            search_params={"metric_type": "IP", "params": {"ef": request.parameters.ef}},
            consistency_level="Bounded",
        )
        return pb.SearchVectorsResponse(results=[pb.VectorHits(hits=map(_hit, answer)) for answer in answers])


def _hit(found: dict[str, Any]) -> pb.VectorHit:
    hit = pb.VectorHit(image_id=found["image_id"], score=found["distance"])
    hit.attributes.update(found["entity"]["attributes"])
    return hit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", required=True)
    parser.add_argument("--milvus", required=True)
    options = parser.parse_args()
    # Not as the services make theirs: the least that gRPC itself takes is what is measured.
    server = grpc.server(ThreadPoolExecutor(4))
    retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(Proxy(options.milvus), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    server.add_insecure_port(f"127.0.0.1:{options.port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
