"""python -m bench.stores: the retriever and the image store beside their databases asked directly."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench import blobs, vectors
from bench.report import Report
from bench.serving import serving
from tests.support import servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000, help="0 leaves the retriever out")
    parser.add_argument("--blobs", type=int, default=200_000, help="0 leaves the image store out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = Report("bench-stores", vectors=options.vectors, dim=vectors.DIM, blobs=options.blobs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.blobs:
            mariadb, database = servers.mariadb_server(folder / "mariadb", "--max-allowed-packet=64M")
            with mariadb.running(), serving("services.imagestore", ["--database", database], folder) as imagestore:
                blobs.measure(report, database, imagestore.address, options.blobs)
        if options.vectors:
            milvus, address = servers.milvus_server(folder / "milvus")
            with (
                milvus.running(),
                serving("services.retriever", ["--milvus", address], folder) as retriever,
                serving("bench.proxy", ["--milvus", address], folder) as proxy,
            ):
                vectors.measure(report, address, retriever.address, proxy.address, options.vectors)
    report.write(options.json)


if __name__ == "__main__":
    main()
