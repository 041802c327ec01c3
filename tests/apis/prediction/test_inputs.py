import os
import struct
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmkdml.apis.prediction.inputs import ReadOptions, Source, find_sources, read_source


def picture(path, seed=0, mode='RGB', size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    shape = (height, width, 3) if mode == 'RGB' else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def names(*args, **kwargs):
    return [source.name for source in find_sources(*args, **kwargs)]


def test_finds_images_stacks_and_series_in_a_folder(tmp_path):
    for name in ('b.png', 'a.tif', 'a_mask.tif', 'sub/c.JPG', 'two.png', 'two.bmp', '.hidden.png'):
        picture(tmp_path / name, format=None if name != 'sub/c.JPG' else 'JPEG')
    for name in ('notes.txt', 'volume.nii.gz', 'nodots'):
        (tmp_path / name).write_bytes(b'x')
    (tmp_path / 'series').mkdir()
    for name in ('series/1.2.840.5', 'series/1.2.840.6'):  # found by content
        (tmp_path / name).write_bytes(b'\0' * 128 + b'DICM')
    (tmp_path / 'top.dcm').write_bytes(b'')
    (tmp_path / '.hidden').mkdir()
    picture(tmp_path / '.hidden' / 'd.png')
    (tmp_path / 'DICOMDIR').write_bytes(b'\0' * 128 + b'DICM')  # an index of files
    assert names(tmp_path, exclude='*_mask.*') == [
        *('a', 'b', 'series', 'sub/c', tmp_path.name, 'two.bmp', 'two.png', 'volume')
    ]
    assert 'a_mask' in names(str(tmp_path))
    (series,) = (one for one in find_sources(tmp_path) if one.name == 'series')
    assert [path.name for path in series.files] == ['1.2.840.5', '1.2.840.6']
    # As a shell expands series/*; a single file keeps its own name.
    one, two = (tmp_path / 'series' / name for name in ('1.2.840.5', '1.2.840.6'))
    (both,) = find_sources([one, two])
    assert (both.name, both.files) == ('series', (one, two))
    assert names(one) == ['1.2.840.5']


def test_names_of_files_arrays_and_sequences(tmp_path):
    picture(tmp_path / 'x' / 'one.png')
    picture(tmp_path / 'y' / 'one.png')
    picture(tmp_path / 'y' / 'one_mask.png')
    gray = np.zeros((3, 4), np.uint8)
    files = [tmp_path / folder / 'one.png' for folder in 'xy']
    assert names(files[0]) == ['one']
    assert names([*files, gray, gray]) == ['one.png', 'one.png_2', 'array_2', 'array_3']
    assert names([tmp_path / 'y', files[0]], exclude='*_mask*') == ['one.png', 'one.png_2']
    assert names([tmp_path / 'y' / 'one_mask.png', files[0]], exclude='*_mask*') == ['one']


def test_names_are_valid_text_and_unique(tmp_path):
    for name in ('a b.png', 'ö-Ä 画像.png', 'a..b.png', 'x.png', 'x.png.png', 'x.jpg', "'$1$'.png"):
        picture(tmp_path / name)
    (tmp_path / os.fsdecode(b'\xe4.png')).write_bytes(b'')  # Latin-1, from another system
    picture(tmp_path / 'sub' / 'up.png')
    found = names(tmp_path / 'sub' / '..')
    assert sorted(found) == sorted(
        ["'$1$'", 'a b', 'a..b', 'sub/up', 'x.jpg', 'x.png', 'x.png_2', 'ö-Ä 画像', '\ufffd']
    )
    assert names([tmp_path / 'x.png'] * 3) == ['x.png', 'x.png_2', 'x.png_3']


def test_links_are_followed_once(tmp_path):
    picture(tmp_path / 'data' / 'a.png')
    picture(tmp_path / 'elsewhere' / 'b.png')
    picture(tmp_path / 'c.png')
    (tmp_path / 'data' / 'c.png').symlink_to(tmp_path / 'c.png')
    (tmp_path / 'data' / 'linked').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'data' / 'loop').symlink_to(tmp_path / 'data')
    (tmp_path / 'elsewhere' / 'back').symlink_to(tmp_path / 'data')
    assert names(tmp_path / 'data') == ['a', 'c', 'linked/b']
    assert names(tmp_path / 'data' / 'loop') == ['a', 'c', 'linked/b']


def test_broken_links_raise_when_they_are_read(tmp_path):
    picture(tmp_path / 'good.png')
    (tmp_path / 'gone.png').symlink_to(tmp_path / 'nowhere')
    (tmp_path / 'round.png').symlink_to(tmp_path / 'round.png')
    (tmp_path / 'x.png').mkdir()
    picture(tmp_path / 'x.png' / 'inside.png')
    os.mkfifo(tmp_path / 'pipe.png')  # reading it would block
    found = {source.name: source for source in find_sources(tmp_path)}
    assert list(found) == ['gone', 'good', 'round', 'x.png/inside']
    for name, error in (('gone', 'FileNotFoundError'), ('round', 'OSError')):
        with pytest.raises(ValueError, match=f'{name}.png: unreadable image .{error}'):
            read_source(found[name], ReadOptions())


@pytest.fixture
def public_folder():
    """Create a folder that other users may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_files_without_permission_raise_when_they_are_read(public_folder):
    for name in ('good.png', 'file.png', 'inside/a.png', 'listed/b.png', 'UID'):
        picture(public_folder / name, format='PNG')
    forbidden = [public_folder / name for name in ('file.png', 'inside', 'listed', 'UID')]
    for path in forbidden:
        path.chmod(0o400 if path.name == 'listed' else 0)
    root = not os.geteuid()
    if root:  # root may read everything: become another user
        os.chown(public_folder / 'listed', 65534, -1)
        os.setresuid(65534, 65534, 0)
    try:
        found = {source.name: source for source in find_sources(public_folder)}
        assert list(found) == ['UID', 'file', 'good', 'inside', 'listed/b']
        read_source(found.pop('good'), ReadOptions())
        for source in found.values():
            with pytest.raises(ValueError, match=r'unreadable image \(PermissionError'):
                read_source(source, ReadOptions())
        (folder,) = find_sources(public_folder / 'inside')
        with pytest.raises(ValueError, match=r'inside: unreadable image \(PermissionError'):
            read_source(folder, ReadOptions())
    finally:
        if root:
            os.setresuid(0, 0, 0)
        for path in forbidden:
            path.chmod(0o700)


def test_invalid_inputs_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match='No such image or folder: nowhere'):
        find_sources('nowhere')
    (tmp_path / 'readme.txt').write_text('x')
    with pytest.raises(ValueError, match='No images in .*: expected DICOM or files .*png'):
        find_sources(tmp_path)
    picture(tmp_path / 'x.png')
    with pytest.raises(ValueError, match=r'No images in .*, except \*.png'):
        find_sources(tmp_path, exclude='*.png')
    with pytest.raises(ValueError, match='images: .*at least one, got none'):
        find_sources([])
    with pytest.raises(TypeError, match='a path, an array or a sequence of these, got int'):
        find_sources([3])


def test_stack_is_read_and_single_image_is_left_to_the_pipeline(tmp_path):
    picture(tmp_path / 'one.tif')
    assert read_source(*find_sources(tmp_path / 'one.tif'), ReadOptions()).images == [None]
    color, gray = picture(tmp_path / 'x.png'), picture(tmp_path / 'y.png', 1, 'L')
    black = Image.fromarray(gray > 127)
    Image.fromarray(color).save(
        tmp_path / 'stack.tif', save_all=True, append_images=[Image.fromarray(gray), black]
    )
    pages = read_source(*find_sources(tmp_path / 'stack.tif'), ReadOptions()).images
    np.testing.assert_array_equal(pages[0], color)
    np.testing.assert_array_equal(pages[1], gray)
    np.testing.assert_array_equal(pages[2], 255 * (gray > 127))


def test_volume_is_read_as_slices(tmp_path):
    nibabel = pytest.importorskip('nibabel')
    voxels = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / 'x.nii.gz')
    (source,) = find_sources(tmp_path)
    case = read_source(source, ReadOptions())
    assert [image.shape for image in case.images] == [(5, 4)] * 3
    assert read_source(source, ReadOptions(plane='coronal')).volume.slices.shape == (5, 3, 4)
    slices = read_source(source, ReadOptions(window=(-1e-3, 1e-3))).volume.slices
    assert (slices[0].T[::-1, ::-1] > 127).tolist() == (voxels[..., 0] > 0).tolist()
    read_source(source, ReadOptions(max_pixels=20))  # per slice
    with pytest.raises(ValueError, match=r'x.nii.gz: .* megavoxels \(5, 4\) are more'):
        read_source(source, ReadOptions(max_pixels=19))
    voxels = np.repeat(voxels, 4, axis=2)
    nibabel.save(nibabel.Nifti1Image(voxels[..., :11], np.eye(4)), tmp_path / 'x.nii.gz')
    with pytest.raises(ValueError, match=r'megavoxels \(4, 5, 11\) are more'):
        read_source(source, ReadOptions(max_pixels=20))  # ten times as many: 200


def test_palette_pages_are_converted_to_rgb(tmp_path):
    colors = Image.fromarray(picture(tmp_path / 'x.png')).quantize(8)
    colors.save(tmp_path / 'palette.tif', save_all=True, append_images=[colors])
    first, second = read_source(*find_sources(tmp_path / 'palette.tif'), ReadOptions()).images
    np.testing.assert_array_equal(first, np.asarray(colors.convert('RGB')))
    np.testing.assert_array_equal(first, second)


def write_small_png(path, width, height):
    """Write a PNG of a few bytes whose header declares a large image."""

    def chunk(kind, content):
        code = struct.pack('>I', zlib.crc32(kind + content))
        return struct.pack('>I', len(content)) + kind + content + code

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    data = chunk(b'IDAT', zlib.compress(bytes(99)))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + data + chunk(b'IEND', b''))
    return path


def cut_in_half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.filterwarnings('error')
def test_unsupported_and_unreadable_images_raise(tmp_path):
    for name in ('cut.png', 'cut.jpg', 'cut.tif', 'packed.tif', 'cut.bmp', 'cut.webp'):
        options = dict(compression='tiff_lzw') if name == 'packed.tif' else {}
        picture(tmp_path / name, size=(60, 60), **options)
        cut_in_half(tmp_path / name)
    pages = [Image.new('L', (60, 60))] * 3
    pages[0].save(tmp_path / 'stack.tif', save_all=True, append_images=pages[1:])
    cut_in_half(tmp_path / 'stack.tif')
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    for mode in ('RGBA', 'LA', 'I;16', 'F', 'I'):
        Image.new(mode, (4, 4)).save(tmp_path / f'{mode[-2:]}.tif')
    Image.new('CMYK', (4, 4)).save(tmp_path / 'CMYK.jpg')
    cv2.imwrite(str(tmp_path / 'deep.png'), np.zeros((4, 4, 3), np.uint16))
    cv2.imwrite(str(tmp_path / 'deep.tif'), np.zeros((4, 4, 3), np.uint16))
    # Two channels, neither of which is marked as alpha.
    (tmp_path / 'two.tif').write_bytes(
        (tmp_path / 'LA.tif').read_bytes().replace(b'\x52\x01\x03', b'\x53\xfd\x03')
    )
    Image.new('L', (4, 4)).save(
        tmp_path / 'float.tif', save_all=True, append_images=[Image.new('F', (4, 4))]
    )
    Image.new('L', (4, 4)).save(
        tmp_path / 'sizes.tif', save_all=True, append_images=[Image.new('L', (4, 5))]
    )
    eight = 'expected an 8-bit grey, RGB or palette image, got'
    for name, message in {
        **dict.fromkeys(('cut.png', 'cut.jpg', 'cut.tif', 'packed.tif'), 'unreadable image'),
        **dict.fromkeys(('cut.bmp', 'cut.webp', 'stack.tif'), 'unreadable image'),
        'text.png': 'unreadable image .UnidentifiedImageError',
        'empty.jpg': 'unreadable image',
        'BA.tif': r'expected an opaque image, got 16 transparent pixels \(mode RGBA\)',
        'LA.tif': r'expected an opaque image, got 16 transparent pixels \(mode LA\)',
        '16.tif': rf'{eight} 16 bits per channel \(mode I;16\)\. Convert',
        'F.tif': rf'{eight} 32 bits per channel \(mode F\)\. Convert',
        'I.tif': rf'{eight} 32 bits per channel \(mode I\)\. Convert',
        'CMYK.jpg': rf'{eight} mode CMYK\. Convert',
        'deep.png': rf'{eight} 16 bits per channel \(mode RGB\)\. Convert',
        'deep.tif': rf'{eight} 16 bits per channel \(mode RGB\)\. Convert',
        'two.tif': 'unreadable image',
        'float.tif': rf'{eight} 32 bits per channel \(mode F\) on page 2\. Convert',
        'sizes.tif': r'expected pages of one size \(4, 4\), got \(4, 5\) on page 2',
    }.items():
        with pytest.raises(ValueError, match=f'{name}: {message}') as refused:
            read_source(*find_sources(tmp_path / name), ReadOptions())
        assert '\n' not in str(refused.value)


@pytest.mark.filterwarnings('error')
def test_too_large_files_are_not_decoded(tmp_path, monkeypatch):
    write_small_png(tmp_path / 'claim.png', 100_000, 100_000)
    write_small_png(tmp_path / 'bomb.png', 12_000, 8_000)
    pages = [Image.new('1', (5000, 4000))] * 26
    pages[0].save(tmp_path / 'pages.tif', save_all=True, append_images=pages[1:])
    tracemalloc.start()
    try:
        for name, number in (('claim.png', 10000), ('bomb.png', 96), ('pages.tif', 520)):
            most = 500 if name == 'pages.tif' else 50
            message = f'{name}: {number}.0 megapixels are more than {most}. Cut it into tiles'
            with pytest.raises(ValueError, match=message):
                read_source(*find_sources(tmp_path / name), ReadOptions())
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    picture(tmp_path / 'small.png', size=(60, 60))
    with pytest.raises(ValueError, match='small.png: 0.0 megapixels are more than 0.003. Cut it'):
        read_source(*find_sources(tmp_path / 'small.png'), ReadOptions(max_pixels=3000))
    assert read_source(*find_sources(tmp_path / 'small.png'), ReadOptions(max_pixels=3600))
    # Pillow's own limit is lifted temporarily.
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert read_source(*find_sources(tmp_path / 'small.png'), ReadOptions())
    assert Image.MAX_IMAGE_PIXELS == 100


def test_invalid_options_raise():
    with pytest.raises(ValueError, match='plane: .*axial, coronal, sagittal, got .x.'):
        ReadOptions(plane='x')
    for window in ((5, 5), (3, 1), (float('nan'), 1)):
        with pytest.raises(ValueError, match='window: .* got '):
            ReadOptions(window=window)


@pytest.mark.parametrize(
    ('pixels', 'message'),
    [
        (np.zeros((4, 4, 4), np.uint8), r'got \(4, 4, 4\) uint8\. Pass several images as a list'),
        (np.zeros((4, 4, 3), np.float32), r'got \(4, 4, 3\) float32'),
        (np.zeros(4, np.uint8), r'got \(4,\) uint8'),
        (np.zeros((0, 4), np.uint8), r'at least one pixel, got shape \(0, 4\)'),
        (np.zeros((40, 40), np.uint8), r'array \(40, 40\): 0.0 megapixels'),
    ],
)
def test_invalid_arrays_raise(pixels, message):
    with pytest.raises(ValueError, match=message):
        read_source(Source('x', pixels=pixels), ReadOptions(max_pixels=1000))


def test_files_of_several_channels(tmp_path):
    array = np.random.default_rng(0).integers(0, 9, (6, 5, 4)).astype(np.float32)
    np.save(tmp_path / 'a.npy', array)
    Image.fromarray(array[..., 0].astype(np.uint8)).save(tmp_path / 'b.png')
    assert [source.name for source in find_sources(tmp_path)] == ['b']
    first, second = find_sources(tmp_path, channels=4)
    assert (first.name, second.name) == ('a', 'b')
    options = ReadOptions(channels=4)
    assert read_source(first, options).images == [None]  # loaded by the pipeline
    with pytest.raises(ValueError, match='b.png: expected 4 channels, got 1'):
        read_source(second, options)
    with pytest.raises(ValueError, match='a.npy: .*megapixels'):
        read_source(first, ReadOptions(channels=4, max_pixels=29))
    (source,) = find_sources(array)
    assert read_source(source, options).images[0] is array
    for wrong in (array[..., :3], array.astype(np.float64), array[None]):
        (source,) = find_sources(wrong)
        with pytest.raises(ValueError, match=r'array: expected \(H, W, 4\) of uint8, .*got \('):
            read_source(source, options)


def test_volumes_of_networks_with_channels_keep_their_intensities(tmp_path):
    nibabel = pytest.importorskip('nibabel')
    voxels = np.random.default_rng(0).integers(-900, 900, (3, 4, 5)).astype(np.int16)
    volume = nibabel.Nifti1Image(voxels, np.eye(4))
    nibabel.save(volume, tmp_path / 'x.nii.gz')
    (source,) = find_sources(tmp_path)
    images = read_source(source, ReadOptions(channels=1)).images
    assert images[2].dtype == np.int16
    np.testing.assert_array_equal(images[2][::-1, ::-1].T, voxels[..., 2])
    window = ReadOptions(channels=1, window=(0, 255))
    shown = read_source(source, window).images[2]
    np.testing.assert_array_equal(shown[::-1, ::-1].T, voxels[..., 2].clip(0, 255))
    with pytest.raises(ValueError, match=r'x.nii.gz: expected 4 channels, .*: got 1'):
        read_source(source, ReadOptions(channels=4))
