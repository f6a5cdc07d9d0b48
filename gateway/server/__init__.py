"""The caller's side of the wire: HTTP/1.1 in, ASGI out. Knows nothing of what is served."""
