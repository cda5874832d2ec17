"""Which keys objects may have: those that mean the same to a file system and to S3."""

# What S3 takes, and what a file system takes for a name.
_KEY_BYTES = 1024
_SEGMENT_BYTES = 255


def check_key(key: str) -> None:
    """Raises `ValueError` when `key` could leave its folder or would not be the same everywhere."""
    if not key.isprintable() or len(key.encode()) > _KEY_BYTES:
        raise ValueError(f"a key has at most {_KEY_BYTES} bytes, all printable, unlike {key!r}")
    for segment in key.split("/"):
        # A leading dot covers `.` and `..`, and leaves names free for the drivers themselves.
        if not segment or segment.startswith(".") or len(segment.encode()) > _SEGMENT_BYTES:
            rule = f"a key's segments have 1 to {_SEGMENT_BYTES} bytes and no leading dot"
            raise ValueError(f"{rule}, unlike {key!r}")
