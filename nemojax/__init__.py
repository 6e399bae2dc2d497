"""NEMO (Miret et al. 2022): multi-objective search of mixed-precision bit-widths."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names of __init__.pyi
