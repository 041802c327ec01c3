"""mmkdml comes first: importing it makes torchvision importable beside a CPU build of torch."""

import mmkdml  # noqa: F401
