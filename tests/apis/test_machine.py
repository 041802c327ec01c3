import torch

from mmkdml.apis import machine


def test_processor_has_a_name():
    assert machine.processor_name().strip()


def test_threads_are_counted(monkeypatch):
    monkeypatch.setattr(machine, 'processor_name', lambda: 'a CPU')
    for number, text in ((1, 'a CPU, 1 thread'), (4, 'a CPU, 4 threads')):
        monkeypatch.setattr(torch, 'get_num_threads', lambda number=number: number)
        assert machine.device_name(torch.device('cpu')) == text
