"""Few-shot learning: episodes by the thousand, and classifiers of classes that were seen a few times."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names of __init__.pyi
