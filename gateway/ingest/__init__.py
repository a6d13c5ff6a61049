"""From an upload to stored bytes and a vector."""
