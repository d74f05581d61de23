"""A web page that follows runs: `python launch/serve.py runs`."""

from autosparse.cli import start

if __name__ == "__main__":
    start("serve")
