"""What people give at sign-up beside e-mail and password."""

from __future__ import annotations

from django import forms
from django.http import HttpRequest

from models import limits
from models.user import User


class SignupForm(forms.Form):
    """What a person gives beside e-mail and password."""

    name = forms.CharField(max_length=limits.MAX_NAME_CHARACTERS, required=False)

    def signup(self, request: HttpRequest, user: User) -> None:
        """Called by allauth once the user is made."""
        assert user.email
        user.name = self.cleaned_data["name"].strip() or user.email.partition("@")[0]
        user.save(update_fields=["name"])
