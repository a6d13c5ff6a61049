"""The encoder: texts and images in, unit vectors out."""
