"""Accounts: django-allauth's headless flows, with our own tokens."""
