"""Fit AutoS to runs of IRP: `python launch/fit.py --runs runs/irp/lenet-300-100_mnist5k_snip_n20_s0`."""

from autosparse.cli import start

if __name__ == "__main__":
    start("fit")
