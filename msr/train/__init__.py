"""Training: data, degradation, losses, loop."""

from msr.train.loop import train

__all__ = ["train"]
