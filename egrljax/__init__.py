"""EGRL (Khadka et al. 2021): evolution, graph policies and a critic map tensors to memories."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names of __init__.pyi
