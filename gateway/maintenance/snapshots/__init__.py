"""A whole collection as files that others can read: JSON, Parquet, tar."""
