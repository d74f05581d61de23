"""The whole pipeline in minutes: `python launch/demo.py`."""

from autosparse.cli import start

if __name__ == "__main__":
    start("demo")
