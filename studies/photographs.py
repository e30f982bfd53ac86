"""Photographs of 16×16 pixels: CIFAR-10 at half resolution, each pixel the mean of 2×2.

    python studies/photographs.py SOURCE.npz photographs16.npz

SOURCE.npz holds uint8 images N×3×32×32 as `train_images` and `test_images`, with `train_labels` and `test_labels`.
"""

import sys

import numpy as np


def halved(images: np.ndarray) -> np.ndarray:
    """N×3×32×32 -> N×3×16×16, rounded to grey levels."""
    n, channels, height, width = images.shape
    blocks = images.reshape(n, channels, height // 2, 2, width // 2, 2).astype(np.float32)
    return blocks.mean((3, 5)).round().astype(np.uint8)


def main(source: str, target: str) -> None:
    with np.load(source) as data:
        images = {name: halved(data[name]) for name in ("train_images", "test_images")}
        labels = {name: data[name].astype(np.int64) for name in ("train_labels", "test_labels")}
    np.savez(target, **images, **labels)
    print(f"{target}: {', '.join(f'{name} {array.shape}' for name, array in images.items())}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
