"""msr: super-resolution of photos, clips and bursts."""

from msr.errors import InputError, MsrError, WorkError
from msr.models import available_models, load_model
from msr.pipelines import merge_burst, upscale_frames, upscale_image, upscale_video

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "MsrError",
    "WorkError",
    "available_models",
    "load_model",
    "merge_burst",
    "upscale_frames",
    "upscale_image",
    "upscale_video",
]
