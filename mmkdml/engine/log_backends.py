"""TensorBoard, Weights & Biases and MLflow, with names grouped by member.

Each run of mmkdml is one run of the service, also after it was resumed. Steps are iterations.
"""

from __future__ import annotations

import json
import logging
import math
import netrc
import os
import re
import time
from abc import abstractmethod
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend

from mmkdml.names import IDENTITY_FILE
from mmkdml.optional import require

#: Class by name in ``--log``; the name is also that of the package.
LOGS = {'tensorboard': 'TensorboardLog', 'wandb': 'WandbLog', 'mlflow': 'MLflowLog'}
# Groups of the measures of quality, whose names are clear without them.
_PLAIN_GROUPS = ('foreground', 'accuracy', 'single-label')
_OWN = ('loss', 'lr', 'base_lr', 'momentum', 'grad_norm', 'time', 'data_time', 'memory', 'epoch')


def grouped_names(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Group the values that mmengine logs in a training or validation step.

    Args:
        scalars: Values by name, such as ``student_1.loss_from_teacher.features`` of a training
            step, which has an ``iter``, or ``student_1/foreground/IoU`` of a validation.

    Returns:
        Numbers by ``student_1/loss_from_teacher/features``, ``train/lr`` and ``val/student_1/IoU``.
    """
    training = 'iter' in scalars
    named = {}
    for key, value in scalars.items():
        if key == 'iter' or isinstance(value, bool) or not isinstance(value, Real):
            continue
        name = key.replace('.', '/')
        if not training:
            member, _, rest = name.partition('/')
            group, slash, measure = rest.partition('/')
            name = f'val/{member}/{measure}' if slash and group in _PLAIN_GROUPS else f'val/{name}'
        elif name in _OWN or '/' not in name:
            name = f'train/{name}'
        named[name] = float(value)
    return named


class GroupedLog(BaseVisBackend):
    """Base class of the services; connects to one with the first values of a training.

    A test writes nothing.

    Args:
        save_dir: ``<folder of the run>/<timestamp>/vis_data``, set by mmengine's ``Visualizer``.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        #: Folder of the run.
        self.folder = Path(save_dir).parents[1]
        self._config = ''
        self._writer: Any = None

    def _init_env(self) -> None:
        """Do nothing; see :meth:`_start`."""

    @property
    def run_id(self) -> str:
        """Id of the run, which is kept when it is resumed."""
        path = self.folder / IDENTITY_FILE
        return str(json.loads(path.read_text())['id'])

    @property
    def run_name(self) -> str:
        """Name of the run: the last two parts of its folder."""
        return '/'.join(self.folder.absolute().parts[-2:])

    @property
    def experiment(self) -> Any:
        """The writer or client of the service; None before the first values."""
        return self._writer

    @abstractmethod
    def _start(self, step: int) -> Any:
        """Connect to the service, before the values of a step."""

    @abstractmethod
    def _log(self, values: Mapping[str, float], step: int) -> None:
        """Write values of a step."""

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Keep the text of the config until the first values."""
        self._config = config.pretty_text

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Write one value."""
        self._write({f'extra/{name}': float(value)}, step)

    def add_scalars(
        self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write the values of a training step or a validation, whose step is an epoch."""
        if 'iter' not in scalar_dict:
            step = int(MessageHub.get_current_instance().get_info('iter', 0)) + 1
        self._write(grouped_names(scalar_dict), step)

    def _write(self, values: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            self._writer = self._start(step)
        self._log(values, step)


@VISBACKENDS.register_module()
class TensorboardLog(GroupedLog):
    """Event files in ``tensorboard`` in the folder of the run."""

    def _start(self, step: int) -> Any:
        from mmkdml.files import own_file

        require('tensorboard', extra='logging', purpose='--log tensorboard')
        from torch.utils.tensorboard import SummaryWriter

        folder = own_file(self.folder, 'tensorboard', 'events').parent
        is_new = not any(folder.iterdir())
        # After a resume, later values of the interrupted attempt are hidden.
        writer = SummaryWriter(str(folder), purge_step=step)
        if is_new:
            writer.add_text('config', f'```python\n{self._config}\n```')
        return writer

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


@VISBACKENDS.register_module()
class WandbLog(GroupedLog):
    """A run of Weights & Biases, offline in ``wandb`` in the folder of the run without an API key.

    ``WANDB_MODE``, ``WANDB_PROJECT`` (default: ``mmkdml``) and other variables of wandb apply.
    """

    def _start(self, step: int) -> Any:
        wandb = require('wandb', extra='logging', purpose='--log wandb')
        mode = os.environ.get('WANDB_MODE') or ('online' if _has_wandb_key() else 'offline')
        run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', 'mmkdml'), dir=str(self.folder), mode=mode,
            id=self.run_id, name=self.run_name, resume='allow', config=dict(text=self._config),
            settings=wandb.Settings(silent=True, console='off'),
        )  # fmt: skip
        to = f'wandb sync {Path(run.dir).parent}' if mode == 'offline' else run.url
        MMLogger.get_current_instance().info(f'wandb ({mode}): {to}')
        run.define_metric('iter')
        run.define_metric('*', step_metric='iter')  # its own steps cannot go back on a resume
        return run

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._writer.log({**values, 'iter': step})

    def close(self) -> None:
        """Finish the run, and upload the rest if it is online."""
        if self._writer is not None:
            self._writer.finish()


@VISBACKENDS.register_module()
class MLflowLog(GroupedLog):
    """A run of MLflow, in ``mlflow`` in the folder of the run without ``MLFLOW_TRACKING_URI``.

    ``MLFLOW_EXPERIMENT_NAME`` sets the experiment (default: ``mmkdml``).
    """

    def _start(self, step: int) -> Any:
        mlflow = require('mlflow', extra='logging', purpose='--log mlflow')
        logging.getLogger('mlflow').setLevel(logging.WARNING)  # new tables of the local store
        folder = self.folder.absolute() / 'mlflow'
        uri, artifacts = os.environ.get('MLFLOW_TRACKING_URI'), None
        if uri is None:
            folder.mkdir(exist_ok=True)
            uri, artifacts = f'sqlite:///{folder}/mlflow.db', (folder / 'artifacts').as_uri()
        client = mlflow.MlflowClient(tracking_uri=uri)
        name = os.environ.get('MLFLOW_EXPERIMENT_NAME', 'mmkdml')
        experiment = client.get_experiment_by_name(name)
        number = (
            client.create_experiment(name, artifact_location=artifacts)
            if experiment is None
            else experiment.experiment_id
        )
        runs = client.search_runs([number], f"tags.`mmkdml.run` = '{self.run_id}'")
        if runs:
            self._run = runs[0].info.run_id
            client.update_run(self._run, status='RUNNING')
        else:
            tags = {'mmkdml.run': self.run_id}
            self._run = client.create_run(number, run_name=self.run_name, tags=tags).info.run_id
            client.log_text(self._run, self._config, 'config.py')
        self._metric = mlflow.entities.Metric
        self._logged: dict[str, set[int]] = {}
        return client

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self._metric(re.sub(r'[^\w\-./: ]', '_', name), value, now, step)
            for name, value in values.items()
            if math.isfinite(value)  # not supported by all stores
        ]
        # Steps that are repeated after a resume have the same values.
        if metrics and step not in self._steps(metrics[0].key):
            self._writer.log_batch(self._run, metrics=metrics)

    def _steps(self, key: str) -> set[int]:
        if key not in self._logged:
            history = self._writer.get_metric_history(self._run, key)
            self._logged[key] = {one.step for one in history}
        return self._logged[key]

    def close(self) -> None:
        """Mark the run as finished."""
        if self._writer is not None:
            self._writer.set_terminated(self._run, status='FINISHED')


def _has_wandb_key() -> bool:
    if os.environ.get('WANDB_API_KEY'):
        return True
    host = os.environ.get('WANDB_BASE_URL', 'https://api.wandb.ai').partition('://')[2]
    try:
        return netrc.netrc(os.environ.get('NETRC')).authenticators(host.strip('/')) is not None
    except (OSError, netrc.NetrcParseError):
        return False
