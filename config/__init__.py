"""What the operator may say: the schema of the configuration, and how it is read.

Imports nothing of the other rooms; every room may import it.
"""
