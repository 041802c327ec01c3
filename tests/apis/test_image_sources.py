import numpy as np
import pytest
from PIL import Image

from mmkdml.apis.image_sources import ReadOptions, Source, find_sources, read_source


def picture(path, seed=0, mode='RGB', size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    shape = (height, width, 3) if mode == 'RGB' else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def names(*args, **kwargs):
    return [source.name for source in find_sources(*args, **kwargs)]


def test_cases_of_a_folder(tmp_path):
    for name in ('b.png', 'a.tif', 'a_mask.tif', 'sub/c.JPG', 'two.png', 'two.bmp', '.hidden.png'):
        picture(tmp_path / name, format=None if name != 'sub/c.JPG' else 'JPEG')
    for name in ('notes.txt', 'volume.nii.gz', 'nodots'):
        (tmp_path / name).write_bytes(b'x')
    (tmp_path / 'series').mkdir()
    for name in ('series/1.2.840.5', 'series/1.2.840.6'):  # by its content, as a UID has no suffix
        (tmp_path / name).write_bytes(b'\0' * 128 + b'DICM')
    (tmp_path / 'top.dcm').write_bytes(b'')
    expected = ['a', 'b', 'sub/c', 'two.bmp', 'two.png', 'volume']
    assert names(tmp_path, exclude='*_mask.*') == [*expected, 'series', tmp_path.name]
    assert 'a_mask' in names(str(tmp_path))
    (series,) = (one for one in find_sources(tmp_path) if one.name == 'series')
    assert [path.name for path in series.files] == ['1.2.840.5', '1.2.840.6']


def test_files_arrays_and_sequences(tmp_path):
    picture(tmp_path / 'x' / 'one.png')
    picture(tmp_path / 'y' / 'one.png')
    picture(tmp_path / 'y' / 'one_mask.png')
    grey = np.zeros((3, 4), np.uint8)
    files = [tmp_path / folder / 'one.png' for folder in 'xy']
    assert names(files[0]) == ['one']
    assert names([*files, grey, grey]) == ['one.png', 'one.png_2', 'array_2', 'array_3']
    assert names([tmp_path / 'y', files[0]], exclude='*_mask*') == ['one.png', 'one.png_2']
    assert names([tmp_path / 'y' / 'one_mask.png', files[0]], exclude='*_mask*') == ['one']


def test_refusals_of_what_was_given(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no image or folder nowhere'):
        find_sources('nowhere')
    (tmp_path / 'readme.txt').write_text('x')
    with pytest.raises(ValueError, match='holds no image: expected files with one of .png'):
        find_sources(tmp_path)
    picture(tmp_path / 'x.png')
    with pytest.raises(ValueError, match=r'or DICOM, other than \*.png'):
        find_sources(tmp_path, exclude='*.png')
    with pytest.raises(ValueError, match='at least one image, got none'):
        find_sources([])
    with pytest.raises(TypeError, match='a path, an array or a sequence of these, got int'):
        find_sources([3])


def test_one_image_is_left_to_the_pipeline_and_a_stack_is_read(tmp_path):
    picture(tmp_path / 'one.tif')
    assert read_source(*find_sources(tmp_path / 'one.tif'), ReadOptions()).images == [None]
    colour, grey = picture(tmp_path / 'x.png'), picture(tmp_path / 'y.png', 1, 'L')
    black = Image.fromarray(grey > 127)
    Image.fromarray(colour).save(
        tmp_path / 'stack.tif', save_all=True, append_images=[Image.fromarray(grey), black]
    )
    pages = read_source(*find_sources(tmp_path / 'stack.tif'), ReadOptions()).images
    np.testing.assert_array_equal(pages[0], colour)
    np.testing.assert_array_equal(pages[1], grey)
    np.testing.assert_array_equal(pages[2], 255 * (grey > 127))


def test_a_volume_is_its_slices(tmp_path):
    nibabel = pytest.importorskip('nibabel')
    voxels = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / 'x.nii.gz')
    (source,) = find_sources(tmp_path)
    case = read_source(source, ReadOptions())
    assert [image.shape for image in case.images] == [(5, 4)] * 3
    assert read_source(source, ReadOptions(plane='coronal')).volume.slices.shape == (5, 3, 4)
    shown = read_source(source, ReadOptions(window=(-1e-3, 1e-3))).volume.slices
    assert (shown[0].T[::-1, ::-1] > 127).tolist() == (voxels[..., 0] > 0).tolist()


@pytest.mark.filterwarnings('error')
def test_bad_files(tmp_path):
    picture(tmp_path / 'whole.png', size=(60, 60))
    content = (tmp_path / 'whole.png').read_bytes()
    (tmp_path / 'cut.png').write_bytes(content[: len(content) // 2])
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    Image.new('RGBA', (4, 4)).save(tmp_path / 'four.png')
    Image.new('I;16', (4, 4)).save(tmp_path / 'deep.png')
    Image.new('L', (4, 4)).save(
        tmp_path / 'stack.tif', save_all=True, append_images=[Image.new('F', (4, 4))]
    )
    Image.new('1', (20_000, 20_000)).save(tmp_path / 'bomb.png')
    for name, message in {
        'cut.png': 'unreadable image',
        'text.png': 'unreadable image .UnidentifiedImageError',
        'empty.jpg': 'unreadable image',
        'four.png': 'expected an image of mode RGB .*, got RGBA',
        'deep.png': 'expected an image of mode RGB .*, got I;16',
        'stack.tif': 'expected pages of mode RGB .* got F on page 2; scale its values',
        'bomb.png': 'unreadable image .DecompressionBombError',
    }.items():
        with pytest.raises(ValueError, match=f'{name}: {message}'):
            read_source(*find_sources(tmp_path / name), ReadOptions())
    with pytest.raises(ValueError, match='whole.png: 0.0 megapixels are more than 0.003; cut it'):
        read_source(*find_sources(tmp_path / 'whole.png'), ReadOptions(max_pixels=3000))
    assert read_source(*find_sources(tmp_path / 'whole.png'), ReadOptions(max_pixels=3600))


@pytest.mark.parametrize(
    ('pixels', 'message'),
    [
        (np.zeros((4, 4, 4), np.uint8), r'got \(4, 4, 4\) uint8; give several images as a list'),
        (np.zeros((4, 4, 3), np.float32), r'got \(4, 4, 3\) float32'),
        (np.zeros(4, np.uint8), r'got \(4,\) uint8'),
        (np.zeros((0, 4), np.uint8), r'must have pixels, got the shape \(0, 4\)'),
        (np.zeros((40, 40), np.uint8), r'an array \(40, 40\): 0.0 megapixels'),
    ],
)
def test_bad_arrays(pixels, message):
    with pytest.raises(ValueError, match=message):
        read_source(Source('x', pixels=pixels), ReadOptions(max_pixels=1000))
