"""Sizes of memory in text."""

import re

from autosparse.errors import UserError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_size(text: str) -> int:
    """Return the number of bytes in `512MB`, `1.5 GiB`, `2g` or a plain number."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    if match is None or match[2] not in _UNITS:
        raise UserError(f"{text!r} is not a size of memory; write it like 512MB or 1.5GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def format_size(size: float) -> str:
    """Format a number of bytes, such as 1.3 GB, 12.0 MB or 200 B."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
