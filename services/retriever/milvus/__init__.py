"""Milvus as a vector backend. Nothing outside this folder names Milvus."""
