"""Tests that ask for `any_url` run on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from tests.storage.conftest import any_url, cluster

__all__ = ("any_url", "cluster")
