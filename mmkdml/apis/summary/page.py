"""``summary.html``: one page about a run, from the files in its folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mmkdml.apis.run.comparison import recorded_config
from mmkdml.apis.summary.confusion import read_confusion
from mmkdml.apis.summary.curves import (
    learning_rate_chart,
    loss_balance,
    loss_charts,
    validation_charts,
)
from mmkdml.apis.summary.history import History, match_transfer, read_history
from mmkdml.apis.summary.redaction import hide_secrets
from mmkdml.apis.summary.results import headline, metric_tables
from mmkdml.console import in_words
from mmkdml.files import is_regular, own_file, write_atomically
from mmkdml.html import Link, image_uri, render_page
from mmkdml.names import SPLITS

#: Name of the page in a run's folder.
SUMMARY = 'summary.html'
_TEMPLATE = Path(__file__).with_name('summary.html.j2')
_MAX_PANELS, _PANEL_SIZE, _QUALITY = 8, 960, 55
_MAX_CONFIG = 200_000


def write_summary(run: str | Path) -> Path:
    """Write ``summary.html`` to the folder of a run.

    It reads only files in the folder, so it works for finished, interrupted and running trainings,
    and for those of earlier versions. Training and testing call it.

    Args:
        run: Folder of the run.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: If ``run`` is not a folder.
        ValueError: If it has no logs, results or identity of a run.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f'{run} is not a folder; expected that of a run')
    history = read_history(run)
    if not (history.identity or history.calls or history.losses or history.evaluations):
        raise ValueError(
            f'{run}: expected the folder of a run, got one without logs, results or identity.json'
        )
    path = own_file(run, SUMMARY)
    write_atomically(path, _render(run, history).encode())
    return path


def _render(run: Path, history: History) -> str:
    config = recorded_config(run)
    folder = run.resolve()
    balance_charts, balance = loss_balance(history)
    main_chart, more_charts = validation_charts(history)
    context = dict(
        folder=f'{folder.parent.name}/{folder.name}',
        headline=headline(history),
        status=_status(history),
        duration=_duration(history),
        tables=metric_tables(history),
        main_chart=main_chart,
        more_charts=more_charts,
        loss_charts=loss_charts(history),
        lr_chart=learning_rate_chart(history),
        balance_charts=balance_charts,
        balance=balance,
        members=_members(history),
        transfers=_transfers(history),
        record=history.last_training or next(iter(history.calls), {}),
        seed=history.seed,
        data=_data(history),
        confusion=read_confusion(run),
        panels=list(_pictures(run / 'panels', _MAX_PANELS)),
        reliability=list(_pictures(run / 'calibration', 1)),
        calls=[{**one, 'time': _time(one)} for one in history.calls],
        config=_config_text(config),
        config_name=config.name if config else '',
    )
    sections = [
        ('results', 'Results', bool(context['tables'])),
        ('confusion', 'Confusion matrix', bool(context['confusion'])),
        ('curves', 'Curves', bool(main_chart or context['loss_charts'])),
        ('balance', 'Loss balance', bool(balance)),
        ('trained', 'What was trained', True),
        ('panels', 'Panels', bool(context['panels'])),
        ('reliability', 'Reliability', bool(context['reliability'])),
        ('data', 'Data', bool(context['data'])),
        ('environment', 'Environment', bool(context['record'])),
        ('command', 'Command and config', True),
    ]
    contents = [Link(anchor, title) for anchor, title, is_there in sections if is_there]
    title = config.stem if config else folder.name
    return render_page(_TEMPLATE, f'Run {title}', contents, **context)


def _status(history: History) -> dict[str, str]:
    """Describe how far the training came: ``label``, ``kind`` of badge, ``text``."""
    record = history.last_training
    settings = history.identity.get('settings')
    loop = settings.get('train_cfg') if isinstance(settings, Mapping) else None
    loop = loop if isinstance(loop, Mapping) else {}
    by_epoch = record.get('by_epoch', history.by_epoch)
    unit = 'epochs' if by_epoch else 'iterations'
    last = max((points[-1][0] for points in history.losses.values()), default=0.0)
    # The last log may be later than the last completed epoch of a process that was killed.
    limit = 'max_epochs' if by_epoch else 'max_iters'
    done, end = math.floor(last + 1e-9), record.get(limit, loop.get(limit))
    if record.get('status') != 'running':
        done = record.get('epoch' if by_epoch else 'iter', done)
    progress = f'{done:,} of {end:,} {unit}' if isinstance(end, int) else f'{done:,} {unit}'
    if record.get('status') == 'stopped' and by_epoch and record.get('iter'):
        progress += f' (iteration {record["iter"]:,})'
    resumed = max(0, history.trainings - 1)
    again = f', resumed {resumed} time{"s" * (resumed > 1)}' if resumed else ''
    is_done = isinstance(end, int) and done >= end
    status = record.get('status') or ('finished' if is_done else 'running')
    label, kind = {
        'finished': ('finished', 'good'),
        'stopped': ('interrupted', 'bad'),
        'failed': ('failed', 'bad'),
    }.get(str(status), ('not finished', 'neutral'))
    text = f'{progress}{again}'
    if not history.trainings:
        label, kind, text = 'tested only', 'neutral', 'the folder has no training'
    elif record.get('status') == 'running':
        text += '; the training is running, or was killed'
    elif record.get('status') == 'stopped':
        text += '; --resume continues it'
    return dict(label=label, kind=kind, text=text, error=str(record.get('error') or ''))


def _seconds(call: Mapping[str, Any]) -> float:
    try:
        start, end = (datetime.fromisoformat(str(call[key])) for key in ('start', 'end'))
        return (end - start).total_seconds()
    except (KeyError, ValueError, TypeError):
        return math.nan


def _time(call: Mapping[str, Any]) -> str:
    seconds = _seconds(call)
    return in_words(seconds) if math.isfinite(seconds) else ''


def _duration(history: History) -> str:
    """Return the time of all trainings; those that were killed count until they were recorded."""
    times = [_seconds(one) for one in history.calls if one.get('kind') == 'train']
    known = [one for one in times if math.isfinite(one)]
    return in_words(sum(known)) if known else ''


def _members(history: History) -> list[dict[str, Any]]:
    for call in reversed(history.calls):
        if call.get('members'):
            return list(call['members'])
    return [dict(name=name, network='', parameters=None, trained=None) for name in history.members]


def _transfers(history: History) -> list[dict[str, Any]]:
    for call in reversed(history.calls):
        if call.get('transfers'):
            return list(call['transfers'])
    found = [match for key in history.losses if (match := match_transfer(key))]
    return [dict(match.groupdict(), weight='', loss='', more='') for match in found]


def _data(history: History) -> list[dict[str, Any]]:
    """Return a row per split: counts, and the SHA-256 of its file."""
    settings = history.identity.get('settings')
    digests = settings.get('data') if isinstance(settings, Mapping) else None
    record: dict[str, Any] = {}
    for call in history.calls:  # a test may have other options than the training
        known = {'test'} if record and call.get('kind') == 'test' else set(SPLITS)
        record |= {key: one for key, one in (call.get('data') or {}).items() if key in known}
    classes = next((one['classes'] for one in history.calls if one.get('classes')), None)
    has_masks = any(one.get('task') == 'segmentation' for one in history.calls)
    rows = []
    for part in SPLITS:
        one = dict(record.get(part) or {})
        digest = digests.get(part) if isinstance(digests, Mapping) else None
        digest = digest or history.digests.get(part)
        if one or digest:
            labels = {int(key): count for key, count in (one.pop('labels', None) or {}).items()}
            # In split files of masks, a label is 1 if the mask has foreground.
            names = ['without foreground', 'with foreground'] if has_masks else classes
            named = [
                (str(names[key]) if names and key < len(names) else str(key), count)
                for key, count in sorted(labels.items())
            ] + sorted((one.pop('names', None) or {}).items())
            rows.append(dict(part=part, sha256=str(digest or ''), labels=named, **one))
    return rows


def _pictures(folder: Path, limit: int) -> Iterator[tuple[str, str]]:
    """Yield caption and content of pictures in a folder; invalid ones are skipped."""
    files = [path for path in sorted(folder.glob('*.png')) if is_regular(path)]
    single = [path for path in files if path.name[:2].isdigit()]
    for path in (single or files)[:limit]:
        try:
            uri = image_uri(path, _PANEL_SIZE, _QUALITY)
        except ValueError:
            continue
        yield path.stem.partition('_')[2] if path in single else path.stem, uri


def _config_text(path: Path | None) -> str:
    if path is None or not is_regular(path):
        return ''
    text = hide_secrets(path.read_text(encoding='utf-8', errors='replace'))
    return text if len(text) <= _MAX_CONFIG else text[:_MAX_CONFIG] + '\n...'
