"""Conditions on attributes: what they mean, and how each kind of store is asked."""
