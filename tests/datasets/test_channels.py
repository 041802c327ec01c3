import struct

import numpy as np
import pytest
from PIL import Image

from mmkdml.datasets import LoadMultiChannelImage, convert_folders, read_split
from mmkdml.datasets.channels import as_picture, read_channels, read_picture
from mmkdml.datasets.images import ImageHeader, read_image
from mmkdml.datasets.transforms import header_of

RNG = np.random.default_rng(0)


def pixels(channels, dtype='uint8', size=(5, 7)):
    return (RNG.random((*size, channels)) * 250).astype(dtype)


def save(path, array, **options):
    """Save channels in the format of the suffix."""
    if path.suffix == '.npy':
        np.save(path, array)
    elif path.suffix == '.tif':
        pages = [Image.fromarray(np.ascontiguousarray(one)) for one in np.moveaxis(array, 2, 0)]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    else:
        modes = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
        Image.fromarray(array.squeeze(), modes[array.shape[2]]).save(path, **options)
    return path


@pytest.mark.parametrize(
    ('name', 'channels', 'dtype'),
    [
        *((f'x.{kind}', n, 'uint8') for kind in ('npy', 'tif') for n in (1, 2, 3, 4, 13)),
        *(('x.npy', 4, dtype) for dtype in ('uint16', 'int16', 'float32')),
        *(('x.tif', 4, dtype) for dtype in ('uint16', 'float32')),
        *(('x.png', n, 'uint8') for n in (1, 2, 3, 4)),
    ],
)
def test_all_channels_are_read_unchanged(tmp_path, name, channels, dtype):
    array = pixels(channels, dtype)
    found, header = read_channels(save(tmp_path / name, array), channels)
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, header) == (np.dtype(dtype), ImageHeader((7, 5)))
    found[:] = 0  # writable
    other = channels + 1
    with pytest.raises(ValueError, match=f'x..*: expected {other} channels, got {channels}.*5, 7'):
        read_channels(tmp_path / name, other)


def test_other_floats_and_gray_arrays(tmp_path):
    for dtype in ('float16', 'float64'):
        np.save(tmp_path / 'x', pixels(1, dtype)[..., 0])
        found, _ = read_channels(tmp_path / 'x.npy', 1)
        assert (found.dtype, found.shape) == (np.float32, (5, 7, 1))
    array = np.asfortranarray(pixels(4))
    np.save(tmp_path / 'x', array)
    np.testing.assert_array_equal(read_channels(tmp_path / 'x.npy')[0], array)


def test_tiff_with_alpha_and_16_bit_png(tmp_path):
    array = pixels(4)
    Image.fromarray(array, 'RGBA').save(tmp_path / 'x.tif')
    np.testing.assert_array_equal(read_channels(tmp_path / 'x.tif', 4)[0], array)
    deep = pixels(1, 'uint16') * 200
    Image.fromarray(deep[..., 0]).save(tmp_path / 'x.png')
    np.testing.assert_array_equal(read_channels(tmp_path / 'x.png', 1)[0], deep)


def test_content_decides_not_the_suffix(tmp_path):
    array = pixels(4)
    np.save(tmp_path / 'x.npy', array)
    (tmp_path / 'x.npy').rename(tmp_path / 'x.png')
    np.testing.assert_array_equal(read_channels(tmp_path / 'x.png', 4)[0], array)


@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_images_are_rotated_as_by_read_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / 'x.png', pixels(3), exif=exif)
    found, header = read_channels(path, 3)
    np.testing.assert_array_equal(found, read_image(path))
    assert header == ImageHeader((7, 5), orientation)


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (np.zeros((5, 7, 4), 'int64'), 'pixels of uint8, uint16, int16, float32, got int64'),
        (np.zeros((5, 7, 4), 'complex64'), 'got complex64'),
        (np.zeros(5, 'uint8'), r'\(H, W\) or \(H, W, C\), got \(5,\)'),
        (np.zeros((0, 7, 4), 'uint8'), r'got \(0, 7, 4\)'),
        (np.zeros((4, 5, 600), 'uint8'), r'at most 512 channels, got \(4, 5, 600\).*last axis'),
        (np.array([[[1, np.nan]]], 'float32'), 'finite pixels, got NaN'),
        (np.array([[dict()]]), 'unreadable image.*Python objects'),
    ],
)
def test_invalid_arrays_raise(tmp_path, array, message):
    np.save(tmp_path / 'x.npy', array, allow_pickle=True)
    with pytest.raises(ValueError, match=f'x.npy: .*{message}'):
        read_channels(tmp_path / 'x.npy')


def test_damaged_and_large_files_raise(tmp_path):
    np.save(tmp_path / 'x.npy', pixels(4))
    with pytest.raises(ValueError, match='x.npy: .*megapixels'):
        read_channels(tmp_path / 'x.npy', max_pixels=34)
    content = (tmp_path / 'x.npy').read_bytes()
    (tmp_path / 'x.npy').write_bytes(content[:-1])
    with pytest.raises(ValueError, match='x.npy: unreadable image'):
        read_channels(tmp_path / 'x.npy')
    with pytest.raises(ValueError, match='nowhere.npy: unreadable image'):
        read_channels(tmp_path / 'nowhere.npy')


def test_unsupported_images_name_what_to_do(tmp_path):
    first, second = (Image.fromarray(pixels(1, size=size)[..., 0]) for size in ((5, 7), (4, 7)))
    first.save(tmp_path / 'sizes.tif', save_all=True, append_images=[second])
    first.convert('RGB').save(tmp_path / 'colors.tif', save_all=True, append_images=[first])
    first.convert('P').save(tmp_path / 'palette.png')
    first.save(tmp_path / 'animation.gif', save_all=True, append_images=[first.rotate(90)])
    Image.fromarray(pixels(4), 'CMYK').save(tmp_path / 'cmyk.tif')
    for name, message in {
        'sizes.tif': r'one size and type, got \(4, 7, 1\) uint8 and \(5, 7, 1\)',
        'colors.tif': 'mode RGB, 3 channels of 8 bits on a page',
        'palette.png': 'mode P, 1 channels',
        'animation.gif': 'animation',
        'cmyk.tif': 'mode CMYK, 4 channels',
    }.items():
        with pytest.raises(ValueError, match=rf'{name}: expected .*{message}.*\.npy \(H, W, C\)'):
            read_channels(tmp_path / name)


def test_tiff_of_five_samples_is_refused(tmp_path):
    tags = [(256, 4, 1, 2), (257, 4, 1, 1), (258, 3, 5, 134), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 144), (277, 3, 1, 5), (278, 4, 1, 1), (279, 4, 1, 10), (338, 3, 4, 154)]
    head = b'II*\0' + struct.pack('<IH', 8, len(tags))
    body = b''.join(struct.pack('<HHII', *tag) for tag in tags) + bytes(4)
    (tmp_path / 'x.tif').write_bytes(
        head + body + struct.pack('<5H', *[8] * 5) + bytes(range(10)) + bytes(8)
    )
    with pytest.raises(ValueError, match='x.tif: .*more than 4 channels per page.*npy'):
        read_channels(tmp_path / 'x.tif')


@pytest.mark.parametrize(('dtype', 'low', 'high'), [('uint8', 3, 200), ('float32', -2.5, 7)])
def test_picture_is_the_first_channel_in_gray(dtype, low, high):
    array = np.zeros((2, 3, 4), dtype)
    array[..., 0], array[0, 0, 0], array[..., 1] = low, high, 99
    picture = as_picture(array)
    assert (picture.shape, picture.dtype) == ((2, 3, 3), np.uint8)
    expected = (low, high) if dtype == 'uint8' else (0, 255)
    assert (picture[1, 1].tolist(), picture[0, 0].tolist()) == tuple([x] * 3 for x in expected)
    assert as_picture(np.full((2, 2), 1.5)).max() == 0  # constant


def test_pictures_of_files(tmp_path):
    array = pixels(4)
    array[..., 3] = np.maximum(array[..., 3], 1)
    for name in ('x.npy', 'x.tif', 'x.png'):  # the PNG is transparent
        picture = read_picture(save(tmp_path / name, array))
        np.testing.assert_array_equal(picture, np.repeat(array[..., :1], 3, axis=2))
    path = save(tmp_path / 'rgb.png', pixels(3))
    np.testing.assert_array_equal(read_picture(path), read_image(path))
    Image.fromarray(pixels(4), 'CMYK').save(tmp_path / 'cmyk.tif')
    with pytest.raises(ValueError, match='cmyk.tif: expected an 8-bit'):
        read_picture(tmp_path / 'cmyk.tif')


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 13])
def test_loading_reverses_only_three_channels(tmp_path, channels):
    array = pixels(channels)
    path = save(tmp_path / 'x.npy', array)
    results = LoadMultiChannelImage(channels)(dict(img_path=str(path)))
    np.testing.assert_array_equal(results['img'], array[..., ::-1] if channels == 3 else array)
    assert results['img_shape'] == results['ori_shape'] == (5, 7)
    assert results['image_header'] == header_of(dict(img_path=str(path)))


@pytest.mark.parametrize('channels', [0, -1, 513, 2.0, None])
def test_invalid_number_of_channels_raises(channels):
    with pytest.raises(ValueError, match=f'channels: expected 1 to 512, got {channels}'):
        LoadMultiChannelImage(channels)


def test_converter_checks_the_channels(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        for index in range(6):
            suffix = 'npy' if index % 2 else 'tif'
            save(tmp_path / name / f'{index}.{suffix}', pixels(4))
    convert_folders(tmp_path, tmp_path / 'splits', channels=4, ratios=(50, 25, 25))
    rows = [
        row
        for part in ('train', 'val', 'test')
        for row in read_split(tmp_path / f'splits/{part}.csv')
    ]
    assert sorted(row.path for row in rows)[:2] == ['a/0.tif', 'a/1.npy']
    assert len(rows) == 12
    save(tmp_path / 'b' / '7.npy', pixels(3))
    with pytest.raises(ValueError, match='b/7.npy: expected 4 channels, got 3'):
        convert_folders(tmp_path, tmp_path / 'other', channels=4)
    with pytest.raises(ValueError, match='a/0.tif: expected a single image'):
        convert_folders(tmp_path, tmp_path / 'other')
