"""The Django project: settings, entry points, HTTP."""
