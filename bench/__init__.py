"""Measurements, beside the peers that people would otherwise use; ``python -m bench`` runs them all."""
