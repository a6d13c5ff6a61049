"""The demo: artwork, gallery and the training of the small model that understands it."""
