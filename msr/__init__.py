"""msr: super-resolution of photos, clips and bursts."""

__version__ = "0.1.0"
