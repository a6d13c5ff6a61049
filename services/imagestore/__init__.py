"""The image store: owns the bytes of images, in MySQL or in an SQLite file."""
