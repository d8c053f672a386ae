"""The only place that knows codecs and containers: pictures, clips and RAW photos."""

from msr.io.assemble import assemble
from msr.io.clip import ClipReader, open_clip
from msr.io.develop import develop, develop_bands
from msr.io.dng import write_dng, write_linear_dng
from msr.io.embedded import encode_picture
from msr.io.encoders import VIDEO_SUFFIXES, EncoderSettings, check_video_suffix
from msr.io.encoding import output_format
from msr.io.exr import write_exr
from msr.io.format import ClipFormat, Frame, LightLevel, Mastering, PixelFormat, planar_format, upright
from msr.io.frames import FolderReader, FolderWriter, check_free, image_files, is_pattern, join_folders, pattern_files
from msr.io.heif import HEIF_SUFFIXES
from msr.io.image import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    Picture,
    check_file,
    check_format,
    image_size,
    read_image,
    write_image,
)
from msr.io.output import check_output, whole
from msr.io.raw import RAW_SUFFIXES, is_raw, read_raw
from msr.io.raw_frame import NoMosaicError, RawFrame, raw_exif, raw_size, read_raw_frame
from msr.io.samples import convert_depth, turn_upright
from msr.io.segment import SegmentWriter
from msr.io.srgb import decode_srgb, encode_srgb
from msr.io.streams import check_container
from msr.io.tiff import write_tiff_bands
from msr.io.verify import Finding, audit, worst
from msr.io.video import VideoReader
from msr.io.y4m import Y4mReader, Y4mWriter

__all__ = [
    "HEIF_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "RAW_SUFFIXES",
    "VIDEO_SUFFIXES",
    "ClipFormat",
    "ClipReader",
    "EncoderSettings",
    "Finding",
    "FolderReader",
    "FolderWriter",
    "Frame",
    "LightLevel",
    "Mastering",
    "NoMosaicError",
    "Picture",
    "PixelFormat",
    "RawFrame",
    "SegmentWriter",
    "VideoReader",
    "Y4mReader",
    "Y4mWriter",
    "assemble",
    "audit",
    "check_container",
    "check_file",
    "check_format",
    "check_free",
    "check_output",
    "check_video_suffix",
    "convert_depth",
    "decode_srgb",
    "develop",
    "develop_bands",
    "encode_picture",
    "encode_srgb",
    "image_files",
    "image_size",
    "is_pattern",
    "is_raw",
    "join_folders",
    "open_clip",
    "output_format",
    "pattern_files",
    "planar_format",
    "raw_exif",
    "raw_size",
    "read_image",
    "read_raw",
    "read_raw_frame",
    "turn_upright",
    "upright",
    "whole",
    "worst",
    "write_dng",
    "write_exr",
    "write_image",
    "write_linear_dng",
    "write_tiff_bands",
]
