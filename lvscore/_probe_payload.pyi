"""What the core reads in payloads, for tests."""

__all__ = ["call_id"]

def call_id(message: bytes) -> bytes | None: ...
