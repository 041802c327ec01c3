"""Kinds of image files, read by a converter, in training, as a mask and in prediction."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mmkdml.apis import load_config
from mmkdml.apis.prediction.image_pipeline import ImagePipeline
from mmkdml.apis.prediction.inputs import ReadOptions, find_sources, read_source
from mmkdml.datasets import (
    LoadBinaryMask,
    LoadCheckedImage,
    SplitClassificationDataset,
    image_files,
)
from mmkdml.datasets.converters import class_folder_rows
from mmkdml.datasets.images import read_image
from mmkdml.datasets.splits import SplitRow, write_splits

CONFIGS = Path(__file__).parents[2] / 'configs'
RGB = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
# Blocks of 8x8, which JPEG of the best quality stores exactly.
MASK = np.kron(np.array([[0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0] * 5]), np.full((8, 8), 255))
MASK = MASK.astype(np.uint8)
BITS = 'bits per channel'
TRANSPARENT = 'transparent pixels'
PAGES = 'several pages or frames'


def save(pixels, path, kind, **options):
    Image.fromarray(pixels).save(path, kind, **options)


def with_alpha(pixels, path, kind, hidden=0):
    """Save with an alpha channel in which some columns are transparent."""
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, :hidden] = 0
    if kind == 'WEBP' and pixels.ndim == 2:  # WebP has no grey images
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    save(np.dstack([pixels, alpha]), path, kind, **({'lossless': True} if kind == 'WEBP' else {}))


def palette(pixels, path, kind, **options):
    image = Image.fromarray(pixels)
    image = image.quantize(64) if pixels.ndim == 3 else image.convert('P')
    image.save(path, kind, **options)


def key_color(pixels, path, used):
    """Save with a transparent color."""
    color = tuple(map(int, np.atleast_1d(pixels[0, 0])))
    if not used:  # colors that do not occur
        color = (7,) if pixels.ndim == 2 else (*color[:2], (color[2] + 1) % 256)
    save(pixels, path, 'PNG', transparency=color[0] if len(color) == 1 else color)


def deep(pixels, path):
    assert cv2.imwrite(str(path), pixels.astype(np.uint16) * 200)


def deep_jpeg2000(pixels, path):
    deep(np.repeat(np.repeat(pixels, 4, 0), 4, 1), path.with_suffix('.jp2'))
    path.with_suffix('.jp2').rename(path)


def deep_ppm(pixels, path):
    kind = b'P6' if pixels.ndim == 3 else b'P5'
    path.write_bytes(kind + b' 40 24 65535\n' + (pixels.astype('>u2') * 200).tobytes())


def converted(pixels, path, kind, mode, **options):
    image = Image.fromarray(pixels)
    image = image.convert('RGB') if mode == 'LAB' else image
    image.convert(mode).save(path, kind, **options)


def several(pixels, path, kind, **options):
    more = [Image.fromarray(pixels[::-1].copy())]
    Image.fromarray(pixels).save(path, kind, save_all=True, append_images=more, **options)


def white_is_zero(pixels, path):
    """Save with inverted grey values."""
    save(255 - pixels if pixels.ndim == 2 else 255 - pixels[..., 0], path, 'TIFF')
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from('<I', content, 4)
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from('<H', content, start)[0], 12):
        if struct.unpack_from('<H', content, entry)[0] == 262:  # photometric interpretation
            struct.pack_into('<H', content, entry + 8, 0)
    path.write_bytes(content)


def turned(pixels, path, kind, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    save(pixels, path, kind, exif=exif, **({'quality': 100} if kind == 'JPEG' else {}))


def late_exif(pixels, path):
    """Save a PNG with its orientation after the pixels."""
    turned(pixels, path, 'PNG', 6)
    content = path.read_bytes()
    start = content.index(b'eXIf') - 4
    end = start + 12 + struct.unpack_from('>I', content, start)[0]
    trailer = content.index(b'IEND') - 4
    path.write_bytes(
        content[:start] + content[end:trailer] + content[start:end] + content[trailer:]
    )


# Writer and reason for an error, None if supported, by file name.
KINDS = {
    'rgb.png': (lambda a, p: save(a, p, 'PNG'), None),
    'rgb.tif': (lambda a, p: save(a, p, 'TIFF'), None),
    'lzw.tif': (lambda a, p: save(a, p, 'TIFF', compression='tiff_lzw'), None),
    'rgb.bmp': (lambda a, p: save(a, p, 'BMP'), None),
    'jpeg.jpg': (lambda a, p: save(a, p, 'JPEG', quality=100), None),
    'progressive.jpg': (
        lambda a, p: save(a, p, 'JPEG', quality=100, progressive=True, subsampling=0),
        None,
    ),
    'phone.jpg': (lambda a, p: several(a, p, 'MPO', quality=100), None),
    'lossless.webp': (lambda a, p: save(a, p, 'WEBP', lossless=True), None),
    'jpeg_named.png': (lambda a, p: save(a, p, 'JPEG', quality=100), None),
    'gif_named.png': (lambda a, p: palette(a, p, 'GIF'), None),
    'palette.png': (lambda a, p: palette(a, p, 'PNG'), None),
    'palette.tif': (lambda a, p: palette(a, p, 'TIFF'), None),
    'jpeg2000_named.png': (lambda a, p: save(a, p, 'JPEG2000'), None),
    'ppm_named.png': (lambda a, p: save(a, p, 'PPM'), None),
    'bilevel.tif': (lambda a, p: converted(a, p, 'TIFF', '1', compression='group4'), None),
    'bilevel.png': (lambda a, p: converted(a, p, 'PNG', '1'), None),
    'white_is_zero.tif': (white_is_zero, None),
    'opaque.png': (lambda a, p: with_alpha(a, p, 'PNG'), None),
    'opaque.tif': (lambda a, p: with_alpha(a, p, 'TIFF'), None),
    'key_unused.png': (lambda a, p: key_color(a, p, used=False), None),
    'turned.jpg': (lambda a, p: turned(a, p, 'JPEG', 6), None),
    'turned.png': (lambda a, p: turned(a, p, 'PNG', 3), None),
    'turned_late.png': (late_exif, None),
    'turned.tif': (lambda a, p: turned(a, p, 'TIFF', 8), None),
    'transparent.png': (lambda a, p: with_alpha(a, p, 'PNG', 1), TRANSPARENT),
    'transparent.tif': (lambda a, p: with_alpha(a, p, 'TIFF', 1), TRANSPARENT),
    'transparent.webp': (lambda a, p: with_alpha(a, p, 'WEBP', 1), TRANSPARENT),
    'transparent_palette.png': (lambda a, p: palette(a, p, 'PNG', transparency=0), TRANSPARENT),
    'key_used.png': (lambda a, p: key_color(a, p, used=True), TRANSPARENT),
    'deep.png': (deep, f'16 {BITS}'),
    'deep.tif': (deep, f'16 {BITS}'),
    'deep_jpeg2000.png': (deep_jpeg2000, f'16 {BITS}'),
    'deep_ppm.png': (deep_ppm, f'16 {BITS}'),
    'float.tif': (lambda a, p: converted(a, p, 'TIFF', 'F'), f'32 {BITS}'),
    'integers.tif': (lambda a, p: converted(a, p, 'TIFF', 'I'), f'32 {BITS}'),
    'cmyk.jpg': (lambda a, p: converted(a, p, 'JPEG', 'CMYK'), 'mode CMYK'),
    'lab.tif': (lambda a, p: converted(a, p, 'TIFF', 'LAB'), 'mode LAB'),
    'four_channels.tif': (
        lambda a, p: Image.fromarray(np.dstack([a] * 4)[..., :4], 'RGBX').save(p, 'TIFF'),
        '4 channels',
    ),
    'pages.tif': (lambda a, p: several(a, p, 'TIFF'), PAGES),
    'animated.webp': (lambda a, p: several(a, p, 'WEBP'), PAGES),
    'animated_gif.png': (lambda a, p: several(a, p, 'GIF'), PAGES),
    'animated.png': (lambda a, p: several(a, p, 'PNG'), PAGES),
    'text.png': (lambda a, p: p.write_text('no image'), 'unreadable image'),
    'truncated.jpg': (
        lambda a, p: (save(a, p, 'JPEG'), p.write_bytes(p.read_bytes()[:-9])),
        'unreadable image',
    ),
    'truncated.png': (
        lambda a, p: (save(a, p, 'PNG'), p.write_bytes(p.read_bytes()[:-99])),
        'unreadable image',
    ),
}  # fmt: skip


def result(function):
    """Return the result of a function, or the message of its error."""
    try:
        return function()
    except (ValueError, RuntimeError) as error:
        return str(error)


@pytest.fixture(scope='module')
def pipeline():
    return ImagePipeline(load_config(CONFIGS / 'demo' / 'kdml_v3_demo.py'))


@pytest.mark.parametrize('name', KINDS)
def test_all_readers_agree(tmp_path, pipeline, name):
    write, reason = KINDS[name]
    path, mask = tmp_path / 'classes' / 'a' / name, tmp_path / name
    path.parent.mkdir(parents=True)
    write(RGB, path)
    write(MASK, mask)
    save(RGB, tmp_path / 'classes' / 'b.png', 'PNG')
    (tmp_path / 'classes' / 'b').mkdir()
    (tmp_path / 'classes' / 'b.png').rename(tmp_path / 'classes' / 'b' / 'b.png')
    write_splits(tmp_path, {'train': [SplitRow('a', name, 'a', 0)]}, {})
    data = SplitClassificationDataset(
        ann_file=str(tmp_path / 'train.csv'),
        data_root=str(path.parent),
        pipeline=[dict(type=LoadCheckedImage)],
    )

    def predicted():
        case = read_source(*find_sources(path), ReadOptions())
        return [pipeline(path, pixels)[0] for pixels in case.images]

    cells = dict(
        converter=result(lambda: class_folder_rows(tmp_path / 'classes')),
        training=result(lambda: data[0]['img'][..., ::-1]),
        prediction=result(predicted),
        mask=result(
            lambda: LoadBinaryMask()(dict(seg_map_path=str(mask), seg_fields=[]))['gt_seg_map']
        ),
    )
    if reason == PAGES and name.endswith('.tif'):  # stacks are supported in prediction
        first, second = cells.pop('prediction')
        np.testing.assert_array_equal(first, RGB)
        np.testing.assert_array_equal(second, RGB[::-1])
    if reason is not None:
        assert not {cell: found for cell, found in cells.items() if reason not in found}
        assert not {cell: found for cell, found in cells.items() if name not in found}
        return
    # Oracles: OpenCV for images and Pillow for masks.
    by_hand = {'turned_late.png': np.rot90(RGB, -1), 'turned.tif': np.rot90(RGB)}
    seen = by_hand[name] if name in by_hand else cv2.imread(str(path))[..., ::-1]
    with Image.open(io.BytesIO(mask.read_bytes())) as image:  # Pillow may misread a path
        drawn = np.asarray(ImageOps.exif_transpose(image).convert('L'))
    assert len(cells['converter'][0]) == 2
    np.testing.assert_array_equal(cells['training'], seen)
    np.testing.assert_array_equal(cells['prediction'], [seen])
    if 'webp' in name:  # always RGB
        assert 'expected an image of mode L' in cells['mask']
    else:
        np.testing.assert_array_equal(cells['mask'], drawn > 127)
    if name == 'turned.tif':
        np.testing.assert_array_equal(drawn, np.rot90(MASK))
    lossy = ('jp', 'phone', 'palette', 'gif', 'bilevel', 'white', 'turned')
    if not any(word in name for word in lossy):
        np.testing.assert_array_equal(seen, RGB)


@pytest.mark.parametrize('buffered', [0, 2**22])
def test_turned_grey_tiff_is_read_correctly(tmp_path, monkeypatch, buffered):
    monkeypatch.setattr(image_files, '_BUFFERED_BYTES', buffered)
    turned(RGB[..., 0], tmp_path / 'x.tif', 'TIFF', 6)
    np.testing.assert_array_equal(read_image(tmp_path / 'x.tif', 'L'), np.rot90(RGB[..., 0], -1))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
def test_images_follow_exif_orientation(tmp_path, kind, orientation):
    turned(RGB, tmp_path / 'x', kind, orientation)
    with Image.open(tmp_path / 'x') as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    assert expected.shape == ((40, 24, 3) if orientation > 4 else (24, 40, 3))
    np.testing.assert_array_equal(read_image(tmp_path / 'x'), expected)
