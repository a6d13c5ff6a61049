"""The gateway: the public entry. It orchestrates the encoder, the retriever and the image store, and has no state."""
