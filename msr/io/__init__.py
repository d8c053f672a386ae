"""The only place that knows codecs and containers: pictures, clips and RAW photos."""

from msr.io.frames import FolderReader, FolderWriter, image_files
from msr.io.image import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    Picture,
    check_file,
    check_format,
    convert_depth,
    read_image,
    write_image,
)
from msr.io.output import check_output, whole
from msr.io.raw import RAW_SUFFIXES, is_raw, read_raw
from msr.io.video import ClipFormat, Frame, VideoReader
from msr.io.video_writer import VIDEO_SUFFIXES, VideoWriter, check_video_suffix

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "RAW_SUFFIXES",
    "VIDEO_SUFFIXES",
    "ClipFormat",
    "FolderReader",
    "FolderWriter",
    "Frame",
    "Picture",
    "VideoReader",
    "VideoWriter",
    "check_file",
    "check_format",
    "check_output",
    "check_video_suffix",
    "convert_depth",
    "image_files",
    "is_raw",
    "read_image",
    "read_raw",
    "whole",
    "write_image",
]
