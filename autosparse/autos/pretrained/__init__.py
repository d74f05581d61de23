"""The criterion that comes with the package; README.md beside this file is its card."""

from pathlib import Path

NAME = "pretrained"
FOLDER = Path(__file__).parent
