"""The retriever: owns the vectors. Vector databases are behind VectorBackend."""
