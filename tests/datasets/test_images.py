import numpy as np
import pytest
from PIL import Image

from mmkdml.datasets.images import read_binary_mask, read_image

DISC = np.hypot(*np.mgrid[-4:5, -4:5]) < 3


def palette_image(colors, pixels):
    image = Image.fromarray(pixels.astype(np.uint8), 'P')
    image.putpalette(np.repeat(np.asarray(colors, np.uint8), 3).tolist())
    return image


def black_and_white():
    return Image.fromarray(DISC)


MASKS = {
    '0 and 255': lambda: Image.fromarray((255 * DISC).astype(np.uint8)),
    '0 and 1': lambda: Image.fromarray(DISC.astype(np.uint8)),
    'black and white': black_and_white,
    'palette': lambda: palette_image([0, 255], DISC),
    'palette turned round': lambda: palette_image([255, 0], ~DISC),
    'palette with colors unused': lambda: palette_image([9, 0, 7, 255, 99], 1 + 2 * DISC),
    'palette of 0 and 1': lambda: palette_image([1, 0], ~DISC),
    'palette from grey': lambda: MASKS['0 and 255']().convert('P'),
}


@pytest.mark.parametrize('name', MASKS)
@pytest.mark.parametrize('ending', ['png', 'tif'])
def test_masks_of_all_storage_modes(tmp_path, name, ending):
    MASKS[name]().save(tmp_path / f'mask.{ending}')
    mask = read_binary_mask(tmp_path / f'mask.{ending}')
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, DISC)


@pytest.mark.parametrize(('value', 'expected'), [(0, 0), (1, 1), (255, 1)])
def test_masks_of_one_value(tmp_path, value, expected):
    Image.fromarray(np.full((3, 5), value, np.uint8)).save(tmp_path / 'mask.png')
    assert np.array_equal(read_binary_mask(tmp_path / 'mask.png'), np.full((3, 5), expected))


@pytest.mark.parametrize(
    ('image', 'values'),
    [
        (Image.fromarray((127 * DISC).astype(np.uint8)), '0, 127'),
        (Image.fromarray(np.uint8([[0, 1, 255]])), '0, 1, 255'),
        (Image.fromarray(np.arange(12, dtype=np.uint8)[None]), r'0, 1, 2, 3, 4, 5, 6, 7, \.\.\.'),
        # The indices are 0 and 1, the colors are not.
        (palette_image([0, 128], DISC), '0, 128'),
    ],
)
def test_nonbinary_masks_raise(tmp_path, image, values):
    image.save(tmp_path / 'm.png')
    with pytest.raises(ValueError, match=f'm.png: expected a binary mask, .* values {values}$'):
        read_binary_mask(tmp_path / 'm.png')


def test_color_mask_raises(tmp_path):
    Image.new('RGB', (3, 3)).save(tmp_path / 'm.png')
    with pytest.raises(ValueError, match='m.png: expected an image of mode L or .*, got RGB'):
        read_binary_mask(tmp_path / 'm.png')


def test_images_keep_their_pixels(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'i.png')
    assert np.array_equal(read_image(str(tmp_path / 'i.png'), modes=('L', 'RGB')), rgb)
    with pytest.raises(ValueError, match='i.png: expected an image of mode L, got RGB'):
        read_image(tmp_path / 'i.png', modes=('L',))


def test_missing_or_invalid_files_raise(tmp_path):
    with pytest.raises(ValueError, match=r'x.png: unreadable image \(FileNotFoundError'):
        read_image(tmp_path / 'x.png')
    (tmp_path / 'x.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'x.png: unreadable image \(UnidentifiedImageError'):
        read_binary_mask(tmp_path / 'x.png')
