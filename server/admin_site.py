"""The admin's door: what Django's does, held to the rules that accounts have."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import get_adapter
from django.contrib.admin import AdminSite
from django.contrib.admin.forms import AdminAuthenticationForm
from django.http import HttpRequest
from django.http.response import HttpResponseBase, HttpResponseRedirect

from models.operations import sessions
from models.user import User


class LoginForm(AdminAuthenticationForm):
    """The log-in, by allauth's adapter, which limits how often somebody may try."""

    def clean(self) -> dict[str, Any]:
        email, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if email and password:
            self.user_cache = get_adapter(self.request).authenticate(self.request, email=email, password=password)
            if self.user_cache is None:
                raise self.get_invalid_login_error()
            self.confirm_login_allowed(self.user_cache)
        return self.cleaned_data


class Site(AdminSite):
    """The admin."""

    site_header = site_title = "Roost"
    login_form = LoginForm

    # The stubs know only of the page, not of the redirect.
    def password_change(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """Change one's password; as everywhere, that logs the apps out."""
        response = super().password_change(request, extra_context)
        if isinstance(response, HttpResponseRedirect) and isinstance(request.user, User):
            sessions.revoke_all(actor=request.user.id)
        return response
