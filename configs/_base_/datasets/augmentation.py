"""Augmentation of the paper (section 4.2): flips, transpose, rotation, shift and scale."""

from albumentations import Affine, HorizontalFlip, Transpose, VerticalFlip

augmentation = [
    dict(type=HorizontalFlip, p=0.5),
    dict(type=VerticalFlip, p=0.5),
    dict(type=Transpose, p=0.5),
    dict(
        type=Affine, rotate=(-45, 45), translate_percent=(-0.0625, 0.0625), scale=(0.9, 1.1), p=0.5
    ),
]
