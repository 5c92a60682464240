"""What people give at sign-up beside e-mail and password."""

from __future__ import annotations

from django import forms
from django.http import HttpRequest

from models import limits
from models.user import User


class SignupForm(forms.Form):
    """allauth adds its own fields to these; Django's field strips and refuses what PostgreSQL cannot hold."""

    name = forms.CharField(max_length=limits.MAX_NAME_CHARACTERS)

    def signup(self, request: HttpRequest, user: User) -> None:
        """Called by allauth once the user is made."""
        user.name = self.cleaned_data["name"]
        user.save(update_fields=["name"])
