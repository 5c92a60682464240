"""Who carries a push; one file per provider behind the interface in ``base``."""
