"""What every network asks of its images: their sides, and the statistics that ImageNet weights expect."""

from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalize_image(rgb: Tensor) -> Tensor:
    """Shift and scale RGB in [0, 1], (..., 3, H, W), to the statistics that ImageNet weights expect."""
    return (rgb - rgb.new_tensor(IMAGE_MEAN)[:, None, None]) / rgb.new_tensor(IMAGE_STD)[:, None, None]


def require_sides(images: Tensor, size_multiple: int) -> None:
    """Make sure that images, (..., H, W), fit a network.

    Raises:
        ValueError: If a side is empty or not a multiple of ``size_multiple``.
    """
    height, width = images.shape[-2:]
    if height % size_multiple or width % size_multiple or not height or not width:
        raise ValueError(f"images: expected sides that are multiples of {size_multiple}, got {height}×{width}; pad")
