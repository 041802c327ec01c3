"""Task for encoder-decoder segmentors of mmseg."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.backbones import PIDNet
from mmseg.models.decode_heads import DAHead, DDRHead, EncHead, IterativeDecodeHead, PIDHead
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmkdml.functional.regression import Classifier
from mmkdml.models.ensembles import (
    ProbabilityEnsemble,
    max_ensemble,
    mean_ensemble,
    union_ensemble,
    vote_ensemble,
)
from mmkdml.models.heads import UNetHead
from mmkdml.models.tasks.base import Losses, Samples, Task, blank

_NO_CLASSIFIER = (
    'SRRL and SimKD are only for classification, because they use a classifier of pooled features, '
    'which a segmentor does not have. Use another method, such as FitNet or CWD'
)

#: Heads that return several outputs while they are trained, and the one that they predict from.
_PREDICTING_OUTPUT = {DAHead: 0, DDRHead: 0, EncHead: 0, IterativeDecodeHead: -1, PIDHead: 1}


class SegmentationTask(Task):
    """Segmentation with mmseg's ``EncoderDecoder``; the last head of a cascade has the logits."""

    name = 'segmentation'
    member_type = (EncoderDecoder,)
    default_input_size = (256, 256)
    default_ensemble = 'union'
    ensembles = {
        'max': max_ensemble,
        'union': union_ensemble,
        'mean': mean_ensemble,
        'vote': vote_ensemble,
    }

    def default_tap(self, member: EncoderDecoder) -> str:
        """Return the first decoder block of a U-Net, or the backbone."""
        if isinstance(member.backbone, PIDNet):  # returns other maps, too, while it is trained
            return 'backbone.dfm'
        return 'decode_head.blocks.0' if isinstance(member.decode_head, UNetHead) else 'backbone'

    def training_step(
        self, member: EncoderDecoder, inputs: Tensor, samples: Samples
    ) -> tuple[Losses, Tensor | None]:
        if not _has_plain_loss(member):
            # Segmentors and heads with other losses (mask classification, point sampling) have no
            # map of logits; their features can be transferred.
            return member.loss(inputs, samples), None
        # The steps of EncoderDecoder.loss, which does not return the logits.
        maps = member.extract_feat(inputs)
        head = last_head(member)
        if isinstance(member, CascadeEncoderDecoder):
            with _recorded_output(head) as recorded:
                losses = member._decode_head_forward_train(maps, samples)
            output = recorded[-1]
        else:
            output = head(maps)
            losses = add_prefix(head.loss_by_feat(output, samples), 'decode')
        if member.with_auxiliary_head:
            losses.update(member._auxiliary_head_forward_train(maps, samples))
        if member.out_channels == 1:
            # mmseg's accuracy is wrong for one channel, whose argmax is always 0.
            losses = {key: value for key, value in losses.items() if not key.endswith('acc_seg')}
        return losses, map_of_logits(head, output)

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
        if _has_plain_loss(member):
            return map_of_logits(last_head(member), member(inputs, mode='tensor'))
        # Only prediction runs all heads, such as mask classification and point sampling.
        size = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), tuple(inputs.shape[2:]))
        member.encode_decode(inputs, [dict(size, padding_size=[0] * 4) for _ in inputs])
        return None

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
        ensemble: ProbabilityEnsemble,
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


def last_head(member: EncoderDecoder) -> Any:
    """Return the decode head of a segmentor, the last one of a cascade."""
    head = member.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def _has_plain_loss(member: EncoderDecoder) -> bool:
    """Return whether the member's loss has the steps of mmseg's segmentors."""
    cascade = isinstance(member, CascadeEncoderDecoder)
    segmentor, head = (
        (CascadeEncoderDecoder, BaseCascadeDecodeHead)
        if cascade
        else (EncoderDecoder, BaseDecodeHead)
    )
    plain = (
        (member, EncoderDecoder, 'loss'),
        (member, segmentor, '_decode_head_forward_train'),
        (last_head(member), head, 'loss'),
    )
    return all(getattr(type(part), step, None) is getattr(base, step) for part, base, step in plain)


@contextmanager
def _recorded_output(head: Any) -> Iterator[list[Any]]:
    """Record the outputs of a head of a cascade, whose forward hooks mmseg does not call."""
    outputs: list[Any] = []
    compute_losses = head.loss_by_feat

    def record(output: Any, *args: Any, **kwargs: Any) -> Losses:
        outputs.append(output)
        return compute_losses(output, *args, **kwargs)

    head.loss_by_feat = record  # of this instance, for this block
    try:
        yield outputs
    finally:
        del head.loss_by_feat


def _threshold(member: EncoderDecoder) -> Any:
    return getattr(last_head(member), 'threshold', None)


def map_of_logits(head: nn.Module, output: Any) -> Tensor | None:
    """Return the map (N, K, h, w) that a head predicts from; None if it has none."""
    if isinstance(output, (tuple, list)) and output:
        used = [index for kind, index in _PREDICTING_OUTPUT.items() if isinstance(head, kind)]
        output = output[used[0]] if used else None
    return output if isinstance(output, Tensor) and output.ndim == 4 else None


def _probabilities(seg_logits: Tensor) -> Tensor:
    """Convert mmseg's predictions (K, H, W), which are already probabilities if K = 1."""
    return seg_logits if seg_logits.shape[0] == 1 else seg_logits.softmax(dim=0)
