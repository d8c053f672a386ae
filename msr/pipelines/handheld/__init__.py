"""Bursts merged without training: handheld multi-frame super-resolution."""

from msr.pipelines.handheld.base import sharpest
from msr.pipelines.handheld.explain import write_explanation
from msr.pipelines.handheld.merge import FrameUse, Merged, merge_shots
from msr.pipelines.handheld.shot import Shot

__all__ = ["FrameUse", "Merged", "Shot", "merge_shots", "sharpest", "write_explanation"]
