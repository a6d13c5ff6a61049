"""The gateway: the front door. Orchestrates the encoder, the retriever and the image store; keeps no state."""
