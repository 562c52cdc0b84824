"""IAL-CMS, distributed: picture-guided separation of instrument sounds, trained without labels on many ranks."""

__version__ = "0.1.0"
