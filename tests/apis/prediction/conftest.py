"""DICOM files to predict, and a detector of rectangles."""

from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData


@pytest.fixture(scope='session')
def write_slice():
    """Return a function that writes a sagittal slice: rows go to the back, columns to the feet."""
    pydicom = pytest.importorskip('pydicom')

    def write(path, pixels, position=(0, 0, 0), syntax='1.2.840.10008.1.2.1', **changes):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = syntax = pydicom.uid.UID(syntax)
        values = dict(
            SOPClassUID=pydicom.uid.CTImageStorage,
            SOPInstanceUID=pydicom.uid.generate_uid(),
            SeriesInstanceUID='1.2.3',
            ImagePositionPatient=list(position),
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            PixelSpacing=[3, 2],
            SliceThickness=5,
            Rows=pixels.shape[0],
            Columns=pixels.shape[1],
            SamplesPerPixel=1,
            PhotometricInterpretation='MONOCHROME2',
            BitsAllocated=16,
            BitsStored=16,
            HighBit=15,
            PixelRepresentation=1,
            RescaleSlope=2,
            RescaleIntercept=-100,
            PixelData=np.asarray(pixels).astype('<i2').tobytes(),
        )
        for key, value in {**values, **changes}.items():
            if value is not None:
                setattr(one, key, value)
        one['PixelData'].VR = 'OB' if syntax.is_encapsulated else 'OW'
        one.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def box_predictor(detector):
    """Return a function that builds a predictor of the rectangles in black images.

    Gray rectangles are of class 0, red ones of class 1. Only the boxes of mmdet's network are
    replaced: the test pipeline, the preprocessing and the metainfo are real.
    """
    from mmdet.datasets.transforms import PackDetInputs, Pad, Resize

    from mmkdml.apis.prediction.predictor import Predictor
    from mmkdml.datasets import LoadCheckedImage
    from mmkdml.registry import MODELS

    def find(inputs, samples, scores=(0.75, 0.5), **kwargs):
        for image, sample in zip(inputs, samples, strict=True):
            own = dict(bboxes=[], labels=[], scores=[])
            red, green = image[0] > 127, image[1] > 127
            for label, region in enumerate((green, red & ~green)):
                rows, columns = (region.any(axis).nonzero() for axis in (1, 0))
                if not len(rows):
                    continue
                box = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                own['bboxes'].append(box / torch.tensor(sample.scale_factor * 2))
                own['labels'].append(label)
                own['scores'].append(scores[label])
            boxes = torch.stack(own['bboxes']) if own['bboxes'] else torch.zeros(0, 4)
            sample.pred_instances = InstanceData(
                bboxes=boxes, labels=torch.tensor(own['labels']).long(),
                scores=torch.tensor(own['scores']).float(),
            )  # fmt: skip
        return samples

    def build(scale=(400, 200), pad=None, classroom=False, classes=('cell', '=dot')):
        network = detector('atss', num_classes=2)
        network.predict = find
        model = network
        if classroom:
            model = MODELS.build(
                dict(
                    type='mmkdml.KnowledgeDistiller',
                    members=dict(student_1=network, student_2=detector('atss', 2, seed=1)),
                    transfers=[],
                    input_size=(64, 64),
                )
            )
            model.members['student_1'].predict = find
            model.members['student_2'].predict = partial(find, scores=(0.25, 0.5))
        preprocessor = dict(type='mmdet.DetDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3)
        model.data_preprocessor = MODELS.build(dict(preprocessor, bgr_to_rgb=True))
        pipeline = [
            dict(type=LoadCheckedImage),
            dict(type=Resize, scale=scale, keep_ratio=True),
            *([dict(type=Pad, size=pad)] if pad else []),
            dict(type=PackDetInputs),
        ]
        config = Config(dict(test_pipeline=pipeline))
        return Predictor(model.eval(), config, classes)

    return build


@pytest.fixture
def rectangles():
    """Return a function that makes an image (H, W, 3) with gray and red rectangles."""

    def make(height, width, gray=None, red=None):
        image = np.zeros((height, width, 3), np.uint8)
        for box, color in ((gray, 255), (red, (255, 0, 0))):
            if box:
                x1, y1, x2, y2 = box
                image[y1:y2, x1:x2] = color
        return image

    return make
