"""The app's configuration; its label was fixed before the first migration and never changes."""

from django.apps import AppConfig


class MessagingConfig(AppConfig):
    name = "models"
    label = "messaging"
    verbose_name = "Messaging"
    default_auto_field = "django.db.models.BigAutoField"
