"""Iterative rewind pruning of a grid of networks: `python launch/irp.py --partition gpu --seeds 0 1 2 3`.

Without arguments: lenet-300-100 on the embedded MNIST digits, here, in this process.
"""

from autosparse.cli import start

if __name__ == "__main__":
    start("irp")
