"""Temporary file systems, which a test may fill; only root may mount them."""

import os
import subprocess
from pathlib import Path


def mounted(options: str, folder: Path) -> bool:
    """Mount a temporary file system and return True if that is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


def remount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
