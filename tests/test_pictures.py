"""Pictures: what is written is read back, pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm_lab.core.grey import quantise
from ddpm_lab.pictures import save_grid, save_progression, to_uint8

GAP, GREY = 2, 96


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_quantise_takes_the_nearest_level_and_is_idempotent(levels):
    grid = torch.linspace(-1, 1, levels, dtype=torch.float64)
    x = torch.rand(5000, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    q = quantise(x, levels)
    nearest = grid[(x.double()[:, None] - grid).abs().argmin(1)]
    assert (q.double() - nearest).abs().max() < 1e-6
    assert torch.equal(quantise(q, levels), q)
    assert len(q.unique()) == levels
    assert (q.min(), q.max()) == (-1, 1)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_quantise_keeps_what_is_on_the_grid_of_the_data(levels):
    from ddpm_lab.core.grey import scale

    x = scale(torch.arange(levels, dtype=torch.uint8), levels)
    assert torch.equal(quantise(x, levels), x)
    step = 2 / (levels - 1)
    assert torch.equal(quantise(x + 0.49 * step, levels), x)
    assert torch.equal(quantise(x - 0.49 * step, levels), x)


def test_data_without_levels_are_not_quantised():
    x = torch.randn(4, 2)
    assert quantise(x, None) is x


def test_to_uint8_rounds_and_does_not_truncate():
    k = torch.arange(256)
    exact = k / 127.5 - 1
    for offset in (-0.4, 0, 0.4):
        assert torch.equal(to_uint8(exact + offset / 127.5).long(), k)
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def tiles_of(picture: np.ndarray, n: int, columns: int, side: int) -> list[np.ndarray]:
    pitch = side + GAP
    places = [(GAP + i // columns * pitch, GAP + i % columns * pitch) for i in range(n)]
    return [picture[top : top + side, left : left + side] for top, left in places]


def random_images(n: int, channels: int, side: int) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "columns", "used"), [(6, 3, 3), (7, 3, 3), (5, None, 3), (1, None, 1), (2, 4, 4)])
def test_every_tile_is_where_it_should_be(channels, n, columns, used, tmp_path):
    """60 pixels wide: not enlarged. Where no tile is, the picture is grey."""
    x = random_images(n, channels, 60)
    path = save_grid(x, tmp_path / "new" / "grid.png", columns)
    picture = np.asarray(Image.open(path))
    rows = -(-n // used)
    assert picture.shape == (rows * 62 + 2, used * 62 + 2, 3)[: 2 if channels == 1 else 3]
    expected = to_uint8(x).permute(0, 2, 3, 1).numpy()
    rest = picture.copy()
    for i, tile in enumerate(tiles_of(picture, n, used, 60)):
        assert np.array_equal(tile, expected[i].squeeze())
        tiles_of(rest, n, used, 60)[i][:] = GREY
    assert (rest == GREY).all()


@pytest.mark.parametrize("side", [1, 8, 20, 48])
def test_small_images_are_enlarged_by_whole_pixels(side, tmp_path):
    x = random_images(3, 1, side)
    zoom = 48 // side
    picture = np.asarray(Image.open(save_grid(x, tmp_path / "grid.png", 2)))
    for tile, image in zip(tiles_of(picture, 3, 2, side * zoom), to_uint8(x)[:, 0].numpy(), strict=True):
        assert np.array_equal(tile, np.kron(image, np.ones((zoom, zoom), np.uint8)))


def test_values_beyond_the_range_are_cut_not_wrapped(tmp_path):
    x = torch.stack([torch.full((1, 50, 50), 1.3), torch.full((1, 50, 50), -1.3)])
    picture = np.asarray(Image.open(save_grid(x, tmp_path / "grid.png")))
    assert [tile[0, 0] for tile in tiles_of(picture, 2, 2, 50)] == [255, 0]


def colour_of(path) -> np.ndarray:
    """The saturation of each pixel: only points are in colour."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(float)
    return picture.max(2) - picture.min(2)


def test_points_are_drawn_where_they_are(tmp_path):
    """The centre of the points in the picture follows the centre of the cloud."""
    cloud = 0.1 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.8, 0.4])
    centres = []
    for i, sign in enumerate((1, -1)):
        colour = colour_of(save_grid(sign * cloud, tmp_path / f"{i}.png"))
        rows, columns = np.indices(colour.shape)
        centres.append(((columns * colour).sum() / colour.sum(), -(rows * colour).sum() / colour.sum()))
    (right, up), (left, down) = centres
    assert right - left > 150
    assert (up - down) / (right - left) == pytest.approx(0.45 / 0.85, rel=0.05)  # one unit is as long both ways


@pytest.mark.parametrize("channels", [1, 3])
def test_progression_shows_each_frame_in_its_column(channels, tmp_path):
    """Black, grey and white frames: a row of the picture reads dark, middle, light, and every row does."""
    frames = [torch.full((2, channels, 8, 8), value) for value in (-1.0, 0.0, 1.0)]
    path = save_progression(frames, ["t = 3", "t = 2", "t = 1"], tmp_path / "new" / "progression.png")
    picture = np.asarray(Image.open(path).convert("L"))
    height, width = picture.shape
    for row in (0.35, 0.8):
        line = picture[int(row * height)]
        assert [line[int(width * (k + 0.5) / 3)] for k in range(3)] == [0, 128, 255]


def test_progression_of_points_draws_each_cloud_in_its_own_column(tmp_path):
    """A cloud that wanders from left to right: its centre within the panel, in units of the first step."""
    spread = 0.05 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    frames = [spread + torch.tensor([x, 0.0]) for x in (-0.6, 0.0, 0.6)]
    path = save_progression(frames, ["", "", ""], tmp_path / "p.png")
    panels = np.array_split(colour_of(path), 3, axis=1)
    centres = [float((panel.sum(0) * np.arange(panel.shape[1])).sum() / panel.sum()) for panel in panels]
    assert centres[1] - centres[0] > 30
    assert (centres[2] - centres[1]) / (centres[1] - centres[0]) == pytest.approx(1, abs=0.1)


def test_points_that_are_not_finite_are_left_out(tmp_path):
    cloud = torch.randn(20, 2)
    cloud[3] = float("nan")
    cloud[4] = float("inf")
    finite = save_grid(cloud[[0, 1, 2, *range(5, 20)]], tmp_path / "finite.png")
    assert np.array_equal(colour_of(save_grid(cloud, tmp_path / "grid.png")), colour_of(finite))
