"""mgcda_core.models.resize: Pillow's resizing, value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mgcda_core.models.resize import resize_bicubic_float, resize_bicubic_u8, resize_nearest, truncate_8bit

# Up, down, mixed, odd and degenerate; black and white blocks make the filter overshoot between the passes.
SIZES = [
    ((72, 128), (100, 200)), ((100, 200), (25, 50)), ((108, 192), (102, 204)), ((37, 53), (128, 64)),
    ((90, 31), (40, 17)), ((33, 47), (33, 20)), ((1, 5), (4, 9)), ((64, 128), (64, 128)),
    ((50, 70), (51, 1)), ((80, 60), (13, 55)),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_bicubic_u8_is_bit_equal_to_pillow(before: tuple[int, int], after: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(before) * sum(after))
    for image in (rng.integers(0, 256, (*before, 3), np.uint8), rng.integers(0, 2, (*before, 3), np.uint8) * 255):
        expected = np.asarray(Image.fromarray(image).resize((after[1], after[0]), Image.Resampling.BICUBIC))
        ours = resize_bicubic_u8(torch.from_numpy(image).permute(2, 0, 1)[None], after)
        assert np.array_equal(ours[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_bicubic_float_and_nearest_equal_pillow(before: tuple[int, int], after: tuple[int, int]) -> None:
    score = np.random.default_rng(1).random(before, np.float32)
    image = Image.fromarray(score)
    ours = resize_bicubic_float(torch.from_numpy(score)[None, None], after)[0, 0].numpy()
    expected = np.asarray(image.resize((after[1], after[0]), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2.5e-7)  # one unit in the last place
    nearest = resize_nearest(torch.from_numpy(score), after).numpy()
    assert np.array_equal(nearest, np.asarray(image.resize((after[1], after[0]), Image.Resampling.NEAREST)))


def test_nearest_takes_the_pixel_centre_and_any_type() -> None:
    a = torch.arange(32 * 64).view(1, 1, 32, 64)
    assert torch.equal(resize_nearest(a, (8, 16)), a[..., 2::4, 2::4])
    assert torch.equal(resize_nearest(a[0, 0], (8, 16)), a[0, 0, 2::4, 2::4])
    assert resize_nearest(a.to(torch.uint8), (8, 16)).dtype == torch.uint8


def test_batches_resize_sample_by_sample() -> None:
    batch = torch.randint(0, 256, (3, 3, 20, 30), dtype=torch.uint8)
    whole = resize_bicubic_u8(batch, (31, 17))
    for k in range(3):
        assert torch.equal(whole[k : k + 1], resize_bicubic_u8(batch[k : k + 1], (31, 17)))


def test_float_input_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        resize_bicubic_u8(torch.rand(1, 3, 4, 4), (8, 8))


def test_quantisation_rules() -> None:
    values = torch.tensor([254.7, 2.5, 300.0, -1.0], dtype=torch.float64) / 255
    assert (truncate_8bit(values) * 255).round().tolist() == [254, 2, 255, 0]
    steps = torch.arange(256) / 255
    assert torch.equal(truncate_8bit(steps), steps)  # k / 255 * 255 is exact in float32
