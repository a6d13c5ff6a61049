"""Tests of domain code: no process, no network, no store."""
