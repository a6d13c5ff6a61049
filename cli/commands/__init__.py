"""The commands of `wentu`: one module per command, or per small family of them."""
