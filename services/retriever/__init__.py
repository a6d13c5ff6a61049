"""The retriever: owns the vectors. Wraps Milvus."""
