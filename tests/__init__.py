"""Tests speak gRPC to real processes over real stores."""
