"""Repeatable measurements of what Roundhouse costs, beside what stands in for it. See README.md."""
