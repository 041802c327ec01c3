"""The command ``mmkdml`` as ``python -m mmkdml``, e.g. for torchrun."""

from mmkdml.commands import main

if __name__ == '__main__':
    main()
