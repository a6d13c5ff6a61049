"""Turns an upload into stored bytes and a vector."""
