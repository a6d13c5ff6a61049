"""The image store: owns the images' bytes. Wraps MySQL or an SQLite file."""
