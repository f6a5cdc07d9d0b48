"""Roundhouse: one OpenAI-compatible address in front of every model you can reach."""

__version__ = "0.1.0"
