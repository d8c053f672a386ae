"""Pictures of every kind come back of their kind, from memory and from files, whole or in tiles."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from made import dng, picture, weights
from PIL import Image, ImageCms
from pipelines.networks import Convolutions, Running, stirred

import msr
from msr.errors import InputError, WorkError
from msr.io import convert_depth, read_image, write_image
from msr.models import build_model
from msr.ops import resize
from msr.pipelines import tiling, upscale_image_files
from msr.pipelines.tiling import choose_tile, plan_tiles

torch.manual_seed(0)
MODEL = Convolutions().requires_grad_(False)


def direct(pixels: np.ndarray) -> np.ndarray:
    """The network on its own, ``(H, W, 3)`` uint8 to float in [0, 1]."""
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return MODEL(x)[0].permute(1, 2, 0).clamp(0, 1).numpy()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_arrays_give_arrays_of_their_dtype(dtype: str) -> None:
    pixels = convert_depth(picture(), dtype)
    before = pixels.copy()
    result = msr.upscale_image(pixels, model=MODEL)
    assert isinstance(result, np.ndarray)
    assert (result.shape, result.dtype) == ((96, 128, 3), np.dtype(dtype))
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    np.testing.assert_allclose(result / top, direct(picture()), atol=0.5 / top + 1e-6)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_give_tensors_of_their_dtype(dtype: torch.dtype) -> None:
    array = convert_depth(picture(), "float32")
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    x = torch.from_numpy(array).permute(2, 0, 1).mul(top).to(torch.int32 if dtype == torch.uint16 else dtype).to(dtype)
    result = msr.upscale_image(x, model=MODEL)
    assert isinstance(result, torch.Tensor)
    assert (tuple(result.shape), result.dtype) == ((3, 96, 128), dtype)
    tolerance = {torch.uint8: 0.005, torch.float16: 0.002, torch.bfloat16: 0.01}.get(dtype, 5e-5)
    assert np.abs(result.float().permute(1, 2, 0).numpy() / top - direct(picture())).max() < tolerance


def test_when_memory_is_out_tiles_are_halved() -> None:
    class Small(Convolutions):
        """Takes at most 8000 pixels at a time."""

        failures = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[-1] * x.shape[-2] > 8000:
                self.failures += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().forward(x)

    small = Small().requires_grad_(False)
    small.load_state_dict(MODEL.state_dict())
    pixels = picture(120, 150)
    result = msr.upscale_image(pixels, model=small)
    assert small.failures == 1
    assert np.abs(result.astype(int) - msr.upscale_image(pixels, model=MODEL)).max() <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tile", [None, 32])
def test_a_result_that_is_not_finite_is_an_error(value: float, tile: int | None) -> None:
    broken = Convolutions().requires_grad_(False)
    broken.forward = lambda x: resize(x, scale=2).index_fill(2, torch.tensor([3]), value)  # type: ignore[method-assign]
    with pytest.raises(WorkError, match="not finite"):
        msr.upscale_image(picture(), model=broken, tile=tile)


def test_gray_stays_gray() -> None:
    gray = picture()[..., 0]
    expected = direct(np.repeat(gray[..., None], 3, 2)).mean(2)
    flat, deep = msr.upscale_image(gray, model=MODEL), msr.upscale_image(gray[..., None], model=MODEL)
    assert (flat.shape, deep.shape) == ((96, 128), (96, 128, 1))
    np.testing.assert_allclose(flat / 255, expected, atol=0.51 / 255)
    np.testing.assert_array_equal(deep[..., 0], flat)
    assert msr.upscale_image(torch.from_numpy(gray), model=MODEL).shape == (96, 128)
    assert msr.upscale_image(torch.from_numpy(gray)[None], model=MODEL).shape == (1, 96, 128)


def test_alpha_is_enlarged_beside_the_colours() -> None:
    alpha = np.zeros((48, 64, 1), np.uint8)
    alpha[:, 32:] = 255
    result = msr.upscale_image(np.concatenate([picture(), alpha], 2), model=MODEL)
    assert result.shape == (96, 128, 4)
    np.testing.assert_array_equal(result[..., :3], msr.upscale_image(picture(), model=MODEL))
    enlarged = resize(torch.from_numpy(alpha[..., 0])[None, None] / 255, scale=2)[0, 0].clamp(0, 1).numpy()
    np.testing.assert_allclose(result[..., 3] / 255, enlarged, atol=0.51 / 255)


@pytest.mark.parametrize("kind", ["image", "burst"])
def test_alpha_lies_where_the_colours_lie(kind: str) -> None:
    model = build_model(kind, {"channels": 8, "blocks": 1, "scale": 2, "phase": "corner"})  # enlarges by cubic
    gray = np.repeat(picture()[..., :1], 4, 2)
    result = msr.upscale_image(gray, model=model) if kind == "image" else msr.merge_burst([gray], model=model)
    assert isinstance(result, np.ndarray)
    assert np.abs(result[..., 3].astype(int) - result[..., 0])[4:-4, 4:-4].max() <= 2


def test_views_and_read_only_arrays_are_taken() -> None:
    view = picture()[::-1, ::2]
    view.setflags(write=False)
    np.testing.assert_array_equal(
        msr.upscale_image(view, model=MODEL), msr.upscale_image(np.ascontiguousarray(view), model=MODEL)
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    result = msr.upscale_image(np.full((*size, 3), 128, np.uint8), model=stirred("image", scale=3))
    assert result.shape == (size[0] * 3, size[1] * 3, 3)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((3, 4, 4), np.float32), None),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4, 3), np.float64), "float64"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.full((4, 4, 3), np.nan, np.float32), "not finite"),
        (np.full((4, 4, 3), 255.0, np.float32), "255"),
        (torch.zeros(5, 4, 3), "shape"),
        (torch.zeros(1, 3, 4, 4), "shape"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        ([[1, 2]], "list"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(image: object, says: str | None) -> None:
    if says is None:  # channels first in an array reads as a narrow picture with alpha
        assert msr.upscale_image(image, model=MODEL).shape == (6, 8, 4)  # type: ignore[arg-type]
        return
    with pytest.raises(InputError, match=f"image.*{says}"):
        msr.upscale_image(image, model=MODEL)  # type: ignore[arg-type]


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    small = picture(8, 8)
    with pytest.raises(InputError, match="enlarges 2 times, not 4"):
        msr.upscale_image(small, 4, MODEL)
    with pytest.raises(InputError, match="is of kind video; this needs image"):
        msr.upscale_image(small, model=Running())
    with pytest.raises(InputError, match=r"tiny-image.safetensors: only image models of the phase 'centered'"):
        msr.upscale_image(small, model=weights(tmp_path, "image", phase="corner"), ensemble=True)
    with pytest.raises(InputError, match="no image weights for scale 7"):
        msr.upscale_image(small, 7)
    with pytest.raises(InputError, match="scale must be"):
        msr.upscale_image(small, 0)
    with pytest.raises(InputError, match="unknown model"):
        msr.upscale_image(small, model="image-x99")
    with pytest.raises(InputError, match="device must be"):
        msr.upscale_image(small, model=weights(tmp_path, "image"), device="abacus")
    with pytest.raises(InputError, match="dtype must be"):
        msr.upscale_image(small, model=weights(tmp_path, "image"), dtype="int4")
    with pytest.raises(InputError, match="tile must be at least 32"):
        msr.upscale_image(small, model=MODEL, tile=5)
    with pytest.raises(InputError, match="tile must be at least 32"):
        msr.upscale_image(small, model=MODEL, tile=-64)
    with pytest.raises(InputError, match="would become"):
        msr.upscale_image(np.broadcast_to(np.uint8(0), (40_000, 10_000)), model=MODEL)


@pytest.mark.parametrize("tile", [None, 32])
def test_an_ensemble_turns_with_the_picture(tile: int | None) -> None:
    """In tiles, too: the result of a turned picture is the turned result, which it is not without."""
    image = picture(40, 56)

    def difference(ensemble: bool) -> int:
        whole = msr.upscale_image(image, model=MODEL, tile=tile, ensemble=ensemble).astype(int)
        turned = msr.upscale_image(np.rot90(image), model=MODEL, tile=tile, ensemble=ensemble).astype(int)
        return int(np.abs(turned - np.rot90(whole)).max())

    assert difference(True) <= 1 < difference(False)


def test_half_precision_follows_float32(tmp_path: Path) -> None:
    path = weights(tmp_path, "image")
    full = msr.upscale_image(picture(), model=path).astype(int)
    for dtype in ("bfloat16", "float16"):
        half = msr.upscale_image(picture(), model=path, dtype=dtype)
        assert np.abs(half.astype(int) - full).max() <= 4


@pytest.mark.parametrize(("height", "width", "tile"), [(100, 130, 32), (33, 65, 32), (90, 200, 64), (40, 40, 48)])
def test_tiles_give_the_whole_picture(height: int, width: int, tile: int) -> None:
    pixels = convert_depth(picture(height, width), "float32")
    whole = msr.upscale_image(pixels, model=MODEL, tile=1000)
    tiled = msr.upscale_image(pixels, model=MODEL, tile=tile)
    assert len(plan_tiles(height, width, tile, MODEL.halo)) > 1 or tile == 48
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def enlarged(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(3, 2).repeat_interleave(3, 3)


def test_tiles_weigh_every_pixel_once() -> None:
    for height, width, tile in ((33, 32, 32), (500, 77, 40), (64, 129, 64)):
        tiles = plan_tiles(height, width, tile, 9)
        ones = torch.ones(1, 1, height, width).expand(1, 3, -1, -1)
        joined = tiles.join(lambda i, tiles=tiles, x=ones: enlarged(tiles.cut(x, i)), 3)
        torch.testing.assert_close(joined, torch.ones(1, 3, height * 3, width * 3))


def test_tiles_of_a_network_that_pools_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channel attention sees the tile's means instead of the picture's: bounded here, and without an edge."""
    pixels = convert_depth(picture(96, 160, seed=3), "float32")
    model = stirred("image", scale=2)
    whole = msr.upscale_image(pixels, model=model, tile=1000)

    def seam() -> float:
        """The step of the difference across the joins (after columns 39, 79, 119), over the median of all steps."""
        difference = msr.upscale_image(pixels, model=model, tile=40) - whole
        assert 0 < np.abs(difference).max() < 0.01
        # In means over the cells of the LR grid: the pixels within a cell come from different channels.
        cells = difference.reshape(96, 2, 160, 2, 3).mean((1, 3))
        steps = np.abs(np.diff(cells, axis=1)).mean((0, 2))
        return float(steps[[39, 79, 119]].max() / np.median(steps))

    assert seam() < 3
    monkeypatch.setattr(tiling, "FADE", 0)
    assert seam() > 10  # what a hard join would show


def test_the_automatic_tile_depends_on_the_machine_alone() -> None:
    chosen = {choose_tile(tile, torch.device("cpu")) for tile in (None, 0)}
    assert len(chosen) == 1
    assert 96 <= chosen.pop() <= 1024


def test_files_keep_depth_alpha_and_gray(tmp_path: Path) -> None:
    model = weights(tmp_path, "image")
    deep = convert_depth(picture(), "uint16")
    cases = {
        "rgb.png": picture(),
        "gray.png": picture()[..., 0],
        "deep.tif": deep,
        "alpha.png": np.concatenate([deep, deep[..., :1]], 2),
    }
    for name, pixels in cases.items():
        write_image(tmp_path / name, pixels)
    written = upscale_image_files([tmp_path / name for name in cases], tmp_path / "out", model=model)
    assert [(result.path.name, result.width, result.height) for result in written] == [(n, 256, 192) for n in cases]
    for name, pixels in cases.items():
        result = read_image(tmp_path / "out" / name).pixels
        assert (result.shape, result.dtype) == ((192, 256, *pixels.shape[2:]), pixels.dtype)
        np.testing.assert_array_equal(result, msr.upscale_image(pixels, model=model))


def test_a_profile_that_is_left_out_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = Image.fromarray(np.dstack([picture()[..., 0]] * 2), "LA")
    gray.save(tmp_path / "a.png", icc_profile=icc[:16] + b"GRAY" + icc[20:])
    upscale_image_files([tmp_path / "a.png"], tmp_path / "b.png", model=MODEL, progress=True)
    assert re.search(r"b\.png is without the colour profile .* GRAY", capfd.readouterr().err)
    upscale_image_files([tmp_path / "a.png"], tmp_path / "b.png", model=MODEL)
    assert not capfd.readouterr().err


def test_raw_photos_become_pictures(tmp_path: Path) -> None:
    upscale_image_files([dng(tmp_path / "a.dng")], tmp_path / "a.png", model=weights(tmp_path, "image", scale=2))
    result = read_image(tmp_path / "a.png").pixels
    assert (result.shape, result.dtype) == ((64, 96, 3), np.uint16)


def test_targets_that_do_not_fit_are_refused_before_the_work(tmp_path: Path) -> None:
    model = weights(tmp_path, "image")
    (tmp_path / "other").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "other" / "a.png"]
    for path in paths:
        write_image(path, np.zeros((4, 4, 4), np.uint8))
    files = sorted(tmp_path.rglob("*"))
    for sources, target, says in (
        ([paths[0]], paths[0], "also an input"),
        (paths[:2], tmp_path, "also an input"),
        (paths[:2], tmp_path / "b.png", "is a file"),
        ([paths[0], paths[2]], tmp_path / "out", "two inputs"),
        ([paths[0]], tmp_path / "a.xyz", "must end in"),
        ([paths[0]], tmp_path / "a.jpg", "no alpha"),
        ([], tmp_path / "a.png", "no input"),
    ):
        with pytest.raises(InputError, match=says):
            upscale_image_files(sources, target, model=model)
    assert sorted(tmp_path.rglob("*")) == files


def test_a_folder_is_made_for_the_first_result(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    Image.fromarray(picture()).save(tmp_path / "a.jfif", "JPEG")
    for sources in (["bad.png", "a.jfif"], ["a.jfif", "bad.png"]):
        with pytest.raises(InputError, match=r"bad\.png"):
            upscale_image_files([tmp_path / name for name in sources], tmp_path / "out", model=MODEL)
        assert (tmp_path / "out").exists() == (sources[0] == "a.jfif")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jfif"]
    assert read_image(tmp_path / "out" / "a.jfif").pixels.shape == (96, 128, 3)


@pytest.mark.parametrize("target", ["b.jpg", "b.png", "b.tif", "b.webp"])
def test_exif_goes_from_the_source_to_the_result(tmp_path: Path, target: str) -> None:
    exif = Image.Exif()
    exif[271], exif[274] = "Maker", 6
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=exif)
    for source, tag, text in ((tmp_path / "a.jpg", 271, "Maker"), (dng(tmp_path / "a.dng"), 305, "tifffile.py")):
        upscale_image_files([source], tmp_path / target, model=weights(tmp_path, "image", scale=2))
        with Image.open(tmp_path / target) as back:
            assert (back.getexif()[tag], back.getexif().get(274)) == (text, 1)
