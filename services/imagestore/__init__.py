"""The image store: owns the pictures' bytes. Wraps MySQL or an SQLite file."""
