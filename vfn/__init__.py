"""VirFluoNet: virtual fluorescence staining, and how far a predicted stain can be trusted."""

import os

# albumentations 2.0.8 calls home when imported unless this is set; it must come before the first import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
