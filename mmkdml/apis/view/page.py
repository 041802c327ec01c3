"""The viewer's page, built with Gradio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from types import ModuleType
from typing import Any

import numpy as np

from mmkdml.analysis.hard_cases import DISAGREEMENT, WORST
from mmkdml.apis.prediction.box_outputs import class_names
from mmkdml.apis.prediction.predictor import Predictor
from mmkdml.apis.view.hardness import case_row, hardest_first
from mmkdml.apis.view.slices import CaseCache, unpack
from mmkdml.apis.view.sources import Cases
from mmkdml.apis.view.tiles import LAYERS, MEASURES, Display, render
from mmkdml.models.distillers import KnowledgeDistiller

CSS = """
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr));
  gap: .6rem; }
.tiles figure { margin: 0; }
.tiles img { width: 100%; max-height: 75vh; object-fit: contain; display: block;
  background: #000; }
.tiles figcaption { font-size: .8rem; padding-top: .15rem; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; align-items: center; }
.legend span { display: inline-flex; align-items: center; gap: .35rem; margin: .6rem 1rem 0 0; }
.legend i { min-width: 1rem; height: 1rem; border: 1px solid #000; }
.scores { border-collapse: collapse; margin-top: .8rem; }
.scores th, .scores td { padding: .25rem .7rem; text-align: right; }
.scores td { background: linear-gradient(to right, #56b4e966 var(--share), transparent 0); }
.failure { padding: 1rem; border-left: 4px solid #d55e00; overflow-wrap: anywhere; }
#controls { gap: .5rem; }
#controls .block { padding: .3rem .6rem; }
footer { display: none !important; }
"""
_NEXT = {False: 'Next', True: 'Next hard case'}
_ORDERS = {
    'original': '',
    'disagreement of the students': DISAGREEMENT,
    'error of the ensemble': WORST,
}


class Page:
    """Cases with their predictions, as the page displays them.

    Args:
        predictor: The run.
        cases: Its cases.
    """

    def __init__(self, predictor: Predictor, cases: Cases) -> None:
        model = predictor.model
        self._students = model.student_names if isinstance(model, KnowledgeDistiller) else ()
        self._cases = cases
        self._cache = CaseCache(cases.load)
        self._rows: dict[str, Any] = {}
        self._orders: dict[str, list[str]] = {'': list(cases.groups)}
        self.members, self.task = predictor.members, predictor.task
        self.classes = class_names(predictor)

    @property
    def names(self) -> list[str]:
        """Names of the cases in their original order."""
        return self._orders['']

    @property
    def orders(self) -> dict[str, str]:
        """Possible orders of the cases by label."""
        impossible = {DISAGREEMENT} if len(self._students) < 2 else set()
        impossible |= set() if self._cases.has_truth else {WORST}
        return {label: by for label, by in _ORDERS.items() if by not in impossible}

    def open(self, name: str) -> tuple[int, int]:
        """Predict a case unless it is cached.

        Returns:
            The number of its slices, and the index of the one with the most foreground of the
            ensemble.

        Raises:
            OSError: If a file is unreadable.
            ValueError: If the case is unreadable.
        """
        slices = self._cache.get(name)
        if len(slices) == 1:
            return 1, 0
        sizes = [np.count_nonzero([*unpack(one).answers.values()][-1].label) for one in slices]
        return len(slices), int(np.argmax(sizes)) if any(sizes) else len(slices) // 2

    def draw(self, name: str, index: int, display: Display) -> str:
        """Return a slice as HTML; see :func:`mmkdml.apis.view.tiles.render`."""
        slices = self._cache.get(name)
        return render(unpack(slices[min(index, len(slices) - 1)]), display, self.classes)

    def step(self, name: str, by: str, step: int, progress: Any = iter) -> tuple[str, str]:
        """Return the next case in an order, after the last one the first, and its description.

        Args:
            name: The current case.
            by: One of the values of :attr:`orders`.
            step: 1, or -1 for the previous case; 0 for the first one.
            progress: See :func:`mmkdml.apis.view.hardness.hardest_first`.

        Raises:
            ValueError: If no case can be predicted.
        """
        failed: dict[str, str] = {}
        if by not in self._orders:
            self._orders[by], failed = hardest_first(self.names, self._row, by, progress)
        order = self._orders[by]
        place = (order.index(name) + step) % len(order) if step and name in order else 0
        note = f'Case {place + 1} of {len(order)}'
        if failed:
            note += f'; {len(failed)} failed: ' + '; '.join(failed.values())
        return order[place], note

    def _row(self, name: str) -> dict[str, Any]:
        if name not in self._rows:
            views = list(map(unpack, self._cache.get(name)))
            self._rows[name] = case_row(name, self._cases.groups[name], views, self._students)
        return self._rows[name]


def build(gradio: ModuleType, page: Page, title: str) -> Any:
    """Return the page as Gradio's blocks, without any component that uploads.

    Args:
        gradio: The module.
        page: The cases.
        title: Title of the page.
    """
    gr, masks, boxes = gradio, page.task == 'segmentation', page.task == 'detection'
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as blocks, gr.Row():
        with gr.Column(scale=0, min_width=310, elem_id='controls'):
            case = gr.Dropdown(page.names, value=page.names[0], label='Case', elem_id='case')
            order = gr.Dropdown(
                list(page.orders.items()),
                value='',
                label='Order of the cases',
                visible=len(page.orders) > 1,
                elem_id='order',
            )
            with gr.Row():
                previous = gr.Button('Previous', size='sm', min_width=80)
                following = gr.Button(_NEXT[False], size='sm', min_width=80, elem_id='next')
            index = gr.Slider(1, 2, 1, step=1, label='Slice', visible=False, elem_id='slice')
            members = gr.CheckboxGroup(
                list(page.members), value=list(page.members), label='Members', elem_id='members'
            )
            layer = gr.Radio(LAYERS, value=LAYERS[0], label='Show', visible=masks, elem_id='layer')
            target = gr.Dropdown(
                [(name, number) for number, name in enumerate(page.classes)],
                value=min(1, len(page.classes) - 1),
                label='Class of the heat map',
                visible=masks and len(page.classes) > 2,
                elem_id='target',
            )
            measure = gr.Radio(
                MEASURES, value=MEASURES[0], label='Disagreement', visible=masks, elem_id='measure'
            )
            opacity = gr.Slider(
                0, 1, 0.5, step=0.05, label='Opacity', visible=masks, elem_id='opacity'
            )
            score = gr.Slider(
                0, 1, 0.3, step=0.05, label='Lowest score', visible=boxes, elem_id='score'
            )
            center = gr.Slider(0, 255, 127.5, step=0.5, label='Window center', elem_id='center')
            width = gr.Slider(1, 255, 255, step=1, label='Window width', elem_id='width')
        with gr.Column(scale=1, min_width=480):
            note = gr.Markdown(title, elem_id='note')
            output = gr.HTML(elem_id='output')

    settings = [members, layer, measure, target, opacity, center, width, score]

    def draw(name: str, number: int, *values: Any) -> str:
        try:
            return page.draw(name, int(number) - 1, _display(values))
        except (OSError, ValueError) as error:
            return _failure(error)

    def show(name: str, *values: Any) -> tuple[Any, str]:
        try:
            number, first = page.open(name)
        except (OSError, ValueError) as error:
            return gr.Slider(visible=False), _failure(error)
        several = number > 1
        slider = gr.Slider(1, max(number, 2), first + 1, step=1, visible=several)
        return slider, draw(name, first + 1, *values)

    tracker = gr.Progress()

    def mover(step: int) -> Callable[..., tuple[str, str, Any]]:
        def move(name: str, by: str, progress: Any = tracker) -> tuple[str, str, Any]:
            try:
                track = partial(progress.tqdm, desc='Predicting')
                return (*page.step(name, by, step, track), gr.Button(_NEXT[bool(by)]))
            except (OSError, ValueError) as error:
                raise gr.Error(str(error), duration=None) from error

        return move

    with blocks:
        quick = dict(show_progress='hidden', trigger_mode='always_last', api_visibility='private')
        slow = dict(show_progress_on=[output], api_visibility='private')
        gr.on([blocks.load, case.change], show, [case, *settings], [index, output], **slow)
        for one in (index, *settings):
            one.input(draw, [case, index, *settings], output, **quick)
        for trigger, step in ((following.click, 1), (previous.click, -1), (order.input, 0)):
            trigger(mover(step), [case, order], [case, note, following], **slow)
    return blocks


def _display(values: Sequence[Any]) -> Display:
    """Return the settings of the page, whose values come from the browser."""
    members, layer, measure, target, opacity, center, width, score = values
    display = Display(members, layer, measure, int(target))
    return replace(display, opacity=opacity, center=center, width=max(width, 1), score=score)


def _failure(error: Exception) -> str:
    return f'<div class="failure">{escape(str(error))}</div>'
