"""Accounts made by the operator: demo people, superusers, imports. What the sign-up does, without its mails."""

from __future__ import annotations

from allauth.account.models import EmailAddress
from django.db import transaction

from models.user import User


@transaction.atomic
def create(*, email: str, password: str, name: str) -> User:
    """Make an account whose address counts as verified, so that it can log in at once."""
    user = User.objects.create_user(email, password, name=name)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    return user
