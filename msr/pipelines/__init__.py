"""From pictures, frames and files to enlarged ones: padding, tiles, streams, progress."""

from msr.pipelines.burst import BurstOptions, merge_burst, merge_burst_files
from msr.pipelines.image import Written, upscale_image, upscale_image_files
from msr.pipelines.preview import preview_video
from msr.pipelines.video import VideoOptions, upscale_frames, upscale_video

__all__ = [
    "BurstOptions",
    "VideoOptions",
    "Written",
    "merge_burst",
    "merge_burst_files",
    "preview_video",
    "upscale_frames",
    "upscale_image",
    "upscale_image_files",
    "upscale_video",
]
