"""probedistill: a labelled image dataset → one synthetic image per class for linear probes on frozen encoders.

The public API is the list in ``__init__.pyi``; everything with a leading underscore may change without notice. A name's
module, and with it PyTorch, is imported when the name is first used; other modules are imported by their names.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
