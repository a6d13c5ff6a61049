"""The `wentu` command: a gRPC client of the gateway, and `wentu up`, which runs all four services here."""
