"""Task for encoder-decoder segmentors of mmseg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmkdml.functional.regression import Classifier
from mmkdml.models.ensembles import Ensemble
from mmkdml.models.heads import UNetHead
from mmkdml.models.tasks.base import Losses, Samples, Task, blank

_NO_CLASSIFIER = (
    'SRRL and SimKD are only for classification, because they use a classifier of pooled features, '
    'which a segmentor does not have. Use another method, such as FitNet or CWD'
)


class SegmentationTask(Task):
    """Segmentation with mmseg's ``EncoderDecoder``."""

    name = 'segmentation'
    member_type = EncoderDecoder
    default_input_size = (256, 256)
    default_ensemble = 'union'
    ensembles = ('max', 'union', 'mean', 'vote')

    def default_tap(self, member: EncoderDecoder) -> str:
        """Return the first decoder block of a U-Net, or the backbone."""
        return 'decode_head.blocks.0' if isinstance(member.decode_head, UNetHead) else 'backbone'

    def training_step(
        self, member: EncoderDecoder, inputs: Tensor, samples: Samples
    ) -> tuple[Losses, Tensor | None]:
        if not _has_plain_loss(member):
            # Segmentors and heads with other losses (mask classification, point sampling) have no
            # map of logits; their features can be transferred.
            return member.loss(inputs, samples), None
        head = member.decode_head
        # The steps of EncoderDecoder.loss, which does not return the logits.
        maps = member.extract_feat(inputs)
        output = head(maps)
        losses = add_prefix(head.loss_by_feat(output, samples), 'decode')
        if member.with_auxiliary_head:
            losses.update(member._auxiliary_head_forward_train(maps, samples))
        if member.out_channels == 1:
            # mmseg's accuracy is wrong for one channel, whose argmax is always 0.
            losses = {key: value for key, value in losses.items() if not key.endswith('acc_seg')}
        return losses, _map_of_logits(output)

    def truth(self, samples: Samples) -> Tensor:
        if not all('gt_sem_seg' in sample for sample in samples):
            raise ValueError(
                'Invalid samples: expected a mask (gt_sem_seg) each, which the loss needs'
            )
        return torch.cat([sample.gt_sem_seg.data for sample in samples]).long()

    def num_classes(self, member: EncoderDecoder) -> int:
        return max(member.num_classes, 2)

    def classifier(self, member: EncoderDecoder) -> Classifier:
        raise ValueError(_NO_CLASSIFIER)

    def reuse_classifier(self, learner: EncoderDecoder, source: EncoderDecoder) -> None:
        raise ValueError(_NO_CLASSIFIER)

    def logits(self, member: EncoderDecoder, inputs: Tensor) -> Tensor | None:
        output = member(inputs, mode='tensor')
        return _map_of_logits(output) if _has_plain_loss(member) else None

    def predict(self, member: EncoderDecoder, inputs: Tensor, samples: Samples | None) -> Samples:
        return member.predict(inputs, blank(samples))

    def check_students(self, students: Mapping[str, nn.Module]) -> None:
        kinds = {
            name: (student.out_channels, _threshold(student)) for name, student in students.items()
        }
        if len(set(kinds.values())) > 1:
            raise ValueError(
                'Invalid ensemble: expected students with the same out_channels and threshold, got '
                + ', '.join(
                    f'{name} {channels}, {threshold}'
                    for name, (channels, threshold) in kinds.items()
                )
            )

    def combine(
        self,
        students: Sequence[nn.Module],
        predictions: Sequence[Samples],
        ensemble: Ensemble,
        samples: Samples | None,
    ) -> Samples:
        threshold = _threshold(students[0])
        samples = samples or [SegDataSample() for _ in predictions[0]]
        # One by one, because the original sizes of the images can differ.
        for index, sample in enumerate(samples):
            probabilities = torch.stack(
                [_probabilities(batch[index].seg_logits.data) for batch in predictions]
            )
            scores, labels = ensemble(probabilities.unsqueeze(1), threshold)
            sample.set_data(
                dict(seg_logits=PixelData(data=scores[0]), pred_sem_seg=PixelData(data=labels))
            )
        return samples

    def dummy_samples(self, number: int, input_size: Sequence[int]) -> Samples:
        size = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), tuple(input_size))
        return [
            SegDataSample(
                metainfo=size, gt_sem_seg=PixelData(data=torch.randint(2, (1, *input_size)))
            )
            for _ in range(number)
        ]


def _has_plain_loss(member: EncoderDecoder) -> bool:
    """Return whether the member's loss has the steps of ``EncoderDecoder.loss``."""
    plain = (
        (member, EncoderDecoder, 'loss'),
        (member, EncoderDecoder, '_decode_head_forward_train'),
        (member.decode_head, BaseDecodeHead, 'loss'),
    )
    return all(getattr(type(part), step, None) is getattr(base, step) for part, base, step in plain)


def _threshold(member: EncoderDecoder) -> Any:
    head = member.decode_head  # several heads in a cascade, of which the last one counts
    return getattr(head[-1] if isinstance(head, nn.ModuleList) else head, 'threshold', None)


def _map_of_logits(output: Any) -> Tensor | None:
    """Return the output of a head if it is a single map (N, K, h, w), else None."""
    return output if isinstance(output, Tensor) and output.ndim == 4 else None


def _probabilities(seg_logits: Tensor) -> Tensor:
    """Convert mmseg's predictions (K, H, W), which are already probabilities if K = 1."""
    return seg_logits if seg_logits.shape[0] == 1 else seg_logits.softmax(dim=0)
